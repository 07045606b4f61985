"""Interactions: f(ab) - f(a) - f(b) + f(0) for all pairs of parts, where f(S) is the metric with the parts of S overwritten.

Zero means that their effects add up. Read together with f(a) and f(b) it says more: Interactions.describe.

One pass for each part: the run with this part overwritten is swept over its partners, so n parts cost n passes and not
n * n / 2 runs. What a partner writes, and how the metric is read, stays that of the intact runs.
`interactions_one_by_one` does what the words say.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt2 import GPT2
from minigpt2.overwrite import ORDER

from ..plan import Plan, Question
from ..prompts import PromptPair
from ..sites import Place
from ..sources import Source
from ..sweeps import swept
from .ablate import value_of
from .parts import overwrite_of, parts_of

SEEN = 0.1  # of the largest of three effects: less counts as nothing


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """values[i, j] is f(ij) - f(i) - f(j) + f(0); symmetrical, with zeros on the diagonal."""

    parts: tuple[str, ...]
    together: np.ndarray  # [n_parts, n_parts]: f(ij); f(i) on the diagonal
    none: float  # f(0), the value of the run that is patched
    unit: str
    source: str
    model: str

    @property
    def alone(self) -> np.ndarray:
        """f(i), [n_parts]."""
        return np.diagonal(self.together)

    @property
    def values(self) -> np.ndarray:
        """[n_parts, n_parts]"""
        values = self.together - (self.alone[:, None] + self.alone) + self.none
        np.fill_diagonal(values, 0)
        return values

    def strongest(self, n: int = 10) -> list[tuple[str, str, float]]:
        """The n pairs with the largest interaction, (part, part, value), largest first."""
        rows, columns = np.triu_indices(len(self.parts), 1)
        values = self.values[rows, columns]
        order = np.argsort(-abs(values), kind="stable")[:n]
        return [(self.parts[rows[i]], self.parts[columns[i]], float(values[i])) for i in order]

    def describe(self, first: str, second: str) -> str:
        """What one pair's four numbers say, in a sentence."""
        i, j = self.parts.index(first), self.parts.index(second)
        a, b, both = (float(value - self.none) for value in (self.alone[i], self.alone[j], self.together[i, j]))
        word = kind_of_pair(a, b, both)
        return f"{first} and {second}: {a:+.3f} and {b:+.3f} alone, {both:+.3f} together: {word}"

    def __repr__(self):
        pairs = ", ".join(f"{a} with {b} {value:+.3f}" for a, b, value in self.strongest(3))
        return f"Interactions({len(self.parts)} parts, {self.unit}, {self.source}; strongest: {pairs}; {self.model})"


def kind_of_pair(a: float, b: float, both: float) -> str:
    """A word for what overwriting two parts does alone and together, the first that holds:

    independent  it adds up, to a tenth of the largest of the three
    redundant    together more than twice what either does alone, as if each did the other's work
    opposed      alone they move the metric in opposite directions
    backing up   together more than the sum, as if the one stepped in where the other is gone
    undoing      together less than the larger alone: overwriting the one undoes part of what overwriting the other does
    serial       together as much as the larger alone, as if the one worked through the other
    overlapping  together less than the sum and more than either
    """
    largest, alone = max(abs(a), abs(b), abs(both)), max(abs(a), abs(b))
    if abs(both - a - b) <= SEEN * largest:
        return "independent"
    if abs(both) > 2 * alone:
        return "redundant"
    if a * b < 0 and min(abs(a), abs(b)) > SEEN * largest:
        return "opposed"
    along = both if (a if abs(a) >= abs(b) else b) > 0 else -both  # in the direction of the larger
    if along > abs(a + b):
        return "backing up"
    if along < (1 - SEEN) * alone:
        return "undoing"
    return "serial" if along <= (1 + SEEN) * alone else "overlapping"


