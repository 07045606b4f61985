"""What is asked of every pair of a set, and what one pair gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import attribution
from .. import sweeps as engine
from .checks import self_checks
from .threads import blas_threads


@dataclass(frozen=True)
class Ask:
    """What is asked of every pair."""

    method: str  # "patching" or "attribution"
    site: str
    options: dict  # the engine's arguments
    at: Any = None  # a position or a role where the metric is read

    @property
    def roles(self):
        """The positions, where they are roles, else None."""
        positions = self.options["positions"]
        if isinstance(positions, str):
            if positions != "all":
                raise ValueError(
                    f'positions must be "all", a list of positions or a list of roles, got {positions!r:.60}'
                )
            return None
        if isinstance(positions, Sequence) and positions and all(isinstance(each, str) for each in positions):
            return tuple(positions)
        return None

    @property
    def several(self):
        return isinstance(self.options["metric"], (list, tuple))

    def one_pair(self, model, pairs, i):
        """{metric: Result} of pair i, and the positions of its roles or None."""
        options, places = dict(self.options), None
        if self.roles:
            places = [pairs.position(model, i, role) for role in self.roles]
            options["positions"] = list(dict.fromkeys(places))
        run = engine.sweep if self.method == "patching" else attribution.attribute
        found = run(model, self.pair(model, pairs, i), self.site, **options)
        return found if self.several else {found.metric: found}, places

    def pair(self, model, pairs, i):
        """Pair i, cut after where the metric is read."""
        if self.at is None:
            return pairs[i]
        return pairs[i].until(model, pairs.position(model, i, self.at) if isinstance(self.at, str) else self.at)


class PairMap(NamedTuple):
    """What one pair gives: small, and plain arrays, so that it can travel and be kept."""

    values: dict  # {metric: [...]}
    clean: dict  # {metric: number}
    corrupted: dict
    units: dict
    axes: dict
    words: dict  # direction, source: the same for all pairs
    positions: tuple | None  # of the roles
    checks: tuple = ()
    threads: int | None = None


def map_of(model, ask, pairs, i, check=False):
    """The PairMap of pair i."""
    results, places = ask.one_pair(model, pairs, i)
    first = next(iter(results.values()))
    values, axes = {name: result.values for name, result in results.items()}, dict(first.axes)
    if places:
        axis, named = list(axes).index("position"), axes["position"]
        spread = [named.index(place) for place in places]  # two roles may be at one position
        values = {name: np.take(array, spread, axis=axis) for name, array in values.items()}
        axes = {("role" if name == "position" else name): chosen for name, chosen in axes.items()} | {
            "role": list(ask.roles)
        }
    return PairMap(
        values,
        {name: result.clean_value for name, result in results.items()},
        {name: result.corrupted_value for name, result in results.items()},
        {name: result.unit for name, result in results.items()},
        axes,
        {"direction": first.direction, "source": first.source, "alpha": first.alpha},
        tuple(places) if places else None,
        self_checks(model, ask.pair(model, pairs, i), first, ask) if check else (),
        blas_threads(),
    )
