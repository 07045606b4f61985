"""Results as pictures: layers down with layer 0 on top, tokens across with their positions, white where a patch has no
effect (the value of the run that was patched), red above and blue below, one scale for all maps of a figure.

figure() draws any number of results, compared() an attribution beside the exact map, write() puts a figure into a file.
Only matplotlib's objects are used, never pyplot: no window, no global state. Again from a saved result:

    python -m patching.draw figures/surname_resid_post_gpt2.npz [more.npz] --out picture.pdf
"""

import math

import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minigpt2.pictures import style
from minigpt2.pictures.style import SIGNED, check_picture, drawable, write
from minigpt2.terminal import known_as, wrapped

from ..explain.findings import agreement
from ..sites import SITES
from .panels import (
    column_labels,
    common_scale,
    cut_words,
    layout,
    own_titles,
    panels,
    row_labels,
    runs_of,
    shown_range,
)

__all__ = ["check_picture", "compared", "figure", "write"]


def colour_bar(fig, axes, mesh, scale, results, shrink):
    """The bar, cut to the values that occur, with marks for the clean and the corrupted run."""
    bar = style.colour_bar(fig, axes, mesh, scale.unit, shrink)
    lo, hi = shown_range(scale, results)
    bar.ax.set_ylim(lo, hi)
    marks = (("clean", results[0].clean_value), ("corrupted", results[0].corrupted_value))
    beyond = []
    for name, value in (("no effect", 0.0),) if scale.shifted else marks:
        if lo <= value <= hi:
            bar.ax.axhline(value, color="black", linewidth=1.2)
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            if not scale.shifted and abs(value - scale.centre) < 1e-3 * scale.half:
                name += "\n(no effect)"
            bar.ax.annotate(name, (0, value), (-3, 0), **place, fontsize=8, ha="right", va="center")
        else:
            beyond.append(f"{name} {value:.2f}\noff the scale")
    bar.ax.set_title("\n".join(beyond), fontsize=7, loc="right")


# The figure


def figure(results, titles=None, mark=None, note=""):
    """Draw results as one Figure with one scale, with a title for each where there are several.

    mark is the place of a cell to outline, {"layer": 2, "position": 1}; note is a line below the heading.
    """
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    titles = titles or ([""] if len(results) == 1 else own_titles(results))
    if titles[0] and len(runs_of(results)) > 1:
        titles = [
            f"{title}: clean {r.clean_value:.2f}, corrupted {r.corrupted_value:.2f}"
            for title, r in zip(titles, results)
        ]
    parts = [panel for r, title in zip(results, titles) for panel in panels(r, title)]
    scale, names = common_scale(results), [list(map(drawable, column_labels(panel))) for panel in parts]
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
    n = int(size[0] * 12)
    lines = [line for text in heading(results, note) for line in wrapped(text, n)]
    fig.suptitle(drawable("\n".join(lines)), fontsize=10, x=0.012, ha="left", linespacing=1.35)
    return fig


def compared(exact, estimate):
    """Draw an attribution beside the exact map, with their correlation and the cell where they differ most outlined."""
    compared = agreement(exact, estimate)
    titles = ["exact (patched)", "estimate (attribution)"]
    return figure([exact, estimate], titles, compared.worst, compared.words())


def heading(results, note=""):
    """The lines above a figure: what was patched, in which model, which way, the two runs' values, and the note."""
    r, same = results[0], len(runs_of(results)) == 1
    what = "Attribution" if all(r.method == "attribution" for r in results) else "Activation patching"
    sites, models = (dict.fromkeys(getattr(r, name) for r in results) for name in ("site", "model"))
    way = f"{r.target} vectors written into the {r.base} run"
    blend = f" (alpha {r.alpha:g})" if r.alpha != 1 else ""
    gloss = f" ({SITES[r.site].words.format('each')})" if len(sites) == 1 else ""
    gloss += "" if any("position" in each.axes for each in results) else ", all positions at once"
    lines = [
        f"{what} of {', '.join(sites)}{gloss}",
        f"{', '.join(map(known_as, models))}, {r.direction}: {way}{blend}",
        f"clean {r.clean_value:.2f}, corrupted {r.corrupted_value:.2f}" if same else "",
        note,
        *(f"shown: {words}" for words in dict.fromkeys(map(cut_words, results)) if words),
    ]
    return [line for line in lines if line]