def interactions(
    model: GPT2,
    pair: PromptPair,
    parts: Sequence | None = None,
    source: Source | str | Any = "zero",
    *,
    metric: str | Callable = "logit_difference",
    direction: str = "noising",
    progress: Callable[[int, int], Any] | None = None,
) -> Interactions:
    """All pairs of parts (of all heads by default) at all positions, overwritten by what the source says.

    The parts are ablate's: names ("9.6", "mlp 5", "attn 5") or pairs (layer, head), returned in ascending order; sources,
    metrics and directions are sweep's. progress(done, total) counts parts. Raises ValueError for what is not there.
    """
    plan, chosen = prepared(model, pair, parts, source, metric, direction)
    plans = plan.draws()

    def shown(i):
        return progress and (lambda done, total: progress(i * total + done, len(plans) * total))

    return result(plan, chosen, [pairs_in_passes(each, chosen, shown(i)) for i, each in enumerate(plans)])


def pairs_in_passes(plan, parts, progress):
    """f(ij) of all pairs, and f(i) on the diagonal, for a Plan with one draw."""
    n_seq, n = len(plan.base.tokens), len(parts)
    written = [overwrite_of(part, plan.runs, plan.source, range(n_seq)) for part in parts]
    together = np.empty((n, n))
    for i in range(n):
        inner = inside(plan, written[i], parts[i + 1 :], written[i + 1 :])
        together[i, i] = inner.base_value
        if i + 1 < n:
            together[i, i + 1 :] = together[i + 1 :, i] = swept([inner], False, None)[0].values
        if progress:
            progress(i + 1, n)
    return together


def inside(plan, overwrite, partners, written):
    """The Plan of a sweep over partners inside the run with one part overwritten."""
    inner, inner.question = copy.copy(plan), copy.copy(plan.question)
    everywhere = slice(0, len(plan.base.tokens))
    inner.question.places = tuple((Place(part.layer, part.head, everywhere),) for part in partners)
    inner.question.axes, inner.question.n_patches = {"set": list(range(len(partners)))}, len(partners)
    inner.base = plan.model.run(plan.base.tokens, ["resid_mid", "q", "k", "v", "z"], [overwrite])
    inner.base_value = value_of(plan, inner.base)
    inner.overwrites = lambda patch: [written[patch.index[0]]]
    return inner


def interactions_one_by_one(
    model: GPT2,
    pair: PromptPair,
    parts: Sequence | None = None,
    source: Source | str | Any = "zero",
    *,
    metric: str | Callable = "logit_difference",
    direction: str = "noising",
) -> Interactions:
    """interactions by their definition: a run for each part, and one for each pair."""
    plan, chosen = prepared(model, pair, parts, source, metric, direction)
    return result(plan, chosen, [pairs_in_runs(each, chosen) for each in plan.draws()])


def pairs_in_runs(plan, parts):
    written = [overwrite_of(part, plan.runs, plan.source) for part in parts]
    return np.array(
        [
            [value_of(plan, plan.model.run(plan.base.tokens, overwrites=[a] if a is b else [a, b])) for b in written]
            for a in written
        ]
    )


def prepared(model, pair, parts, source, metric, direction):
    """The plan, and the parts in ascending order."""
    c = model.config
    parts = [(layer, head) for layer in range(c.n_layer) for head in range(c.n_head)] if parts is None else parts
    chosen = sorted(parts_of(parts, model), key=lambda part: (part.layer, ORDER.index(part.activation), part.head or 0))
    if len(chosen) < 2:
        raise ValueError("interactions need at least two parts")
    question = Question(model, pair, "z", direction=direction, source=source)
    return Plan(question, metric, keep=["attn_out", "mlp_out"]), chosen


def result(plan, parts, of_draws):
    return Interactions(
        tuple(map(str, parts)), np.mean(of_draws, axis=0), plan.base_value, plan.metric.unit, plan.source.words,
        plan.model.name,
    )  # fmt: skip
