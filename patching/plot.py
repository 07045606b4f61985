"""Results as pictures: layers down with layer 0 on top, tokens across with their positions, white where a patch has no
effect (the value of the run that was patched), red above and blue below, one scale for all maps of a figure.

figure() draws any number of results, compared() an attribution beside the exact map, write() puts a figure into a file.
Only matplotlib's objects are used, never pyplot: no window, no global state. Again from a saved result:

    python -m patching.plot figures/surname_resid_post_gpt2.npz [more.npz] --out picture.pdf
"""

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle

from . import save, story
from .terminal import guarded, wrapped

MOST_PANELS = 12
WIDEST, HIGHEST = 40.0, 40.0  # inches
COLOURS = LinearSegmentedColormap.from_list(  # ColorBrewer's RdBu, safe for colour-blind readers, with a white centre
    "patching",
    [
        "#053061",
        "#2166ac",
        "#4393c3",
        "#92c5de",
        "#d1e5f0",
        "white",
        "#fddbc7",
        "#f4a582",
        "#d6604d",
        "#b2182b",
        "#67001f",
    ],
    N=257,  # odd, so that no effect is white itself
)
SUFFIXES = (".png", ".pdf", ".svg")


class Panel(NamedTuple):
    """One map: values [n_rows, n_columns], the index of each row and column in ascending order, and what they are."""

    result: object
    values: np.ndarray
    rows: list
    columns: list  # empty for a single column
    axes: tuple  # (row axis, column axis or None)
    title: str


def panels(result, title=""):
    """Cut a result into maps: one for two axes, one for each head for three, for each layer and head for four.

    Where that makes more than MOST_PANELS, the ones with the largest changes are kept, in their order.
    """
    order = np.ix_(*(np.argsort(chosen) for chosen in result.axes.values()))
    values, axes = result.values[order], {axis: sorted(chosen) for axis, chosen in result.axes.items()}
    names = tuple(axes)
    if len(names) == 1:
        return [Panel(result, values[:, None], axes[names[0]], [], (names[0], None), title)]
    if len(names) == 2:
        return [Panel(result, values, *axes.values(), names, title)]
    if len(names) == 3:
        found = [((head,), values[:, i], names[0], names[2]) for i, head in enumerate(axes["head"])]
        label = "head {}"
    else:
        found = [
            ((layer, head), values[i, j], names[2], names[3])
            for i, layer in enumerate(axes["layer"])
            for j, head in enumerate(axes["head"])
        ]
        label = "head {}.{}"
    size = [np.abs(part - result.base_value).max() for _, part, _, _ in found]
    kept = sorted(np.argsort(size, kind="stable")[::-1][:MOST_PANELS])
    prefix = f"{title}, " if title else ""
    return [
        Panel(result, part, axes[down], axes[across], (down, across), prefix + label.format(*which))
        for which, part, down, across in (found[i] for i in kept)
    ]


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
    gaps = [abs(r.target_value - r.base_value) for r in results]
    half = max(
        max(float(np.abs(r.values - r.base_value).max()) for r in results), max(gaps) / 20
    )  # rounding stays white
    shifted = np.ptp(bases) > 1e-3 * half or len(units) > 1
    unit = units.pop() if len(units) == 1 else "the metric of each map"
    return Scale(0.0 if shifted else bases[0], half or 1.0, shifted, f"change of {unit}" if shifted else unit)


def shown_range(scale, results):
    """The part of the scale in which there are values, with a margin."""
    lo = min(float((r.values - r.base_value).min()) for r in results) / scale.half
    hi = max(float((r.values - r.base_value).max()) for r in results) / scale.half
    lo, hi = max(-1.0, min(lo - 0.06, -0.12)), min(1.0, max(hi + 0.06, 0.12))
    return scale.centre + scale.half * lo, scale.centre + scale.half * hi


def colour_bar(fig, axes, mesh, scale, results, shrink):
    """The bar, cut to the values that occur, with marks for the clean and the corrupted run."""
    bar = fig.colorbar(mesh, ax=axes, fraction=0.04, pad=0.015, aspect=28 * shrink, shrink=shrink)
    bar.set_label(drawable(scale.unit), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)
    lo, hi = shown_range(scale, results)
    bar.ax.set_ylim(lo, hi)
    marks = (("clean", results[0].clean_value), ("corrupted", results[0].corrupted_value))
    beyond = []
    for name, value in (("not patched", 0.0),) if scale.shifted else marks:
        if lo <= value <= hi:
            bar.ax.axhline(value, color="black", linewidth=1.2)
            place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
            bar.ax.annotate(f"{name} ", (0, value), fontsize=8, **place)
        else:
            beyond.append(f"{name} {value:.2f}\noff the scale")
    bar.ax.set_title("\n".join(beyond), fontsize=7, loc="right")


# The figure