def draw_map(ax, panel, scale, labels, roomy):
    values = scale.of(panel)
    n_rows, n_columns = values.shape
    mesh = ax.imshow(
        values, cmap=SIGNED, norm=CenteredNorm(scale.centre, scale.half), aspect="auto", interpolation="nearest"
    )
    for axis, index, shown, most in (
        (ax.yaxis, panel.rows, list(map(drawable, row_labels(panel))), 60),
        (ax.xaxis, panel.columns, labels, 130),
    ):
        at = range(0, len(index), math.ceil(len(index) / most))  # integers: a repeated token stays a column of its own
        axis.set_ticks(at, [shown[i] for i in at] if shown else [""] * len(at))
        for i, text in zip(at, axis.get_ticklabels()):
            if (
                axis.axis_name == "x"
                and panel.axes[1] in ("position", "source")
                and index[i] in panel.result.tokens.differing
            ):
                text.set_fontweight("bold")
    tilt = {"rotation": 90} if n_columns > 16 else {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
    for text in ax.get_xticklabels():
        text.set(fontsize=8 if n_columns <= 24 else 7, **({} if panel.axes[1] == "head" else tilt))
    ax.tick_params(axis="y", labelsize=8 if n_rows <= 30 else 6)
    style.cell_lines(ax, n_rows, n_columns)
    ax.set_xlabel(panel.axes[1] if panel.axes[1] != "position" else "", fontsize=9)
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


def outline(ax, panel, place):
    """Frame the cell at this place, if it is in this map."""
    if not panel.held.items() <= place.items():
        return
    row, column = (shown.index(place[axis]) for shown, axis in zip((panel.rows, panel.columns), panel.axes))
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.8, zorder=5))


def draw_bars(ax, panel, scale, results):
    """A single column as bars from the value of the run that was patched, layer 0 on top."""
    values, at = scale.of(panel)[:, 0], range(len(panel.rows))
    mesh_colour = [SIGNED(0.5 + 0.5 * (value - scale.centre) / scale.half) for value in values]
    ax.barh(
        at, values - scale.centre, left=scale.centre, color=mesh_colour, height=0.75, edgecolor="0.4", linewidth=0.4
    )
    ax.axvline(scale.centre, color="black", linewidth=0.8)
    ax.set_yticks(at, [str(i) for i in panel.rows])
    ax.invert_yaxis()
    lo, hi = shown_range(scale, results)
    ax.set_xlim(lo - 0.03 * scale.half, hi)
    if not scale.shifted:
        name_runs(ax, panel.result)
    ax.tick_params(labelsize=8)
    ax.set_xlabel(drawable(scale.unit), fontsize=9)


def name_runs(ax, result):
    """Name the values of both runs above the bars; where the two are close, the names lead away from each other."""
    lo, hi = ax.get_xlim()
    runs = [(result.clean_value, "clean"), (result.corrupted_value, "corrupted")]
    runs = sorted((value, name) for value, name in runs if lo <= value <= hi)
    close = len(runs) == 2 and runs[1][0] - runs[0][0] < 0.3 * (hi - lo)
    top = ax.secondary_xaxis("top")  # ticks, so that a title goes above them
    top.set_xticks([value for value, _ in runs], [name for _, name in runs], fontsize=7)
    top.tick_params(length=0, pad=1)
    for (value, _), text, side in zip(runs, top.get_xticklabels(), ("right", "left")):
        text.set_horizontalalignment(side if close else "center")
        ax.axvline(value, color="black", linewidth=0.8, linestyle=":")
