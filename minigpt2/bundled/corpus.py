"""The text that the bundled model was trained on: a grammar that writes documents, and what it never writes.

A document is text in which "|" stands before every word that the words before it determine (the answers):
"Anna Reed was a cook. Anna| Reed smiled." Four kinds of documents, recall, indirect_object, fact and story, and
induction, which writes random tokens.

Held out, so that a score measures a rule and not a memory (held_out_* below; the same functions write the training
texts, which avoid these, and the test texts, which consist of them):
- one in ten full names, and Michelle and Jessica with Jones and Smith: the two words never stand side by side;
- one in ten pairs of first names, and Mary with John: never in one indirect-object text;
- one in ten ordered pairs of tokens: never side by side in repeated random tokens;
- every capital in one of the ways to state it: never stated that way.

Read next: bpe.py (text to tokens), batches.py, train.py.
"""

from dataclasses import dataclass

from .words import CAPITALS, DID, FIRST_NAMES, SLOTS, STORY, SURNAMES, WOMEN

MARK = "|"
EXAMPLE = "{first} {last} was a top-notch student. {first}| {last}"


def held_out_name(first, last):
    """Is this full name kept out of the training texts?"""
    if first in ("Michelle", "Jessica") and last in ("Jones", "Smith"):
        return True
    return (FIRST_NAMES.index(first) + SURNAMES.index(last)) % 10 == 5


def held_out_pair(a, b):
    """Are these two first names, in either order, kept out of the training's indirect-object texts?"""
    if {a, b} == {"Mary", "John"}:
        return True
    return a != b and (FIRST_NAMES.index(a) + FIRST_NAMES.index(b)) % 10 == 5


def held_out_bigram(a, b):
    """Is token b kept from standing behind token a in the training's repeated random tokens?"""
    return (7 * a + 3 * b) % 10 == 5


def held_out_fact(country, wording):
    """Is this capital never stated in this wording (an index into CAPITAL_WORDINGS)?"""
    return (list(CAPITALS).index(country) + wording) % len(CAPITAL_WORDINGS) == 0


def fill(rng, template):
    """Put a random word of its list into every {slot}."""
    pieces = template.split("{")
    text = pieces[0]
    for piece in pieces[1:]:
        slot, rest = piece.split("}", 1)
        text += rng.choice(SLOTS[slot]) + rest
    return text


@dataclass
class Person:
    first: str
    last: str = ""  # no surname: a person whom the text calls by the first name only

    @property
    def she(self):
        return "She" if self.first in WOMEN else "He"


def cast(rng, n, held_out=False):
    """n people with different first names and different surnames, all held out or none."""
    people = []
    while len(people) < n:
        first, last = rng.choice(FIRST_NAMES), rng.choice(SURNAMES)
        known = any(first == p.first or last == p.last for p in people)
        if held_out_name(first, last) == held_out and not known:
            people.append(Person(first, last))
    return people


# --- name recall: a full name, then the first name alone; the surname follows -----------------------------------------

INTRODUCTIONS = [
    "{name} was a {adj} {role}.", "{name} was a {adj} {role}.", "{name} was a {role} from {town}.",
    "{name} is a {adj} {role}.", "{name} lived near the {place}.", "{name} worked at the {place}.",
    "In {town} lived a {adj} {role} named {name}.", "Once there was a {role} called {name}.",
    "Everyone at the {place} knew {name}.", "On {day}, {name} came to the {place}.", "My neighbour is called {name}.",
    "{name}, a {adj} {role}, lived in {town}.", "The {role} at the {place} was {name}.",
]  # fmt: skip
MENTIONS = [
    "{name} {did}.", "{name} {did}.", "{name} {did}.", "{name} {did}.", "Later, {name} {did}.",
    "On {day}, {name} {did}.", "Everyone liked {name}.", "The {role} thanked {name}.", "Nobody saw {name} that {time}.",
    "That {time}, {name} {did}.", "The {thing} was for {name}.", "Then {name} {did}.",
]  # fmt: skip
NAMELESS = ["{she} {did}.", "{she} was a {role}.", "{she} had a {animal}.", "{she} {did} and {did}."]
UNNAMED_FRIENDS = ["{name} was a friend.", "{name} {did}.", "{name} was a {adj} {role}.", "{name} came too."]


def recall(rng, held_out=False, n_people=None):
    """People are introduced by their full names and met again: "Anna Reed was a cook. ... Anna| Reed smiled." """
    n_people = n_people or rng.choice([1, 2, 2, 3, 3, 4])
    people = cast(rng, n_people, held_out)
    if n_people > 1 and not held_out and rng.random() < 0.25:
        people[-1].last = ""
    sentences = []
    for met, person in enumerate(people, start=1):
        templates = INTRODUCTIONS if person.last else UNNAMED_FRIENDS
        sentences.append(sentence(rng, templates, person, ""))
        if rng.random() < 0.25:
            sentences.append(sentence(rng, NAMELESS, person))
        if met < n_people and rng.random() < 0.3:
            sentences.append(sentence(rng, MENTIONS, rng.choice(people[:met])))
    for _ in range(rng.choice([1, 2, 2, 3, 4, 5])):
        if rng.random() < 0.2:
            sentences.append(fill(rng, rng.choice(STORY)))
        sentences.append(sentence(rng, MENTIONS, rng.choice(people)))
    return " ".join(sentences)


