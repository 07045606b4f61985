"""Interactions of pairs: f(ab) - f(a) - f(b) + f(0), with f the metric after overwriting places.

It is 0 where the effects of two places add up. For n places there are n (n - 1) / 2 pairs; `interactions` runs the text
once with each place overwritten, and sweeps over its partners inside that run in one pass. A pair is swept in the run of
its lower place, so that the pass begins where the upper one is. `interactions_one_by_one` is the definition.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from minigpt2 import GPT2

from ..metrics import check_value
from ..plan import Plan, Question
from ..prompts import PromptPair
from ..sources import Source
from ..sweeps import sweep_one_by_one, swept
from .places import as_sets, check_disjoint, names_of

SEEN = 0.1  # of the largest effect: an interaction below it is not put into words


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """values[i, j] is the metric with places i and j overwritten, values[i, i] with i alone, intact with none."""

    names: tuple  # of the places
    values: np.ndarray  # [n_places, n_places], symmetric
    intact: float
    unit: str
    source: str  # what was written
    model: str

    def __repr__(self):
        first = "; ".join(self.words(i, j) for i, j in self.strongest(3))
        return f"Interactions({len(self.names)} places, {self.unit}, intact {self.intact:.3f}; {first}; {self.model})"

    @property
    def effects(self) -> np.ndarray:
        """How far each place alone moves the metric, [n_places]."""
        return np.diagonal(self.values) - self.intact

    @property
    def matrix(self) -> np.ndarray:
        """f(ab) - f(a) - f(b) + f(0), [n_places, n_places]; NaN on the diagonal."""
        alone = np.diagonal(self.values)
        matrix = self.values - (alone + alone[:, None]) + self.intact
        np.fill_diagonal(matrix, np.nan)
        return matrix

    def strongest(self, n: int = 10) -> list[tuple[int, int]]:
        """The n pairs (i, j), i < j, with the largest interactions, the largest first."""
        rows, columns = np.triu_indices(len(self.names), 1)
        order = np.argsort(-np.abs(self.matrix[rows, columns]), kind="stable")[:n]
        return [(int(i), int(j)) for i, j in zip(rows[order], columns[order])]

    def kind(self, i: int, j: int) -> str:
        """What the three effects show of a pair, the first that holds.

        independent  they add up, to a tenth of the largest of the three
        redundant    together more than twice what either does alone: each does the other's work
        opposed      alone they move the metric in opposite directions
        backing up   together more than the sum: the one steps in where the other is gone
        undoing      together less than the larger alone: overwriting the one undoes part of what overwriting the other does
        serial       together as much as the larger alone: one works through the other
        overlapping  together less than the sum and more than either
        """
        a, b, both = self.effects[i], self.effects[j], self.values[i, j] - self.intact
        largest, alone = max(abs(a), abs(b), abs(both)), max(abs(a), abs(b))
        if abs(both - a - b) <= SEEN * largest:
            return "independent"
        if abs(both) > 2 * alone:
            return "redundant"
        if a * b < 0 and min(abs(a), abs(b)) > SEEN * largest:
            return "opposed"
        along = both * np.sign(a if abs(a) >= abs(b) else b)  # in the direction of the larger
        if along > abs(a + b):
            return "backing up"
        if along < (1 - SEEN) * alone:
            return "undoing"
        return "serial" if along <= (1 + SEEN) * alone else "overlapping"

    def words(self, i: int, j: int) -> str:
        """One pair in words: "9.9 and 9.6, redundant: -0.10 and -0.20 alone, -1.50 together"."""
        a, b, both = self.effects[i], self.effects[j], self.values[i, j] - self.intact
        alone = f"{a:+.2f} and {b:+.2f} alone, {both:+.2f} together"
        return f"{self.names[i]} and {self.names[j]}, {self.kind(i, j)}: {alone}"


def interactions(
    model: GPT2,
    pair: PromptPair,
    places: Sequence,
    site: str = "z",
    *,
    source: Source | str | Any = "zero",
    direction: str | None = None,
    metric: str | Callable = "logit_difference",
    progress: Callable[[int, int], Any] | None = None,
) -> Interactions:
    """The metric with every pair of places overwritten, with one pass through the model for each place.

    places are ablate's: (layer, head), (layer, head, position), ..., or lists of them that count as one; no two may
    overlap. source, direction and metric are sweep's; what is written into a pair is what is written into each of the two
    by itself. progress(done, total) counts places. Raises ValueError for anything that cannot be overwritten.
    """
    question = checked(model, pair, places, site, source, direction)
    plan = Plan(question, metric)
    plans = plan.draws()

    def shown(i):
        return progress and (lambda done, total: progress(i * total + done, len(plans) * total))

    return found(plan, np.mean([values_of(each, shown(i)) for i, each in enumerate(plans)], axis=0))


def values_of(plan, progress):
    """f(ab) of all pairs and on the diagonal f(a), [n_places, n_places], for a Plan with one draw."""
    patches = sorted(plan.question.patches(), key=lambda patch: min(place.layer for place in patch.places))
    values = np.empty((len(patches),) * 2)
    for done, patch in enumerate(patches, start=1):
        i, partners = patch.index[0], patches[done:]
        inner = inside(plan, patch, [other.places for other in partners])
        values[i, i] = inner.base_value
        if partners:
            others = [other.index[0] for other in partners]
            values[i, others] = values[others, i] = swept(inner, False, None).values
        if progress:
            progress(done, len(patches))
    return values


def inside(plan, patch, sets):
    """The Plan of other sets of places inside the run in which a patch has been made. What they write, and how the metric is
    read, is what it was."""
    inner, inner.question = copy.copy(plan), copy.copy(plan.question)
    inner.question.places, inner.question.axes = sets, {"set": list(range(len(sets)))}
    inner.question.n_patches = len(sets)
    inner.base = plan.model.run(plan.base.tokens, ["resid_mid", "q", "k", "v", "z"], plan.overwrites(patch))
    inner.overwrites = plan.overwrites
    inner.base_value = float(plan.metric.read(plan.logits(inner.base.resid_post[-1, -1], plan.metric.tokens)))
    check_value(plan.metric, inner.base_value, plan.model.dtype, lambda: f"after the patch at set {patch.index[0]}")
    return inner


def interactions_one_by_one(
    model: GPT2,
    pair: PromptPair,
    places: Sequence,
    site: str = "z",
    *,
    source: Source | str | Any = "zero",
    direction: str | None = None,
    metric: str | Callable = "logit_difference",
    progress: Callable[[int, int], Any] | None = None,
) -> Interactions:
    """The same with a forward pass for each place and each pair; progress counts these."""
    question = checked(model, pair, places, site, source, direction)
    sets = as_sets(places)
    pairs = [(i, i) for i in range(len(sets))] + list(combinations(range(len(sets)), 2))
    result = sweep_one_by_one(
        model, pair, site, source=source, direction=direction, metric=metric, progress=progress,
        places=[sets[i] if i == j else [*sets[i], *sets[j]] for i, j in pairs],
    )  # fmt: skip
    values = np.empty((len(sets),) * 2)
    for (i, j), value in zip(pairs, result.values):
        values[i, j] = values[j, i] = value
    return found(Plan(question, metric), values)


def checked(model, pair, places, site, source, direction):
    question = Question(model, pair, site, source=source, direction=direction, places=as_sets(places))
    check_disjoint(question)
    return question


def found(plan, values):
    return Interactions(
        names_of(plan.question), values, plan.base_value, plan.metric.unit, plan.source.words, plan.model.name
    )
