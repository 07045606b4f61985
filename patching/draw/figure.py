"""Results as pictures: layers down with layer 0 on top, tokens across with their positions, white where a patch has no
effect (the value of the run that was patched), red above and blue below, one scale for all maps of a figure.

figure() draws any number of results, compared() an attribution beside the exact map, write() puts a figure into a file.
Only matplotlib's objects are used, never pyplot: no window, no global state. Again from a saved result:

    python -m patching.draw figures/surname_resid_post_gpt2.npz [more.npz] --out picture.pdf
"""

import math

import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.patches import Rectangle

from minigpt2.pictures import style
from minigpt2.pictures.style import (
    Picture,
    check_picture,
    clipped,
    colour_map,
    drawable,
    ink,
    isolated,
    settings,
    write,
)
from minigpt2.terminal import known_as, wrapped

from ..explain.findings import agreement
from ..result import Result
from ..sites import SITES
from .panels import (
    LONGEST,
    common_scale,
    cut_words,
    layout,
    own_titles,
    panels,
    runs_of,
    shown_range,
)

__all__ = ["check_picture", "compared", "figure", "write"]
MOST_TICKS = {"y": 60, "x": 130}  # labels along an axis
LONGEST_LINE = 400  # characters of one line of a heading, before it is wrapped


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


@settings()
def figure(results, titles=None, mark=None, note="", *, size=None, cmap=None, ax=None):
    """Draw one Result, or a list of them with one scale, as a Picture, which is a matplotlib Figure.

    titles has one text for each result, where there are several. mark is the place of a cell to outline, {"layer": 2,
    "position": 1}; note is a line below the heading. For a figure in a paper: size is (width, height) in inches, cmap a
    matplotlib Colormap or its name (the middle of which means no effect), and ax an Axes of a figure of your own, into
    which the one map is drawn, with its colour bar and without a heading. Raises ValueError for anything else.
    """
    results, titles = checked(results, titles, mark)
    if titles[0] and len(runs_of(results)) > 1:
        titles = [
            f"{title}: clean {r.clean_value:.2f}, corrupted {r.corrupted_value:.2f}"
            for title, r in zip(titles, results)
        ]
    parts = [panel for r, title in zip(results, titles) for panel in panels(r, title)]
    scale, cmap = common_scale(results), colour_map(cmap)
    names = [tick_labels(panel, "x") for panel in parts]
    down, across, usual = layout(parts, names)
    if ax is None:
        fig = Picture(checked_size(size) or usual, layout="constrained")
        grid = fig.subplots(down, across, squeeze=False)
    else:
        fig, grid = own_axes(ax, parts, size)
    below = len(parts) - across if all(name == names[0] for name in names) else 0  # from here on, columns are labelled
    meshes = []
    for i, (ax_, panel) in enumerate(zip(grid.flat, parts)):
        if panel.columns:
            meshes.append(draw_map(ax_, panel, scale, cmap, names[i] if i >= below else [], roomy=len(parts) <= 4))
            if mark:
                outline(ax_, panel, mark)
        else:
            draw_bars(ax_, panel, scale, cmap, results)
        ax_.set_ylabel(panel.axes[0] if i % across == 0 else "", fontsize=9)
        if i % across and panel.axes[0] == "position":
            ax_.set_yticklabels([])
        ax_.set_title(clipped(panel.title, 80), fontsize=9, loc="left")
    for unused in grid.flat[len(parts) :]:
        unused.set_visible(False)
    if meshes:
        colour_bar(fig, list(grid.flat), meshes[0], scale, results, shrink=1 if down == 1 else 0.6)
    if ax is None:
        n = int(fig.get_figwidth() * 12)
        lines = [line for text in heading(results, note) for line in wrapped(text[:LONGEST_LINE], n)]
        fig.suptitle("\n".join(map(drawable, lines)), fontsize=10, x=0.012, ha="left", linespacing=1.35)
    return fig


def checked(results, titles, mark):
    """Results and titles as lists of one length, or a ValueError."""
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    wrong = [r for r in results if not isinstance(r, Result)]
    if wrong or not results:
        got = f"got {type(wrong[0]).__name__}" if wrong else "the list is empty"
        raise ValueError(f"figure draws what sweep or attribute returns, one Result or a list of them; {got}")
    titles = [titles] if isinstance(titles, str) else list(titles or ())
    titles = titles or ([""] if len(results) == 1 else own_titles(results))
    if len(titles) != len(results):
        raise ValueError(f"{len(results)} results need a title each, got {len(titles)}: {', '.join(titles)}")
    for axis, i in (mark or {}).items():
        if not all(i in r.axes.get(axis, ()) for r in results):
            raise ValueError(f"mark {mark}: there is no {axis} {i} in {results[0]!r}")
    return results, titles


