"""Interactions: f(ab) - f(a) - f(b) + f(0) for all pairs of heads, where f(S) is the metric with the heads of S overwritten.

Zero means that two heads work independently. Read together with f(a) and f(b): if each alone does harm and both together
not more than one of them, they are redundant in harm (one chain: what b passes on is what a found); if each alone does
little and both together much, one stands in for the other (backup).

One pass for each head: the model with this head overwritten is swept over its partners (sweeps inside an overwritten
model), so n heads cost n sweeps and not n * n / 2 runs. `interactions_one_by_one` does what the words say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt2 import GPT2

from ..plan import Plan, Question
from ..prompts import PromptPair
from ..sources import Source
from ..sweeps import sweep
from .ablate import value_of
from .parts import overwrite_of, parts_of


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """values[i, j] is f(ij) - f(i) - f(j) + f(0); symmetrical, with zeros on the diagonal."""

    heads: tuple[str, ...]
    alone: np.ndarray  # [n_heads]: f(i)
    together: np.ndarray  # [n_heads, n_heads]: f(ij); f(i) on the diagonal
    none: float  # f(0), the value of the run that is patched
    unit: str
    source: str
    model: str

    @property
    def values(self) -> np.ndarray:
        """[n_heads, n_heads]"""
        values = self.together - (self.alone[:, None] + self.alone) + self.none
        np.fill_diagonal(values, 0)
        return values

    def strongest(self, n: int = 10) -> list[tuple[str, str, float]]:
        """The n pairs with the largest interaction, (head, head, value), largest first."""
        rows, columns = np.triu_indices(len(self.heads), 1)
        values = self.values[rows, columns]
        order = np.argsort(-abs(values), kind="stable")[:n]
        return [(self.heads[rows[i]], self.heads[columns[i]], float(values[i])) for i in order]

    def describe(self, first: str, second: str) -> str:
        """What one pair's four numbers say, in a sentence."""
        i, j = self.heads.index(first), self.heads.index(second)
        a, b, both = (float(value - self.none) for value in (self.alone[i], self.alone[j], self.together[i, j]))
        word = kind_of_pair(a, b, both)
        return f"{first} and {second}: {a:+.3f} and {b:+.3f} alone, {both:+.3f} together: {word}"

    def __repr__(self):
        pairs = ", ".join(f"{a} with {b} {value:+.3f}" for a, b, value in self.strongest(3))
        return f"Interactions({len(self.heads)} heads, {self.unit}, {self.source}; strongest: {pairs}; {self.model})"


def kind_of_pair(a: float, b: float, both: float) -> str:
    """A word for two changes of the metric and their joint one. A tenth of the largest of them counts as nothing."""
    largest = max(abs(a), abs(b), abs(both))
    if abs(both - a - b) <= largest / 10:
        return "independent"
    if abs(both) > abs(a) + abs(b):
        return "backing each other up"
    if min(abs(a), abs(b)) > largest / 10 and abs(both) <= 1.1 * max(abs(a), abs(b)):
        return "redundant: one loss holds the other"
    return "not additive"


def interactions(
    model: GPT2,
    pair: PromptPair,
    heads: Sequence | None = None,
    source: Source | str | Any = "zero",
    *,
    metric: str | Callable = "logit_difference",
    direction: str = "noising",
    progress: Callable[[int, int], Any] | None = None,
) -> Interactions:
    """All pairs of heads (all heads by default) at all positions, overwritten by what the source says.

    The heads are names ("9.6") or pairs (layer, head); sources, metrics and directions are sweep's. Raises ValueError for
    what is not there.
    """
    plan, parts, written = prepared(model, pair, heads, source, metric, direction)
    n = len(parts)
    places = [[(part.layer, part.head)] for part in parts]
    choices = dict(direction=direction, source=source, metric=metric)
    alone = sweep(model, pair, "z", places=places, **choices).values.astype(float)
    together = np.diag(alone)
    for i in range(n - 1):
        after = sweep(
            model, pair, "z", places=places[i + 1 :], overwrites=[written[i]], source_overwrites=[], **choices
        )
        together[i, i + 1 :] = together[i + 1 :, i] = after.values
        if progress:
            progress(i + 1, n - 1)
    return result(plan, parts, alone, together)


def interactions_one_by_one(
    model: GPT2,
    pair: PromptPair,
    heads: Sequence | None = None,
    source: Source | str | Any = "zero",
    *,
    metric: str | Callable = "logit_difference",
    direction: str = "noising",
) -> Interactions:
    """interactions by their definition: a run for each head, and one for each pair."""
    plan, parts, written = prepared(model, pair, heads, source, metric, direction)
    together = np.empty((len(parts), len(parts)))
    for i, first in enumerate(written):
        for j, second in enumerate(written):
            some = [first] if i == j else [first, second]
            together[i, j] = value_of(plan, model.run(plan.base.tokens, overwrites=some))
    return result(plan, parts, np.diag(together).copy(), together)


def prepared(model, pair, heads, source, metric, direction):
    """The plan, the heads in ascending order, and what each writes."""
    c = model.config
    heads = [(layer, head) for layer in range(c.n_layer) for head in range(c.n_head)] if heads is None else heads
    plan = Plan(Question(model, pair, "z", direction=direction, source=source), metric)
    parts = sorted(parts_of(heads, model))
    if wrong := [part for part in parts if part.head is None]:
        raise ValueError(f"interactions are those of heads, and {wrong[0]} is none; ablate takes MLPs as well")
    if len(parts) < 2:
        raise ValueError("interactions need at least two heads")
    return plan, parts, [overwrite_of(part, plan.runs, plan.source) for part in parts]


def result(plan, parts, alone, together):
    names = tuple(map(str, parts))
    return Interactions(names, alone, together, plan.base_value, plan.metric.unit, plan.source.words, plan.model.name)
