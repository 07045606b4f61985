"""What can be read off a result by arithmetic alone: which cells move the metric, which move it most.

Everything is a share of the gap: 0 is the run that was patched, 1 the run the vectors came from. conclusions.py puts it
into words; the terminal and the page show the same findings as tables.
"""

from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..result import OTHER_RUN
from .numbers import HALF, SEEN

STREAM = ("resid_pre", "resid_mid", "resid_post")
READ_IN_LAST_LAYER = ("resid_pre", "k", "v")  # at any position; of every other site only the last position matters


class Cell(NamedTuple):
    """One cell: its index by axis, its value and its share of the gap (NaN without a gap)."""

    place: dict
    value: float
    share: float


class Findings:
    """The findings of one result, each computed once, when it is first asked for."""

    def __init__(self, result):
        self.result = result
        self.differing = result.tokens.differing
        self.last = len(result.tokens.clean) - 1
        self.target_labels = result.clean_labels if result.target == "clean" else result.corrupted_labels
        self.share = result.share
        self.change = np.asarray(result.values, float) - result.base_value
        self.moves = np.abs(self.change) > result.noise

    @cached_property
    def kind(self):
        """What can be concluded from this map at all: see conclusions.CONCLUSIONS."""
        if not np.isfinite(self.result.values).all():
            return "not finite"
        if abs(self.result.gap) <= 10 * self.result.noise:
            return "no gap"
        if not self.moves.any():
            return "no effect"
        if self.result.site not in STREAM or self.result.source != OTHER_RUN or "set" in self.result.axes:
            return "parts"
        if "position" not in self.result.axes:
            return "whole layers"
        if self.differing == (self.last,) or not self.telling:
            return "by construction"
        return "beyond both runs" if self.goes_astray else "stream"

    @property
    def goes_astray(self):
        """Whether patches lead to values well outside of both runs', so that no share tells what was carried over.

        One of several changes may by itself go as far as the whole gap beyond either run, as in a third text; and a vector
        may be moved as far as alpha says.
        """
        room = HALF if len(self.differing) == 1 else 1 + HALF
        low, high = min(0, self.result.alpha) - room, max(1, self.result.alpha) + room
        return bool(self.share.min() <= low or self.share.max() >= high)

    # All cells

    def cells(self, chosen=True):
        """The Cells of a mask, all by default, the largest change of the metric first."""
        chosen = np.broadcast_to(chosen, self.share.shape)
        for flat in np.argsort(-np.abs(self.change), axis=None, kind="stable"):
            index = np.unravel_index(flat, self.share.shape)
            if chosen[index]:
                yield Cell(self.result.place(index), float(self.result.values[index]), float(self.share[index]))

    @cached_property
    def helping(self):
        return list(self.cells(self.share >= SEEN))

    @cached_property
    def opposing(self):
        return list(self.cells(self.share <= -SEEN))

    @property
    def is_stream(self):
        """Whether the cells hand their vectors on from layer to layer."""
        return self.result.site in STREAM and "position" in self.result.axes and self.result.source == OTHER_RUN

    def largest(self, n=8):
        """The n Cells with the largest change; of the residual stream only the largest of each position."""
        if not self.is_stream:
            return list(islice(self.cells(self.moves), n))
        best = {}
        for cell in self.cells(self.moves):
            best.setdefault(cell.place["position"], cell)
        return list(best.values())[:n]

    @cached_property
    def last_layer_is_silent(self):
        """Whether the topmost layer is the model's last, as its cells show: off the last position nothing reads them."""
        result, axes = self.result, tuple(self.result.axes)
        if result.site in READ_IN_LAST_LAYER or "position" not in axes:
            return False
        positions, top = np.array(result.axes["position"]), int(np.argmax(result.axes["layer"]))
        off = (positions >= result.tokens.first_difference) & (positions < self.last)
        return bool(off.any() and not np.compress(off, self.moves[top], axes.index("position") - 1).any())

    # The residual stream, as a map of layers and positions in ascending order

    @cached_property
    def layers(self):
        return sorted(self.result.axes["layer"])

    @cached_property
    def positions(self):
        return sorted(self.result.axes["position"])

    @cached_property
    def grid(self):
        """The shares [n_layer, n_positions]."""
        rows, columns = (np.argsort(self.result.axes[axis]) for axis in ("layer", "position"))
        return self.share[rows][:, columns]

    def at(self, pos):
        """The shares of a position [n_layer]."""
        return self.grid[:, self.positions.index(pos)]

    @cached_property
    def by_construction(self):
        """The layers of which one cell holds all of the gap in any model."""
        given = {self.layers[-1]} if self.last_layer_is_silent and self.last in self.positions else set()
        return given | (
            {0} if self.result.site == "resid_pre" and 0 in self.layers and len(self.differing) == 1 else set()
        )

    @cached_property
    def telling(self):
        """The Cells that do not have their values by construction."""
        layers = np.array([layer not in self.by_construction for layer in self.result.axes["layer"]])
        along = [-1 if axis == "layer" else 1 for axis in self.result.axes]
        return list(self.cells(layers.reshape(along)))

    @cached_property
    def most(self):
        return max(cell.share for cell in self.telling)

    @cached_property
    def best(self):
        """The cell that brings the other run over best, of equals the one of the lowest layer."""
        return max(self.telling, key=lambda cell: (round(float(nearness(cell.share)), 2), -cell.place["layer"]))

    @cached_property
    def carriers(self):
        """For each layer the position that carries at least half of the gap best, or None."""
        best = nearness(self.grid).argmax(axis=1)
        return [self.positions[i] if row[i] >= HALF else None for row, i in zip(self.grid, best)]


def nearness(share):
    """Rank shares by how well they bring over one run: from HALF on the nearest to 1, since more overshoots; below HALF
    the largest."""
    return np.where(share >= HALF, 1 + 1 / (1 + np.abs(share - 1)), share)


class Agreement(NamedTuple):
    """How well an estimate does: its correlation with the exact map (NaN where one does not vary), the factor by which
    its changes are too large or too small (least squares), and where the two differ most."""

    correlation: float
    factor: float
    worst: dict  # a place
    exact: float  # the values there
    estimate: float

    def words(self):
        place = ", ".join(f"{axis} {i}" for axis, i in self.worst.items())
        if np.isfinite(self.correlation):
            told = f"correlation {self.correlation:.3f}, changes {self.factor:.2f} of the exact ones (least squares)"
        else:
            told = "no correlation, since one map does not vary"
        return f"{told}; largest difference at {place}: exact {self.exact:.2f}, estimate {self.estimate:.2f}"


def agreement(exact, estimate):
    """Compare two maps of the same cells, as an Agreement."""
    if exact.axes != estimate.axes:
        raise ValueError(f"only maps of the same cells can be compared, got {exact!r} and {estimate!r}")
    a, b = (np.ravel(r.values).astype(float) - r.base_value for r in (exact, estimate))
    varied = min(np.ptp(a), np.ptp(b)) > exact.noise
    worst = np.unravel_index(np.abs(a - b).argmax(), exact.values.shape)
    return Agreement(
        float(np.corrcoef(a, b)[0, 1]) if varied else float("nan"),
        float(a @ b / (a @ a)) if a.any() else float("nan"),
        exact.place(worst),
        float(exact.values[worst]),
        float(estimate.values[worst]),
    )
