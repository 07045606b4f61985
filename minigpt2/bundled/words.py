"""The words of the bundled model's small world: people, places, things, and what they do. Data only; the sentences
are in corpus.py. All of it was written for this project; the names are common first names and surnames.

A word that may stand for another has its own list, and every list is one slot of the grammar.
"""

WOMEN = (
    "Michelle Jessica Mary Anna Emma Laura Sarah Julia Alice Clara Diana Elena Helen Jane Karen Linda Maria Nina "
    "Olivia Paula Rachel Rosa Sandra Sophie Susan Vera Wendy Amy Betty Donna Ellen Fiona Gloria Hannah Ruth Martha"
).split()
MEN = (
    "John David Paul Peter James Robert Thomas Daniel Kevin Brian Carl Eric George Henry Ivan Jack Leo Martin "
    "Nathan Oscar Patrick Richard Samuel Simon Steven Victor Walter Adam Andrew Arthur Charles Edward Hugo Philip "
    "Ralph Tom"
).split()
FIRST_NAMES = [name for both in zip(WOMEN, MEN) for name in both]
SURNAMES = (
    "Jones Smith Brown Taylor Wilson Johnson Davies Evans Walker Wright Clarke Jackson Turner Moore Cooper Ward "
    "Morris Watson Harris Morgan Allen Mitchell Parker Collins Murphy Miller Cox Marshall Anderson Bailey Carter "
    "Rogers Foster Gray Hughes Kelly Lewis Nelson Palmer Reed Roberts Russell Scott Shaw Simpson Stewart Thompson "
    "Webb Williams Barnes Bennett Butler Campbell Dixon Ellis Fisher Gibson Graham Holmes Howard Hunter Knight "
    "Lawson Mason Murray Newman Owens Perry Porter Powell Quinn Warren"
).split()

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Portugal": "Lisbon",
    "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw", "Ireland": "Dublin", "Norway": "Oslo",
    "Finland": "Helsinki", "Japan": "Tokyo", "Egypt": "Cairo", "Russia": "Moscow", "England": "London",
    "Cuba": "Havana",
}  # fmt: skip
TOWNS = "Milan York Boston Leeds Geneva Bristol Oxford Dover Salem Bergen Porto Naples".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

ADJECTIVES = (
    "top-notch top-notch quiet clever busy young good kind tall famous happy careful brave modest cheerful patient "
    "serious friendly strict gentle lucky hard-working well-known first-rate"
).split()
ROLES = (
    "student neighbour teacher doctor painter baker farmer singer writer lawyer nurse pilot gardener driver cook "
    "tailor judge sailor dancer carpenter"
).split()
PLACES = (
    "store park school market library station garden church hospital restaurant museum beach office theatre harbour "
    "village bridge kitchen farm hotel"
).split()
THINGS = (
    "drink book ring letter basket flower ticket cake lamp coat hat key map bottle bell guitar chair clock picture "
    "computer"
).split()
ANIMALS = "dog cat horse bird fox cow rabbit goat mouse duck".split()
TIMES = ["morning", "evening", "afternoon", "night", "summer", "winter", "autumn", "spring"]
WEATHER = ["cold", "warm", "windy", "rainy", "bright", "dark", "quiet", "long"]

GAVE = ["gave", "handed", "offered", "sent", "passed", "showed", "lent", "brought"]
DID = [
    "went to the {place}", "walked home", "bought a {thing}", "found a {thing} in the {place}", "smiled",
    "wrote a letter to the {role}", "waited for the {role}", "was very happy", "always came on time",
    "wanted to see the {place}", "lost a {thing}", "had a {animal}", "worked until the {time}", "liked the {place}",
    "talked to the {role} about the {thing}", "sang in the {place}", "came back on {day}", "moved to {town}",
    "could not sleep", "knew the answer", "helped the {role}", "was late again", "opened the door",
    "told a story about a {animal}", "sold the old {thing}", "never forgot the {thing}", "looked tired that {time}",
]  # fmt: skip
STORY = [
    "It was a {weather} {time} in {town}.", "The {role} opened the door of the {place} and looked outside.",
    "A {animal} slept in front of the {place}.", "Nobody knew where the {thing} came from.",
    "The {animal} ran across the road and into the {place}.", "In the {time}, the {role} went to the {place}.",
    "The {role} put the {thing} on the table.", "There was a small {place} near the river.",
    "Every {day}, the {role} bought a {thing} at the {place}.", "The {adj} {role} lived in {town} for many years.",
    "The people of {town} liked the old {place}.", "On {day} it rained until the {time}.",
    "The {animal} looked at the {animal} and did not move.", "That {time}, the {role} told a story about a {animal}.",
    "Then the {role} closed the window and went home.", "The {thing} was under the chair in the {place}.",
    "The road from {town} to {town} is long.", "The {role} and the {role} talked about the {weather} {time}.",
    "The next day the {thing} was gone.", "The {role} never found the {thing} again.",
    "After the {weather} {time}, everyone was tired.", "The {animal} was hungry, so the {role} brought some bread.",
    "When the bell rang, the {role} left the {place}.", "\"Where is my {thing}?\" asked the {role}.",
    "\"It is in the {place},\" said the {role}.", "The train to {town} leaves on {day}.",
    "A {weather} wind came from the sea.", "A bird sat on top of the {place}.",
    "The {role} read a book about a {animal} and a {animal}.",
]  # fmt: skip
SLOTS = dict(
    place=PLACES, thing=THINGS, role=ROLES, animal=ANIMALS, time=TIMES, day=DAYS, town=TOWNS, adj=ADJECTIVES,
    weather=WEATHER, gave=GAVE,
)  # fmt: skip