def checked_size(size):
    """(width, height) in inches, or None for None."""
    if size is None:
        return None
    pair = np.asarray(size)
    if pair.shape != (2,) or pair.dtype.kind not in "iuf" or not ((pair >= 1) & (pair <= 100)).all():
        raise ValueError(f"size is {size!r:.60}; expected (width, height) in inches, each from 1 to 100")
    return tuple(map(float, pair))


def own_axes(ax, parts, size):
    """The figure of an Axes of the user's, and that Axes as a grid."""
    if not hasattr(ax, "imshow"):
        raise ValueError(f"ax is {type(ax).__name__}, not a matplotlib Axes")
    if len(parts) > 1:
        raise ValueError(
            f"ax has room for one map, and this makes {len(parts)}: leave ax out, or choose one result and head"
        )
    if size is not None:
        raise ValueError("size is that of a new figure: leave it out beside ax, whose figure has one")
    return ax.get_figure(), np.array([[ax]])


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
    blend = f" (alpha {r.alpha:g})" if r.alpha != 1 else ""
    gloss = f" ({SITES[r.site].words.format('each')})" if len(sites) == 1 else ""
    gloss += "" if any("position" in each.axes for each in results) else ", all positions at once"
    lines = [
        f"{what} of {', '.join(sites)}{gloss}",
        f"{', '.join(map(known_as, models))}, {r.direction}: {r.way}{blend}",
        f"clean {r.clean_value:.2f}, corrupted {r.corrupted_value:.2f}" if same else "",
        note,
        *(f"shown: {words}" for words in dict.fromkeys(map(cut_words, results)) if words),
    ]
    return [line for line in lines if line]


def tick_indices(panel, axis):
    """The rows ("y") or columns ("x") of a map that have room for a label."""
    index = panel.rows if axis == "y" else panel.columns
    step = 1 if len(index) <= MOST_TICKS[axis] else math.ceil(len(index) / (0.7 * MOST_TICKS[axis]))
    return range(0, len(index), step)


def tick_labels(panel, axis):
    """What stands at those: the number, and at a position the token, or both where they differ."""
    index, name = (panel.rows, panel.axes[0]) if axis == "y" else (panel.columns, panel.axes[1])
    if name not in ("position", "source"):
        return [str(index[i]) for i in tick_indices(panel, axis)]
    return [position_label(panel.result, index[i]) for i in tick_indices(panel, axis)]


def position_label(result, pos):
    tokens = result.tokens_at(pos)
    most = LONGEST if len(tokens) == 1 else LONGEST // 2
    return isolated(f"{pos} ", *(clipped(token, most) for token in tokens))


def draw_map(ax, panel, scale, cmap, labels, roomy):
    values = scale.of(panel)
    n_rows, n_columns = values.shape
    norm = CenteredNorm(scale.centre, scale.half)
    mesh = ax.imshow(values, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
    # at integers: a repeated token stays a column of its own
    ax.set_yticks(tick_indices(panel, "y"), tick_labels(panel, "y"))
    at = tick_indices(panel, "x")
    ax.set_xticks(at, labels or [""] * len(at))
    if panel.axes[1] in ("position", "source"):
        changed = set(panel.result.tokens.differing)
        for i, text in zip(at, ax.get_xticklabels()):
            text.set_fontweight("bold" if panel.columns[i] in changed else "normal")
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
            text, colour = f"{value:.1f}" if scale.half >= 3 else f"{value:.2f}", mesh.cmap(mesh.norm(value))
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=ink(colour))


def outline(ax, panel, place):
    """Frame the cell at this place, if it is in this map."""
    if not panel.held.items() <= place.items():
        return
    row, column = (shown.index(place[axis]) for shown, axis in zip((panel.rows, panel.columns), panel.axes))
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.8, zorder=5))


def draw_bars(ax, panel, scale, cmap, results):
    """A single column as bars from the value of the run that was patched, layer 0 on top."""
    values, at = scale.of(panel)[:, 0], range(len(panel.rows))
    mesh_colour = [cmap(0.5 + 0.5 * (value - scale.centre) / scale.half) for value in values]
    if len(at) <= style.MOST_LINES:
        left, length = scale.centre, values - scale.centre
        ax.barh(at, length, left=left, color=mesh_colour, height=0.75, edgecolor="0.4", linewidth=0.4)
    else:  # a Rectangle each would take seconds
        ax.hlines(at, scale.centre, values, color=mesh_colour, linewidth=0.6)
    ax.axvline(scale.centre, color="black", linewidth=0.8)
    ax.set_yticks(tick_indices(panel, "y"), tick_labels(panel, "y"))
    ax.invert_yaxis()
    lo, hi = shown_range(scale, results)
    ax.set_xlim(lo - 0.03 * scale.half, hi)
    if not scale.shifted:
        name_runs(ax, panel.result)
    ax.tick_params(labelsize=8)
    ax.set_xlabel(clipped(scale.unit, style.MOST_UNIT), fontsize=9)


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