def figure(results, titles=None, mark=None, note=""):
    """Draw results as one Figure with one scale, with a title for each where there are several.

    mark is the index of a cell to outline in every map; note is a line below the heading.
    """
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    titles = titles or ([""] if len(results) == 1 else own_titles(results))
    if titles[0] and len(runs_of(results)) > 1:
        titles = [
            f"{title}: clean {r.clean_value:.2f}, corrupted {r.corrupted_value:.2f}"
            for title, r in zip(titles, results)
        ]
    parts = [panel for r, title in zip(results, titles) for panel in panels(r, title)]
    scale, names = common_scale(results), [column_labels(panel) for panel in parts]
    down, across, size = layout(parts, names)
    fig = Figure(size, layout="constrained")
    grid = fig.subplots(down, across, squeeze=False)
    below = len(parts) - across if all(name == names[0] for name in names) else 0  # from here on, columns are labelled
    meshes = []
    for i, (ax, panel) in enumerate(zip(grid.flat, parts)):
        if panel.columns:
            meshes.append(draw_map(ax, panel, scale, names[i] if i >= below else [], roomy=len(parts) <= 4))
            if mark:
                outline(ax, panel, mark)
        else:
            draw_bars(ax, panel, scale, results)
        ax.set_ylabel(panel.axes[0] if i % across == 0 else "", fontsize=9)
        if i % across and panel.axes[0] == "position":
            ax.set_yticklabels([])
        ax.set_title(drawable(panel.title), fontsize=9, loc="left")
    for ax in grid.flat[len(parts) :]:
        ax.set_visible(False)
    if meshes:
        colour_bar(fig, list(grid.flat), meshes[0], scale, results, shrink=1 if down == 1 else 0.6)
    first, *rest = heading(results, note)
    n = int(size[0] * 12)
    lines = [line for text in rest for line in wrapped(text, n)]
    fig.suptitle(drawable("\n".join([*wrapped(first, n), *lines])), fontsize=10, x=0.012, ha="left", linespacing=1.35)
    return fig


def compared(exact, estimate):
    """Draw an attribution beside the exact map, with their correlation and the cell where they differ most outlined."""
    correlation, worst = story.agreement(exact, estimate)
    place = {axis: chosen[i] for (axis, chosen), i in zip(exact.axes.items(), worst)}
    where = ", ".join(f"{axis} {i}" for axis, i in place.items())
    note = (
        f"correlation {correlation:.3f}; they differ most at {where}: "
        f"exact {exact.values[worst]:.2f}, estimate {estimate.values[worst]:.2f}"
    )
    return figure([exact, estimate], ["exact (patched)", "estimate (attribution)"], worst, note)


