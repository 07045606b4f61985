"""A set of pairs from a template with slots: "When {A} and {B} went to the {place}, {B} gave a {thing} to".

The corrupted text is a template with the same slots, filled with the same words: with {A} for the second {B} in it, the two
names are swapped; with {C}, a third name stands there. Every slot is a role: "A", and "B 1", "B 2" of one that is there twice.
"""

import math
import random
import string
from collections.abc import Mapping, Sequence

from minigpt2.checks import whole_number

from ..prompts import PromptPair
from .roles import Span, listed, position


def make(
    clean: str, corrupted: str, answers: Sequence, slots: Mapping[str, Sequence[str]], *, model, n: int, seed: int | str = 0,
    bos: bool = False, skip: bool = False,
):  # fmt: skip
    """Draw n different pairs: (pairs, roles, None, the faults of what was drawn again), as a PairSet takes them. Slots that share words (the same list) never get the same one.

    answers are templates too, (" {A}", " {B}"); clean answer and corrupted answer. Each pair is checked to align: both texts
    of one length, every slot at the same positions in both. Raises ValueError with all that do not, skip=True draws others;
    and where the slots do not have n different pairs.
    """
    n, rng = whole_number("n, the number of pairs,", n, 1), random.Random(seed)
    used = check_slots((clean, corrupted, *answers), slots)
    most = math.prod(len(words) for words in used.values())
    pairs, spans, faults, seen, drawn = [], [], {}, set(), 0
    while len(pairs) < n:
        drawn += 1
        if drawn > 20 * n + 50 * most**0.5 + 1000 or len(seen) >= most:
            raise ValueError(
                listed(
                    f"the slots gave {len(pairs)} different pairs that align, and {n} are asked for",
                    faults.values(),
                    True,
                )
            )
        words = draw(used, rng)
        if words is None or (key := tuple(words.values())) in seen:
            continue
        seen.add(key)
        made = filled_pair(clean, corrupted, answers, words, bos)
        text = made[0].clean
        if fault := misaligned(model, *made):
            faults[text] = f"{text!r}: {fault}"
        if not fault or not skip:
            pairs.append(made[0]), spans.append(made[1])
    if faults and not skip:
        raise ValueError(listed(f"{len(faults)} of {n} pairs do not align", faults.values()))
    roles = {name: [places[name] for places in spans] for name in spans[0]}
    return pairs, roles, None, list(faults.values())


def check_slots(templates, slots):
    """The slots that the templates have, with their words, or a ValueError."""
    names = dict.fromkeys(name for template in templates for _, name in parsed(template) if name)
    if missing := [name for name in names if not slots.get(name)]:
        raise ValueError(f"no words for the slot {missing[0]!r}: slots needs a list for each of {', '.join(names)}")
    return {name: list(dict.fromkeys(slots[name])) for name in names}


def parsed(template):
    """[(text, slot after it or None), ...]"""
    try:
        parts = [(text, name) for text, name, form, how in string.Formatter().parse(template)]
    except (ValueError, TypeError):
        raise ValueError(f"{template!r:.80} is not a template: a slot is {{name}}, a brace {{{{ or }}}}") from None
    if any(name == "" for _, name in parts):
        raise ValueError(f"{template!r:.80} has a slot without a name")
    return parts


def draw(slots, rng):
    """A word for each slot; None if two that share a list got the same."""
    words = {name: rng.choice(some) for name, some in slots.items()}
    for a in words:
        if any(a != b and slots[a] == slots[b] and words[a] == words[b] for b in words):
            return None
    return words


def filled(template, words):
    """The text, and the Span of each slot in it in order, [(name, Span), ...]."""
    text, spans = "", []
    for before, name in parsed(template):
        text += before
        if name:
            spans.append((name, Span(len(text), len(text) + len(words[name]))))
            text += words[name]
    return text, spans


def filled_pair(clean, corrupted, answers, words, bos):
    """(PromptPair, {role: Span in its clean text}, [Span in its corrupted text])"""
    (text, spans), (other, others) = filled(clean, words), filled(corrupted, words)
    fill = lambda some: filled(some, words)[0] if isinstance(some, str) else tuple(map(fill, some))  # noqa: E731
    pair = PromptPair(text, other, tuple(fill(answer) for answer in answers), bos=bos)
    names = [name for name, _ in spans]
    called = [f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return pair, dict(zip(called, (span for _, span in spans))), [span for _, span in others]


def misaligned(model, pair, roles, others):
    """Why a pair cannot be patched position by position, or None."""
    try:
        pair.tokens(model)
    except ValueError as error:
        return str(error).splitlines()[0]
    if len(roles) != len(others):
        return None
    mirrored = PromptPair(pair.corrupted, pair.clean, pair.answers, bos=pair.bos)
    for (role, span), other in zip(roles.items(), others):
        here, there = position(model, pair, span, role), position(model, mirrored, other, role)
        if here != there:
            return f"the slot {role} ends at position {here} of the clean text and {there} of the corrupted one"
    return None
