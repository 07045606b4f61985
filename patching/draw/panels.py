"""What a figure of results shows, before anything is drawn: its maps, their one scale of colour, places and labels.

figure.py draws them; the terminal shows the same maps. Nothing here needs matplotlib.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np

MOST_PANELS = 12
WIDEST, HIGHEST = 40.0, 40.0  # inches
LARGEST = 400.0, 150.0  # square inches of a figure, and of one with
MANY = 20_000  # cells in a map, whose labels are thinned out both ways
LONGEST = 34  # characters of a label


class Panel(NamedTuple):
    """One map: values [n_rows, n_columns], the index of each row and column in ascending order, and what they are."""

    result: object
    values: np.ndarray
    rows: list
    columns: list  # empty for a single column
    axes: tuple  # (row axis, column axis or None)
    title: str
    held: dict  # the index of each axis of the result that is neither: {"head": 3}


def panels(result, title=""):
    """Cut a result into maps: one for two axes, one for each head for three, for each layer and head for four.

    Where that makes more than MOST_PANELS, the ones with the largest changes are kept, in their order.
    """
    order = np.ix_(*(np.argsort(chosen) for chosen in result.axes.values()))
    values, axes = result.values[order], {axis: sorted(chosen) for axis, chosen in result.axes.items()}
    names, held = tuple(axes), held_axes(result)
    if not held:
        columns = axes[names[1]] if len(names) > 1 else []
        return [Panel(result, values.reshape(len(values), -1), axes[names[0]], columns, (*names, None)[:2], title, {})]
    down, across = (name for name in names if name not in held)
    places = list(product(*(axes[axis] for axis in held)))
    parts = np.moveaxis(values, [names.index(axis) for axis in held], range(len(held)))
    parts = parts.reshape(len(places), len(axes[down]), len(axes[across]))
    kept = sorted(np.argsort(np.abs(parts - result.base_value).max((1, 2)), kind="stable")[::-1][:MOST_PANELS])
    titles = {i: ", ".join(filter(None, (title, "head " + ".".join(map(str, places[i]))))) for i in kept}
    return [
        Panel(result, parts[i], axes[down], axes[across], (down, across), titles[i], dict(zip(held, places[i])))
        for i in kept
    ]


def held_axes(result):
    """The axes of a result that have no room in a map, each of which holds one index of them."""
    names = tuple(result.axes)
    return {3: names[1:2], 4: names[:2]}.get(len(names), ())


def n_maps(result):
    """How many maps a result would make if none were left out."""
    return math.prod(len(result.axes[axis]) for axis in held_axes(result))


def cut_words(result):
    """ "the 12 of 24 heads with the largest changes" where panels() leaves maps out, else ""."""
    n = n_maps(result)
    return f"the {MOST_PANELS} of {n} heads with the largest changes" if n > MOST_PANELS else ""


# The scale


class Scale(NamedTuple):
    """Colours for several maps: `centre` is white, `half` away from it the darkest; with `shifted`, of value - base."""

    centre: float
    half: float
    shifted: bool
    unit: str

    def of(self, panel):
        return panel.values - panel.result.base_value if self.shifted else panel.values


def common_scale(results):
    """One scale, symmetrical about the value of the run that was patched; about 0, as changes, where these differ."""
    bases, units = [r.base_value for r in results], {r.unit for r in results}
    gaps = [abs(r.gap) for r in results]
    half = max(float(np.abs(r.values - r.base_value).max()) for r in results)
    half = max(half, max(gaps) / 20)  # rounding stays white
    shifted = np.ptp(bases) > 1e-3 * half or len(units) > 1
    unit = units.pop() if len(units) == 1 else "the metric of each map"
    return Scale(0.0 if shifted else bases[0], half or 1.0, shifted, f"change of {unit}" if shifted else unit)


def shown_range(scale, results):
    """The part of the scale in which there are values, with a margin."""
    lo = min(float((r.values - r.base_value).min()) for r in results) / scale.half
    hi = max(float((r.values - r.base_value).max()) for r in results) / scale.half
    lo, hi = max(-1.0, min(lo - 0.06, -0.12)), min(1.0, max(hi + 0.06, 0.12))
    return scale.centre + scale.half * lo, scale.centre + scale.half * hi


# Places and labels


def own_titles(results):
    """What tells each map of a figure from the others: its site, or else its answers."""
    sites = [r.site for r in results]
    return sites if len(set(sites)) == len(sites) else [" or ".join(r.answer_labels) for r in results]


def runs_of(results):
    """The different pairs of values of the unpatched runs."""
    return {(r.clean_value, r.corrupted_value) for r in results}


def layout(parts, names):
    """Rows and columns of maps, and the figure's size in inches: cells as large as their number allows."""
    n_rows, n_columns = (
        max(max(1, len(axis)) for axis in axes) for axes in ([p.rows for p in parts], [p.columns for p in parts])
    )
    shrunk = (1.0, 0.85, 0.6)[(len(parts) > 1) + (len(parts) > 4)]
    least = 5.0 if len(parts) == 1 else 3.4
    cell = 0.5 if n_columns <= 12 else max(0.24, 0.5 - 0.011 * (n_columns - 12))
    wide = max(least, n_columns * shrunk * cell) + 0.6
    high = n_rows * shrunk * (0.34 if n_rows <= 14 else max(0.14, 4.8 / n_rows)) + 0.4
    across = max(1, min(len(parts), int(17.5 // wide)))
    even = max(n for n in range(1, across + 1) if len(parts) % n == 0)
    across = even if 2 * even >= across else math.ceil(len(parts) / math.ceil(len(parts) / across))
    down = math.ceil(len(parts) / across)
    labels = 0.07 * max(len(label) for name in names for label in [*name, ""])
    labels *= 1 if all(name == names[0] for name in names) else down
    wide, high = min(WIDEST, wide * across + 1.3), min(HIGHEST, high * down + min(labels, 3.0 * down) + 1.0)
    shrunk = min(1.0, math.sqrt(LARGEST[n_rows * n_columns > MANY] / (wide * high)))
    return down, across, (shrunk * wide, shrunk * high)


def column_labels(panel):
    return [str(i) if panel.axes[1] == "head" else label(panel.result, panel.axes[1], i) for i in panel.columns]


def row_labels(panel):
    return [str(i) if panel.axes[0] in ("layer", "head") else label(panel.result, panel.axes[0], i) for i in panel.rows]


def label(result, axis, index):
    text = result.label(axis, index)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