def heading(results, note=""):
    """The lines above a figure: what was patched, in which model, which way, and the two runs' values."""
    r, same = results[0], len(runs_of(results)) == 1
    what = "Attribution" if all(r.method == "attribution" for r in results) else "Activation patching"
    sites, models = (dict.fromkeys(getattr(r, name) for r in results) for name in ("site", "model"))
    way = (
        "clean vectors written into the corrupted run"
        if r.direction == "denoising"
        else "corrupted vectors written into the clean run"
    )
    blend = f" (alpha {r.alpha:g})" if r.alpha != 1 else ""
    runs = f"; clean {r.clean_value:.2f}, corrupted {r.corrupted_value:.2f}" if same else ""
    lines = [
        f"{what} of {', '.join(sites)} in {', '.join(map(story.short, models))}",
        f"{r.direction}: {way}{blend}{runs}",
    ]
    return [*lines, note] if note else lines


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
    wide = max(3.4, n_columns * shrunk * (0.5 if n_columns <= 12 else max(0.24, 0.5 - 0.011 * (n_columns - 12)))) + 0.6
    high = n_rows * shrunk * (0.34 if n_rows <= 14 else max(0.14, 4.8 / n_rows)) + 0.4
    across = max(1, min(len(parts), int(17.5 // wide)))
    even = max(n for n in range(1, across + 1) if len(parts) % n == 0)
    across = even if 2 * even >= across else math.ceil(len(parts) / math.ceil(len(parts) / across))
    down = math.ceil(len(parts) / across)
    labels = 0.07 * max(len(label) for name in names for label in [*name, ""])
    labels *= 1 if all(name == names[0] for name in names) else down
    return down, across, (min(WIDEST, wide * across + 1.3), min(HIGHEST, high * down + min(labels, 3.0 * down) + 0.8))


def column_labels(panel):
    return [str(i) if panel.axes[1] == "head" else label(panel.result, panel.axes[1], i) for i in panel.columns]


def row_labels(panel):
    return [str(i) if panel.axes[0] in ("layer", "head") else label(panel.result, panel.axes[0], i) for i in panel.rows]


def label(result, axis, index, most=34):
    text = save.axis_label(result, axis, index)
    return drawable(text if len(text) <= most else text[: most - 1] + "…")


def draw_map(ax, panel, scale, labels, roomy):
    values = scale.of(panel)
    n_rows, n_columns = values.shape
    mesh = ax.imshow(
        values, cmap=COLOURS, norm=CenteredNorm(scale.centre, scale.half), aspect="auto", interpolation="nearest"
    )
    for axis, index, shown, most in (
        (ax.yaxis, panel.rows, row_labels(panel), 60),
        (ax.xaxis, panel.columns, labels, 130),
    ):
        at = range(0, len(index), math.ceil(len(index) / most))  # integers: a repeated token stays a column of its own
        axis.set_ticks(at, [shown[i] for i in at] if shown else [""] * len(at))
        axis.set_ticks(np.arange(1, len(index)) - 0.5, minor=True)
        for i, text in zip(at, axis.get_ticklabels()):
            if (
                axis.axis_name == "x"
                and panel.axes[1] in ("position", "source")
                and index[i] in story.differing(panel.result)
            ):
                text.set_fontweight("bold")
    tilt = {"rotation": 90} if n_columns > 16 else {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
    for text in ax.get_xticklabels():
        text.set(fontsize=8 if n_columns <= 24 else 7, **({} if panel.axes[1] == "head" else tilt))
    ax.tick_params(axis="y", labelsize=8 if n_rows <= 30 else 6)
    ax.tick_params(length=2, width=0.5)
    ax.tick_params(which="minor", length=0)
    ax.grid(which="minor", color="0.9", linewidth=0.4)
    ax.set_xlabel(panel.axes[1] if panel.axes[1] != "position" else "", fontsize=9)
    for spine in ax.spines.values():
        spine.set_linewidth(0.5)
    if roomy and n_columns <= 16 and n_rows <= 16:
        write_numbers(ax, values, scale, mesh)
    return mesh


def write_numbers(ax, values, scale, mesh):
    """The values of the cells that a reader will ask for: those with a tenth of the strongest colour or more."""
    for (row, column), value in np.ndenumerate(values):
        if abs(value - scale.centre) >= 0.1 * scale.half:
            ink = "white" if abs(value - scale.centre) > 0.55 * scale.half else "black"
            text = f"{value:.1f}" if scale.half >= 3 else f"{value:.2f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)


def outline(ax, panel, mark):
    """Frame the cell with this index in the result's values."""
    chosen = panel.result.axes
    row, column = (
        shown.index(chosen[axis][i]) for shown, axis, i in zip((panel.rows, panel.columns), panel.axes, mark)
    )
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.8, zorder=5))


def draw_bars(ax, panel, scale, results):
    """A single column as bars from the value of the run that was patched, layer 0 on top."""
    values, at = scale.of(panel)[:, 0], range(len(panel.rows))
    mesh_colour = [COLOURS(0.5 + 0.5 * (value - scale.centre) / scale.half) for value in values]
    ax.barh(
        at, values - scale.centre, left=scale.centre, color=mesh_colour, height=0.75, edgecolor="0.4", linewidth=0.4
    )
    ax.axvline(scale.centre, color="black", linewidth=0.8)
    ax.set_yticks(at, [str(i) for i in panel.rows])
    ax.invert_yaxis()
    lo, hi = shown_range(scale, results)
    ax.set_xlim(lo - 0.03 * scale.half, hi)
    if not scale.shifted:
        for name, value in (("clean", panel.result.clean_value), ("corrupted", panel.result.corrupted_value)):
            if ax.get_xlim()[0] <= value <= ax.get_xlim()[1]:
                ax.axvline(value, color="black", linewidth=0.8, linestyle=":")
                ax.annotate(
                    name, (value, 0), (2, 3), ("data", "axes fraction"), "offset points", fontsize=7, rotation=90
                )
    ax.tick_params(labelsize=8)
    ax.set_xlabel(drawable(scale.unit), fontsize=9)


def drawable(text):
    """Text that the figure's font can draw and that is not read as mathematics: other characters become escapes."""
    has = get_font(findfont(FontProperties())).get_char_index
    shown = "".join(c if c in "\n" or has(ord(c)) else c.encode("ascii", "backslashreplace").decode() for c in text)
    return shown.replace("$", r"\$")


# Files


def check_picture(path):
    """Raise ValueError or OSError, in one sentence, for a path that no picture can be written to."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write {path}: a picture's name ends in {', '.join(SUFFIXES)}")
    save.check_writable(path)


def write(fig, path):
    """Write a figure to a .png, .pdf or .svg, in one move: an interrupted command leaves the old file as it was."""
    check_picture(path)
    kind = Path(path).suffix.lower().lstrip(".")
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)  # equal results, equal files
    with save.replacing(path) as temporary:
        fig.savefig(temporary, format=kind, dpi=150, metadata=dates)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m patching.plot", description="Draw saved results again, on one scale."
    )
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="what python -m patching.demo --save has written")
    parser.add_argument("--out", metavar="FILE", help="a .png, .pdf or .svg (default: the first file's name with .png)")
    args = parser.parse_args()
    out = args.out or str(save.paths(args.files[0])[0].with_suffix(".png"))
    check_picture(out)
    results = [save.load(file) for file in args.files]
    write(compared(*results) if [r.method for r in results] == ["patching", "attribution"] else figure(results), out)
    print(out)


if __name__ == "__main__":
    sys.exit(guarded(main))
