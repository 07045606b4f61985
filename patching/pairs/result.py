"""What a sweep of a set returns: the map of every pair, and what they say together."""

import csv
import io
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from minigpt2.atomic import replacing

from ..result import ROUNDING
from . import statistics
from .pairset import PairSet


@dataclass(frozen=True, eq=False, repr=False)
class SetResult:
    """The metric after each patch, for every pair.

    values has the pairs first, then one axis for each entry of axes, as a Result has them; "role" stands for "position" where
    positions were given as roles. An effect is a value less that of the same pair's unpatched run; 0 means that the patch does
    nothing.
    """

    values: np.ndarray  # [n_pairs, ...]: each pair's own sweep, bit for bit
    clean_values: np.ndarray  # [n_pairs], of the unpatched runs
    corrupted_values: np.ndarray  # [n_pairs]
    axes: dict
    site: str
    direction: str
    metric: str
    unit: str
    alpha: float
    model: str
    revision: str | None
    method: str  # "patching" or "attribution"
    source: str
    pairs: PairSet  # those of values, in order
    numbers: tuple  # of each in the whole set
    n_asked: int  # how many the whole set has: more than n_pairs while other parts of a directory are missing
    positions: np.ndarray | None = None  # [n_pairs, n_roles] of the roles
    threads: int | None = None  # of the matrix products: another number gives other last bits
    checks: tuple = ()  # what was checked of this result, as sentences
    digest: str = ""  # of weights, tokens and options

    def __repr__(self):
        return (
            f"SetResult({self.site} by {' x '.join(self.axes)} {list(self.values.shape[1:])}, {self.count}, "
            f"{self.direction}, mean {self.unit} from {self.mean.min():.3f} to {self.mean.max():.3f}; {self.model})"
        )

    @property
    def count(self) -> str:
        """ "50 pairs", or "20 of 50 pairs" where the others are not there yet."""
        n = f"{len(self.values)} of {self.n_asked}" if self.n_asked > len(self.values) else f"{self.n_asked}"
        return f"{n} pair{'s' * (self.n_asked > 1)}"

    @property
    def base(self) -> str:
        """The run that was patched, "clean" or "corrupted"."""
        return "corrupted" if self.direction == "denoising" else "clean"

    @property
    def base_values(self) -> np.ndarray:
        """The metric of each pair's run that was patched, [n_pairs]."""
        return self.corrupted_values if self.base == "corrupted" else self.clean_values

    @property
    def target_values(self) -> np.ndarray:
        return self.clean_values if self.base == "corrupted" else self.corrupted_values

    @cached_property
    def effects(self) -> np.ndarray:
        """values less the base run's, [n_pairs, ...], float64."""
        return self.values.astype(np.float64) - self._by_pair(self.base_values)

    @cached_property
    def share(self) -> np.ndarray:
        """Each pair's map as a share of its gap, [n_pairs, ...]; NaN for a pair without one."""
        gap = self.target_values - self.base_values
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.effects / self._by_pair(np.where(gap == 0, np.nan, gap)) + 0.0

    @property
    def mean_share(self) -> np.ndarray:
        """The mean effect over the mean gap: the mean patching map as TransformerLens and ARENA normalise it."""
        return self.effects.mean(axis=0) / (self.target_values - self.base_values).mean() + 0.0

    def _by_pair(self, numbers):
        return np.asarray(numbers, np.float64).reshape(-1, *[1] * (self.values.ndim - 1))

    # Over pairs

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean of values over pairs, in float64."""
        return self.values.mean(axis=0, dtype=np.float64)

    @cached_property
    def standard_error(self) -> np.ndarray:
        """Of the mean of values over pairs, unbiased (n - 1); NaN of one pair."""
        return statistics.standard_error(self.values)

    @cached_property
    def effect_error(self) -> np.ndarray:
        """The standard error of the mean effect, which is free of how far apart the pairs' unpatched runs are."""
        return statistics.standard_error(self.effects)

    def interval(self, level: float = 0.95, *, of: str = "values", n: int = 2000, seed: int = 0) -> Any:
        """The bootstrap interval of a mean over pairs, (low, high): of="values", "effects" or "share"."""
        if of not in ("values", "effects", "share"):
            raise ValueError(f'an interval is of "values", "effects" or "share", got {of!r:.40}')
        return statistics.interval(getattr(self, of), level, n, seed)

    def p_value(self, *, correction: str | None = None, n: int = 10_000, seed: int = 0) -> np.ndarray:
        """The sign-flip test of no effect in each cell; correction None, "family-wise" or "false discovery": see
        statistics.p_value."""
        return statistics.p_value(self.effects, n, seed, correction)

    def share_of_pairs(self) -> np.ndarray:
        """In which share of the pairs each cell's effect goes the way of its mean effect, beyond rounding."""
        noise = self._by_pair(ROUNDING * np.maximum(np.abs(self.clean_values), np.abs(self.corrupted_values)))
        return (np.sign(self.effects.mean(axis=0)) * self.effects > noise).mean(axis=0)

    # As a table

    COLUMNS = ("model", "site", "layer", "head", "set", "role", "position", "source", "pair", "metric", "value")

    def rows(self) -> Any:
        """One tuple of COLUMNS for each cell and pair; None where a map has no such axis ("position" then means all)."""
        names = list(self.axes)
        for i, number in enumerate(self.numbers):
            for index in np.ndindex(self.values.shape[1:]):
                at = {axis: chosen[j] for (axis, chosen), j in zip(self.axes.items(), index)}
                if "role" in at:
                    at["position"] = int(self.positions[i, index[names.index("role")]])
                at |= {"model": self.model, "site": self.site, "pair": number, "metric": self.metric}
                yield tuple((at | {"value": self.values[(i, *index)].item()}).get(name) for name in self.COLUMNS)

    def used_columns(self) -> Any:
        """Those of COLUMNS that say something here."""
        absent = {"layer", "head", "set", "role", "position", "source"} - {*self.axes}
        absent -= {"position"} if "role" in self.axes else set()
        return [name for name in self.COLUMNS if name not in absent]

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Write a row for each cell and each pair, which pandas.read_csv reads with no argument; without a path, return it."""
        out = io.StringIO()
        write, keep = (
            csv.writer(out, lineterminator="\n").writerow,
            [self.COLUMNS.index(name) for name in self.used_columns()],
        )
        write(self.used_columns())
        for row in self.rows():
            write([repr(row[i]) if isinstance(row[i], float) else row[i] for i in keep])
        if path is None:
            return out.getvalue()
        with replacing(path) as temporary:
            temporary.write_text(out.getvalue(), encoding="utf-8", newline="")

    def to_dataframe(self) -> Any:
        """The same as a pandas DataFrame; needs pandas."""
        try:
            import pandas
        except ImportError:
            raise ImportError("to_dataframe needs pandas: pip install pandas, or use to_csv") from None
        return pandas.DataFrame(list(self.rows()), columns=list(self.COLUMNS))[self.used_columns()]

    def of_pair(self, i: int) -> "SetResult":
        """The same of one pair."""
        one = lambda array: None if array is None else array[i : i + 1]  # noqa: E731
        return replace(
            self, values=one(self.values), clean_values=one(self.clean_values), corrupted_values=one(self.corrupted_values),
            positions=one(self.positions), pairs=self.pairs.chosen([i]), numbers=self.numbers[i : i + 1],
        )  # fmt: skip
