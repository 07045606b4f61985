"""What a set of pairs says, in words computed from its numbers: means with their intervals, and in how many pairs."""

from typing import NamedTuple

import numpy as np

from ..sites import SITES
from .findings import STREAM
from .labels import joined
from .numbers import number, percent, signed

LEVEL = 0.95
MOST = 6  # cells that are told one by one


class SetCell(NamedTuple):
    """One cell of a map over pairs; effects and intervals are changes of the metric."""

    place: dict  # {"layer": 9, "head": 9}, or {"layer": 3, "role": "end"}
    effect: float  # mean over pairs
    low: float
    high: float
    share: float  # mean effect over mean gap
    n_pairs: int  # in which the effect goes the way of the mean
    p: float  # family-wise


def set_cells(result, n=MOST):
    """The n SetCells with the largest mean effect whose interval does not hold zero; of the residual stream, which hands its
    vectors on from layer to layer, only the largest of each place."""
    low, high = result.interval(LEVEL, of="effects")
    p = result.p_value(correction="family-wise")
    mean, share, counts = (
        result.effects.mean(axis=0),
        result.mean_share,
        np.rint(result.share_of_pairs() * len(result.values)),
    )
    found, told = [], set()
    for flat in np.argsort(-np.abs(mean), axis=None, kind="stable"):
        i = np.unravel_index(flat, mean.shape)
        if len(found) < n and (low[i] > 0 or high[i] < 0):
            place = {axis: chosen[j] for (axis, chosen), j in zip(result.axes.items(), i)}
            where = place.get("role", place.get("position"))
            if result.site in STREAM and where is not None and where in told:
                continue
            told.add(where)
            found.append(SetCell(place, *(float(x[i]) for x in (mean, low, high, share)), int(counts[i]), float(p[i])))
    return found


def tell_set(result):
    """The conclusions from a SetResult, list of sentences, the most important first."""
    return [*about_the_runs(result), *about_the_cells(result), *about_the_map(result), *what_was_checked(result)]


def about_the_runs(r):
    n, gap = len(r.values), r.target_values - r.base_values
    yield (
        f"{r.count.capitalize()}: {r.metric} is {spread(r.clean_values)} for the clean runs and {spread(r.corrupted_values)} for the "
        "corrupted ones (mean and standard deviation)."
    )
    if against := int((np.sign(gap) != np.sign(gap.mean())).sum()):
        yield f"In {against} of {n} pairs the gap between the runs has the other sign, or none."
    if r.n_asked > n:
        yield f"{r.n_asked - n} pairs of the set are not here yet: everything below is of the {n} that are."


def about_the_cells(r):
    cells = set_cells(r)
    if not cells:
        yield f"No cell has a mean effect whose {percent(LEVEL)} interval leaves out zero."
    for c in cells:
        way = f"towards the {other(r)}" if c.share > 0 else f"away from the {other(r)}"
        yield (
            f"Patching {place_of(r, c.place)} moves the metric {way} in {c.n_pairs} of {len(r.values)} pairs: by {signed(c.effect)} "
            f"on average ({number(c.low)} to {number(c.high)}), {percent(c.share)} of the mean gap."
        )


def about_the_map(r):
    if len(r.values) > 1:
        n, total = int((r.p_value(correction="family-wise") <= 1 - LEVEL).sum()), r.mean.size
        p = "sign flips, corrected for the number of cells"
        least = (
            f"; with {len(r.values)} pairs no p can be below {2 ** (1 - len(r.values)):.2g}"
            if len(r.values) < 6
            else ""
        )
        yield f"Cells with an effect at p <= {1 - LEVEL:.2g}: {n} of {total} ({p}{least})."


def what_was_checked(r):
    if r.checks:
        yield checked_words(r)


def checked_words(r):
    """One line for a picture or a page: what was checked, and the number that names weights, tokens and options."""
    told = f"Checked on one pair: {joined(list(r.checks))}" if r.checks else "Not checked"
    return told + (f"; weights, tokens and options {r.digest}." if r.digest else ".")


def spread(values):
    return f"{number(values.mean())} ± {number(values.std(ddof=1))}" if len(values) > 1 else number(values.mean())


def other(r):
    return "clean run" if r.base == "corrupted" else "corrupted run"


def place_of(r, place):
    """ "head 9.9 at end", "after layer 3 at position 4"."""
    if "set" in place:
        return f"set {place['set']}"
    words = SITES[r.site].cell.format(**{"layer": "?", "head": "?"} | place)
    at = place.get("role", None if "position" not in place else f"position {place['position']}")
    source = f", the entry of position {place['source']}" if "source" in place else ""
    prefix = "" if not words.startswith(("before", "after", "in the middle")) else "the stream "
    return prefix + words + (f" at {at}" if at else ", all positions") + source
