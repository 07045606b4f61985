"""Exact Shapley values of groups of heads: how a metric's total change is shared out among them (Shapley 1953).

A group's value is its average contribution over all orders in which the groups could be overwritten one after the other;
with n groups that needs the 2^n sets of them, each a set of places of one sweep. The values sum to the change with all groups
overwritten.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from minigpt2 import GPT2

from ..prompts import PromptPair
from ..sources import Source
from ..sweeps import sweep
from .parts import parts_of

MOST = 10  # groups: 1,024 sets


@dataclass(frozen=True, eq=False, repr=False)
class Shapley:
    """values[i] is group i's share of all_groups - none."""

    groups: tuple[str, ...]
    values: np.ndarray  # [n_groups]
    of_sets: dict[tuple[str, ...], float]  # the metric with exactly these groups overwritten
    none: float
    unit: str
    source: str
    model: str

    @property
    def all_groups(self) -> float:
        return self.of_sets[self.groups]

    def __repr__(self):
        shares = ", ".join(f"{name} {value:+.3f}" for name, value in zip(self.groups, self.values))
        return f"Shapley({self.unit} from {self.none:.3f} to {self.all_groups:.3f}: {shares}; {self.model})"


def shapley(
    model: GPT2,
    pair: PromptPair,
    groups: Mapping[str, Sequence],
    source: Source | str | Any = "zero",
    *,
    metric: str | Callable = "logit_difference",
    direction: str = "noising",
    progress: Callable[[int, int], Any] | None = None,
) -> Shapley:
    """Share a metric's change out among up to ten groups of heads, {"name": ["9.6", (9, 9)], ...}, no head in two of them.

    Sources, metrics and directions are sweep's. Raises ValueError for groups that cannot be.
    """
    if not isinstance(groups, Mapping) or not 1 <= len(groups) <= MOST:
        got = len(groups) if isinstance(groups, Mapping) else type(groups).__name__
        raise ValueError(f"groups must be 1 to {MOST} lists of heads by name, got {got}")
    names = tuple(map(str, groups))
    places = {name: [(part.layer, part.head) for part in parts_of(groups[name], model)] for name in groups}
    parts_of([place for some in places.values() for place in some], model)  # no head twice
    sets = [some for n in range(1, len(names) + 1) for some in combinations(names, n)]
    joined = [[place for name in some for place in places[name]] for some in sets]
    swept: Any = sweep(
        model, pair, "z", places=joined, source=source, metric=metric, direction=direction, progress=progress
    )  # fmt: skip
    of_sets = {(): float(swept.base_value)} | dict(zip(sets, swept.values.tolist()))
    values = np.array([shapley_value(name, names, of_sets) for name in names])
    return Shapley(names, values, of_sets, of_sets[()], swept.unit, swept.source, model.name)


def shapley_value(name, names, of_sets):
    """The mean over all orders: a set of k others comes before `name` in k! (n - k - 1)! of the n! orders."""
    others, n, total = [other for other in names if other != name], len(names), 0.0
    for k in range(n):
        weight = math.factorial(k) * math.factorial(n - k - 1) / math.factorial(n)
        for some in combinations(others, k):
            joined = tuple(each for each in names if each in some or each == name)
            total += weight * (of_sets[joined] - of_sets[some])
    return total
