"""The named experiments of the demo: pairs of prompts with a story that has been read elsewhere.

The first three are the source assignment's (jaspock/tpln2425, docs/assignment-interpretability.md): one clean text,
three ways to corrupt it, and for all of them the metric logit(" Smith") - logit(" Jones"). Where the corrupted text
makes " Smith" no likelier (first-name), it is only the yardstick: a surname that the text does not offer, so that the
metric reads how strongly " Jones" is recalled. Keeping the two answers keeps the three maps on one scale.
The fourth is indirect object identification (Wang et al. 2022, arXiv 2211.00593), with the two subjects swapped.
"""

from typing import NamedTuple

from ..prompts import PromptPair


class Experiment(NamedTuple):
    pair: PromptPair
    question: str  # what the map answers


CLEAN = "Michelle Jones was a top-notch student. Michelle"
SURNAMES = (" Jones", " Smith")

EXPERIMENTS = {
    "surname": Experiment(
        PromptPair(CLEAN, "Michelle Smith was a top-notch student. Michelle", SURNAMES),
        "The surname differs: where is it kept until the last position needs it?",
    ),
    "first-name": Experiment(
        PromptPair(CLEAN, "Jessica Jones was a top-notch student. Michelle", SURNAMES),
        "Someone else has the surname: where does the model notice that Michelle is not the one?",
    ),
    "last-mention": Experiment(
        PromptPair(CLEAN, "Michelle Smith was a top-notch student. Jessica", SURNAMES),
        "The surname and the person asked for both differ: which of the two matters where?",
    ),
    "indirect-object": Experiment(
        PromptPair(
            "When Mary and John went to the store, John gave a drink to",
            "When Mary and John went to the store, Mary gave a drink to",
            (" Mary", " John"),
        ),
        "The giver differs, and so the receiver: how does the repeated name reach the last position?",
    ),
}
