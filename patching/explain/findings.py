"""What can be read off a result by arithmetic alone: the gap, which cells move the metric, which move it most.

Everything is a share of the gap: 0 is the run that was patched, 1 the run the vectors came from. story.py puts it into
words.
"""

from typing import NamedTuple

import numpy as np

HALF, SEEN = 0.5, 0.1  # from half of the gap on a cell carries the information, from a tenth on it shows a trace of it
ROUNDING = 1e-4  # more than float32 leaves of a difference of logits that is zero
STREAM = ("resid_pre", "resid_mid", "resid_post")
READ_IN_LAST_LAYER = ("resid_pre", "k", "v")  # at any position; of every other site only the last position is


class Spot(NamedTuple):
    """One cell: its index by axis, its value and its share of the gap (NaN without a gap)."""

    place: dict
    value: float
    share: float


def gap(result):
    return result.target_value - result.base_value


def noise(result):
    """The size of a change of the metric that means nothing: relative, and for logits at least ROUNDING."""
    bounded = "probability" in result.metric and "log" not in result.metric
    return ROUNDING * max(abs(result.clean_value), abs(result.corrupted_value), 0 if bounded else 1)


def moves(result):
    return np.abs(np.asarray(result.values, float) - result.base_value) > noise(result)


def is_stream(result):
    return result.site in STREAM and tuple(result.axes) == ("layer", "position")


def differing(result):
    """The positions at which the two texts differ."""
    pairs = zip(result.tokens.clean, result.tokens.corrupted)
    return [pos for pos, (clean, corrupted) in enumerate(pairs) if clean != corrupted]


def goes_astray(result):
    """Whether patches lead to values well outside of both runs', so that no share tells what was carried over.

    One of several changes may by itself go as far as the whole gap beyond either run, as in a third text; and a vector
    may be moved as far as alpha says.
    """
    room = HALF if len(differing(result)) == 1 else 1 + HALF
    low, high = min(0, result.alpha) - room, max(1, result.alpha) + room
    return bool(result.share.min() <= low or result.share.max() >= high)


def fit(share):
    """Rank shares by how well they bring over one run: from HALF on the nearest to 1, since more overshoots; below HALF
    the largest."""
    return np.where(share >= HALF, 1 + 1 / (1 + np.abs(share - 1)), share)


def last_layer_is_silent(result):
    """Whether the topmost layer is the model's last, as its cells show: off the last position nothing reads them."""
    if result.site in READ_IN_LAST_LAYER or "position" not in result.axes:
        return False
    positions, top = np.array(result.axes["position"]), int(np.argmax(result.axes["layer"]))
    off = (positions >= result.tokens.first_difference) & (positions < len(result.tokens.clean) - 1)
    return off.any() and not np.compress(off, moves(result)[top], tuple(result.axes).index("position") - 1).any()


def spots(result):
    """All cells as Spots, the largest change of the metric first."""
    share = result.share
    order = np.argsort(-np.abs(result.values - result.base_value), axis=None, kind="stable")
    for index in zip(*np.unravel_index(order, share.shape)):
        place = {axis: chosen[i] for (axis, chosen), i in zip(result.axes.items(), index)}
        yield Spot(place, float(result.values[index]), float(share[index]))


def hot_spots(result, n=8):
    """The n Spots with the largest change; of the residual stream, which hands vectors on from layer to layer, only the
    best of each position."""
    found, seen = [], set()
    for spot in spots(result):
        key = spot.place["position"] if is_stream(result) else len(found)
        if key not in seen and abs(spot.value - result.base_value) > noise(result) and len(found) < n:
            seen.add(key)
            found.append(spot)
    return found


def agreement(exact, estimate):
    """Compare two maps of the same cells: (correlation, NaN where one does not vary; index of the worst cell)."""
    if exact.axes != estimate.axes:
        raise ValueError(f"only maps of the same cells can be compared, got {exact!r} and {estimate!r}")
    a, b = np.ravel(exact.values).astype(float), np.ravel(estimate.values).astype(float)
    varied = min(np.ptp(a), np.ptp(b)) > noise(exact)
    worst = np.unravel_index(np.abs(a - b).argmax(), exact.values.shape)
    return float(np.corrcoef(a, b)[0, 1]) if varied else float("nan"), tuple(map(int, worst))


def ascending(result):
    """Layers, positions and the shares [n_layer, n_positions], all in ascending order."""
    rows, columns = (np.argsort(result.axes[axis]) for axis in ("layer", "position"))
    return sorted(result.axes["layer"]), sorted(result.axes["position"]), result.share[rows][:, columns]
