"""Two sets of pairs of the literature, made without a file.

Indirect object identification: Wang et al. 2022, "Interpretability in the Wild" (2211.00593), their templates ABBA and BABA
and their corruption by three other names (ABC); the swap of the two names is that of TransformerLens's demos. Greater-than:
Hanna et al. 2023, "How does GPT-2 compute greater-than?" (2305.00586), corrupted by the year 01 of the same century. The words are our own
choice of ordinary ones; those that a vocabulary cuts differently are drawn again.
"""

import random

from minigpt2.checks import whole_number

from ..prompts import PromptPair
from .pairset import PairSet
from .roles import Span, position
from .template import misaligned

NAMES = (
    "John Mary Tom James Dan Martin Amy Anna Paul Mark Sarah Laura Peter Kate David Emily Jack Alice Robert Lisa Michael "
    "Susan Kevin Rachel Steven Julia Brian Jane George Helen"
).split()
PLACES = "store school park office station library garden hospital market restaurant".split()
THINGS = "book drink bag letter ring key ball phone ticket map".split()
NOUNS = "war trial conflict program plan alliance contract voyage tour campaign reign siege project strike".split()
TEMPLATES = {
    "ABBA": "When {IO} and {S} went to the {place}, {S} gave a {thing} to",
    "BABA": "When {S} and {IO} went to the {place}, {S} gave a {thing} to",
}


def indirect_object(
    model, n: int = 50, *, template: str = "both", corruption: str = "swap", seed: int = 0, bos: bool = False
) -> PairSet:
    """Pairs of indirect object identification: the clean answer is the name that is there once.

    template is "ABBA", "BABA" or "both", by turns. corruption "swap" has the other name give, so that the answers change
    places; "other names" has three other names in all places. Roles: IO, S 1, S 2, place, thing, end.
    """
    n = whole_number("n, the number of pairs,", n, 1)
    kinds = tuple(TEMPLATES) if template == "both" else (template,)
    if kinds[0] not in TEMPLATES or corruption not in ("swap", "other names"):
        raise ValueError('template must be "ABBA", "BABA" or "both", and corruption "swap" or "other names"')
    slots = dict(IO=NAMES, S=NAMES, place=PLACES, thing=THINGS, C=NAMES, D=NAMES, E=NAMES)
    sets = []
    for i, kind in enumerate(kinds):
        clean, n_kind = TEMPLATES[kind], len(range(i, n, len(kinds)))
        if n_kind:
            answers = (" {IO}", " {S}")
            corrupted = corrupt(clean, corruption)
            choices = dict(model=model, n=n_kind, seed=f"{seed} {kind}", bos=bos, skip=True)  # other words in each
            sets.append(PairSet.from_template(clean, corrupted, answers, slots, **choices))
    order = [(some, j) for j in range(n) for some in sets if j < len(some)]
    roles = {role: [some.roles[role][j] for some, j in order] for role in sets[0].roles}
    return PairSet([some.pairs[j] for some, j in order], roles)


def corrupt(clean, corruption):
    if corruption == "swap":
        before, comma, rest = clean.partition(", ")
        return before + comma + rest.replace("{S}", "{IO}")
    first, second = ("{C}", "{D}") if clean.index("{IO}") < clean.index("{S}") else ("{D}", "{C}")
    before, comma, rest = clean.partition(", ")
    return before.replace("{IO}", first).replace("{S}", second) + comma + rest.replace("{S}", "{E}")


def greater_than(model, n: int = 50, *, seed: int = 0, bos: bool = False) -> PairSet:
    """Pairs of greater-than: "The war lasted from the year 1732 to the year 17", corrupted by the year 1701.

    The answers are two sets: the two-digit years after the first one (clean), and the others, down to 00 (corrupted): read
    metric="probability_difference". The first year is 02 to 98 of a century from 11 to 17. Roles: noun, year, end.
    """
    n, rng = whole_number("n, the number of pairs,", n, 1), random.Random(seed)
    every = [(noun, century, year) for noun in NOUNS for century in range(11, 18) for year in range(2, 99)]
    rng.shuffle(every)
    pairs, spans = [], []
    for noun, century, year in every:
        pair, roles, others = greater_than_pair(noun, century, year, bos)
        if not misaligned(model, pair, roles, others) and cut_in_two(model, pair, roles, century):
            pairs.append(pair), spans.append(roles)
        if len(pairs) == n:
            return PairSet(pairs, {role: [places[role] for places in spans] for role in spans[0]})
    raise ValueError(
        f"the vocabulary of {model.name} cuts {len(pairs)} of {len(every)} pairs into a century and a year, and {n} are asked for"
    )


def greater_than_pair(noun, century, year, bos=False):
    """(PromptPair, {role: Span}, [Span of the corrupted text])"""
    start = "The "
    middle = f"{start}{noun} lasted from the year {century}"
    clean, corrupted = (f"{middle}{two} to the year {century}" for two in (f"{year:02d}", "01"))
    after, before = tuple(f"{y:02d}" for y in range(year + 1, 100)), tuple(f"{y:02d}" for y in range(year + 1))
    spans = {"noun": Span(len(start), len(start) + len(noun)), "year": Span(len(middle), len(middle) + 2)}
    return PromptPair(clean, corrupted, (after, before), bos=bos), spans, list(spans.values())


def cut_in_two(model, pair, roles, century):
    """Whether the first year is a token of its century and one of its own, as the answer's will be."""
    at = position(model, pair, roles["year"], "year")
    tokens = pair.tokens(model).clean
    return model.decode(
        tokens[at - 1 : at + 1]
    ) == f" {century}{pair.clean[roles['year'].start : roles['year'].stop]}" and (tokens[-1] == tokens[at - 1])
