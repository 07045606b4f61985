"""Shapley values: how much of the effect of ablating everything each group has, exactly, from all 2^n sets of groups.

A group's value is its marginal effect, averaged over all orders in which the groups can be ablated one after the other. It
is the only division of the whole effect that adds up to it, treats equal groups equally and gives nothing to a group
that changes nothing (Shapley 1953, "A value for n-person games").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np

from minigpt2 import GPT2

from ..plan import Question
from ..prompts import PromptPair
from ..sources import Source
from ..sweeps import sweep
from .places import as_sets, check_disjoint, names_of

MOST = 10  # groups: 1,024 runs


@dataclass(frozen=True, eq=False, repr=False)
class Shapley:
    """values sum to the metric with all groups overwritten minus that with none."""

    names: tuple
    values: np.ndarray  # [n_groups]
    metric: np.ndarray  # [2^n_groups]: the metric with a set of groups overwritten, group i if bit i of the index is 1
    unit: str
    source: str  # what was written
    model: str

    def __repr__(self):
        each = ", ".join(f"{name} {value:+.3f}" for name, value in zip(self.names, self.values))
        ends = f"from {self.metric[0]:.3f} to {self.metric[-1]:.3f}"
        return f"Shapley({self.unit} {ends}: {each}; written: {self.source}; {self.model})"


def shapley(
    model: GPT2,
    pair: PromptPair,
    groups: Sequence | Mapping,
    site: str = "z",
    *,
    source: Source | str | Any = "zero",
    direction: str | None = None,
    metric: str | Callable = "logit_difference",
    progress: Callable[[int, int], Any] | None = None,
) -> Shapley:
    """The Shapley values of up to ten groups of places, for the metric after overwriting them.

    groups are ablate's places: a list of places and of lists of places, or {name: list of places}; no two may overlap. All
    sets of them are patched in one sweep, with its source, direction and metric. Raises ValueError for anything else.
    """
    names = tuple(map(str, groups)) if isinstance(groups, Mapping) else None
    sets = as_sets(list(groups.values()) if names else groups)
    if len(sets) > MOST:
        raise ValueError(f"{len(sets)} groups have {2 ** len(sets):,} sets: exact Shapley values take at most {MOST} groups")
    question = Question(model, pair, site, source=source, direction=direction, places=sets)
    check_disjoint(question)
    unions = [[place for i in members(bits, len(sets)) for place in sets[i]] for bits in range(1, 2 ** len(sets))]
    result = sweep(
        model, pair, site, source=source, direction=direction, metric=metric, places=unions, progress=progress
    )
    values = np.array([result.base_value, *result.values], float)
    return Shapley(
        names or names_of(question), divided(values), values, result.unit, result.source, model.name
    )


def members(bits, n):
    return [i for i in range(n) if bits >> i & 1]


def divided(metric):
    """The Shapley values [n] from the metric of every set, [2^n]."""
    n = len(metric).bit_length() - 1
    values = np.zeros(n)
    for bits in range(len(metric)):
        size = bits.bit_count()
        for i in range(n):
            if not bits >> i & 1:
                share = factorial(size) * factorial(n - size - 1) / factorial(n)
                values[i] += share * (metric[bits | 1 << i] - metric[bits])
    return values