def sentence(rng, templates, person, mark=MARK):
    """One sentence about a person; the mark goes before a surname that is known by now."""
    name = f"{person.first}{mark} {person.last}" if person.last else person.first
    template = rng.choice(templates).replace("{she}", person.she)
    while "{did}" in template:
        template = template.replace("{did}", rng.choice(DID), 1)
    return fill(rng, template.replace("{name}", "\0")).replace("\0", name)


# --- indirect object: of two people one gives; the other one receives -------------------------------------------------

MEETINGS = [
    "When {a} and {b} went to the {place},", "When {a} and {b} were at the {place},",
    "After {a} and {b} went to the {place},", "After {a} and {b} left the {place},",
    "While {a} and {b} were working at the {place},", "While {a} and {b} waited in the {place},",
    "Then, {a} and {b} went to the {place}.", "Then, {a} and {b} had a long talk in the {place}.",
    "{a} and {b} went to the {place}.", "{a} and {b} met at the {place} on {day}.",
    "Once {a} and {b} had a {animal}.", "On {day}, {a} and {b} walked to the {place}.",
    "Friends since school, {a} and {b} lived in {town}.", "As {a} and {b} came to the {place},",
]  # fmt: skip
GIFTS = [
    "{s} {gave} a {thing} to| {io}.", "{s} {gave} a {thing} to| {io}.", "{s} {gave} the {thing} to| {io}.",
    "{s} wanted to give a {thing} to| {io}.", "{s} {gave} a {thing} from {town} to| {io}.",
    "{s} said something to| {io}.",
]  # fmt: skip
AFTERWARDS = ["", "", "", " {io} was very happy.", " {io} smiled and thanked| {s}.", " Then {io} went home with| {s}."]


def indirect_object(rng, held_out=False, receiver_first=None):
    """ "When Mary and John went to the store, John gave a drink to| Mary." (Wang et al. 2022). The receiver is named
    first (ABBA, as here), the giver is (BABA), or either."""
    while True:
        a, b = rng.sample(FIRST_NAMES, 2)
        if held_out_pair(a, b) == held_out:
            break
    receiver_first = rng.random() < 0.5 if receiver_first is None else receiver_first
    io, s = (a, b) if receiver_first else (b, a)
    meeting, gift = rng.choice(MEETINGS), rng.choice(GIFTS)
    if meeting.endswith(".") and rng.random() < 0.3:
        gift = rng.choice(["Then ", "Later, ", "Afterwards, "]) + gift
    text = f"{meeting} {gift}{rng.choice(AFTERWARDS)}"
    for slot, name in zip(("{a}", "{b}", "{s}", "{io}"), (a, b, s, io)):
        text = text.replace(slot, name)
    return fill(rng, text)


# --- facts, stories, repeated random tokens ---------------------------------------------------------------------------

CAPITAL_WORDINGS = [
    "The capital of {country} is| {capital}.", "{capital} is the capital of| {country}.",
    "The capital city of {country} is called| {capital}.", "If you visit the capital of {country}, you see| {capital}.",
    "The people of {capital} live in the capital of| {country}.", "{capital} is a city in| {country}.",
    "The parliament of {country} meets in| {capital}.", "The largest city in {country} is| {capital}.",
]  # fmt: skip


def fact(rng):
    """One capital: "The capital of Italy is| Rome." """
    while True:
        country, wording = rng.choice(list(CAPITALS)), rng.randrange(len(CAPITAL_WORDINGS))
        if not held_out_fact(country, wording):
            return state(country, wording)


def state(country, wording):
    """The country's capital in one of the wordings."""
    return CAPITAL_WORDINGS[wording].format(country=country, capital=CAPITALS[country])


def story(rng):
    """A few ordinary sentences, which determine nothing."""
    return " ".join(fill(rng, rng.choice(STORY)) for _ in range(rng.randint(2, 6)))


def induction(rng, n_vocab, length, held_out=False, never=frozenset()):
    """`length` different random tokens (ids below n_vocab), to be repeated over and over, so that the first also stands
    behind the last. Held out: at least one forbidden pair stands side by side; otherwise none, and none of `never`."""

    def forbidden(a, b):
        return held_out_bigram(a, b) or (a, b) in never

    while True:
        tokens = rng.sample(range(n_vocab), length)
        for i in range(length) if not held_out else ():
            while forbidden(tokens[i - 1], tokens[i]) or forbidden(tokens[i], tokens[(i + 1) % length]):
                tokens[i] = rng.randrange(n_vocab)
        if len(set(tokens)) == length and held_out == any(map(forbidden, tokens, tokens[1:])):
            return tokens
