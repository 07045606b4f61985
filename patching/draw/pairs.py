"""The picture of a set of pairs: the mean map, with the cells told apart whose interval holds zero; and all pairs as dots."""

import math

import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minigpt2.pictures import style
from minigpt2.pictures.style import SIGNED, drawable
from minigpt2.terminal import known_as, wrapped

from ..explain.pairs import LEVEL, checked_words, place_of, set_cells
from ..sites import SITES
from .panels import MOST_PANELS


def set_figure(result, level=LEVEL):
    """Draw the mean effect of each cell; those whose bootstrap interval of that level holds zero are hatched."""
    mean, (low, high) = result.effects.mean(axis=0), result.interval(level, of="effects")
    unsure = (low <= 0) & (high >= 0)
    maps = maps_of(result, mean, unsure)
    n_rows, n_columns = maps[0][1].shape
    across = min(len(maps), 3)
    down = math.ceil(len(maps) / across)
    wide, high = max(7.0 / across, 0.48 * n_columns + 1.0), max(2.4, 0.34 * n_rows + 0.6)
    fig = Figure((min(40, across * wide + 1.2), min(40, down * high + 1.9)), layout="constrained")
    grid = fig.subplots(down, across, squeeze=False)
    half = float(np.abs(mean).max()) or 1.0
    for ax, (title, values, hatched, rows, columns) in zip(grid.flat, maps):
        mesh = ax.imshow(values, cmap=SIGNED, norm=CenteredNorm(0, half), aspect="auto", interpolation="nearest")
        for row, column in np.argwhere(hatched):
            ax.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", edgecolor="0.6", linewidth=0)
            )
        ax.set_yticks(range(n_rows), rows, fontsize=8)
        tilt = (
            {"rotation": 50, "ha": "right", "rotation_mode": "anchor"} if any(len(text) > 3 for text in columns) else {}
        )
        ax.set_xticks(range(n_columns), list(map(drawable, columns)), fontsize=8, **tilt)
        style.cell_lines(ax, n_rows, n_columns)
        ax.set_title(drawable(title), fontsize=9, loc="left")
        ax.set_ylabel(next(iter(result.axes)), fontsize=9)
        ax.set_xlabel("head" if list(result.axes)[1:2] == ["head"] else "", fontsize=9)
        if n_columns <= 16 and len(maps) <= 3:
            write_numbers(ax, values, half)
    for ax in grid.flat[len(maps) :]:
        ax.set_visible(False)
    style.colour_bar(
        fig, list(grid.flat), mesh, "\n".join(wrapped(f"mean change of {result.unit}", int(12 * down * high)))
    )
    lines = heading(result, f"hatched: the {level:.0%} interval of the mean holds zero", len(maps))
    fig.suptitle(title_text(lines, fig), fontsize=10, x=0.012, ha="left", linespacing=1.35)
    return fig


def maps_of(result, mean, unsure):
    """[(title, values [n_rows, n_columns], unsure, row labels, column labels)]: a map, or of three axes one for each entry
    of the last, at most MOST_PANELS of them, with the largest effects."""
    axes = list(result.axes)
    if len(axes) > 3:
        raise ValueError("a map of single pattern entries has no picture over pairs: draw one source, or use to_csv")
    rows = list(map(str, result.axes[axes[0]]))
    if len(axes) == 1:
        return [("", mean[:, None], unsure[:, None], rows, ["all positions" if axes[0] == "layer" else ""])]
    if len(axes) == 2:
        return [("", mean, unsure, rows, labels(result, axes[1]))]
    kept = sorted(np.argsort(-np.abs(mean).max(axis=(0, 1)), kind="stable")[:MOST_PANELS])
    names = labels(result, axes[2])
    return [(f"{axes[2]} {names[i]}", mean[:, :, i], unsure[:, :, i], rows, labels(result, axes[1])) for i in kept]


def labels(result, axis):
    return [str(i) for i in result.axes[axis]]


def write_numbers(ax, values, half):
    for (row, column), value in np.ndenumerate(values):
        if abs(value) >= 0.1 * half:
            text = f"{value:.1f}" if half >= 3 else f"{value:.2f}"
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color="white" if abs(value) > 0.55 * half else "black",
            )


def dots(result, n=12):
    """Every pair's effect as a dot, for the n cells with the largest mean effect; the bar is the mean's interval."""
    cells = set_cells(result, n)
    if not cells:
        raise ValueError("no cell has a mean effect whose interval leaves out zero: there is nothing to draw")
    fig = Figure((8.5, 0.36 * len(cells) + 2.0), layout="constrained")
    ax = fig.subplots()
    names = list(result.axes)
    for row, cell in enumerate(cells):
        index = tuple(result.axes[name].index(cell.place[name]) for name in names)
        effects = result.effects[(slice(None), *index)]
        ax.plot(effects, row + 0.18 * np.sin(np.arange(len(effects)) * 2.4), ".", color="0.55", markersize=4)
        ax.plot(
            [cell.low, cell.high],
            [row, row],
            color=SIGNED(0.9 if cell.effect > 0 else 0.1),
            linewidth=3,
            solid_capstyle="butt",
        )
        ax.plot([cell.effect], [row], "|", color="black", markersize=11)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(cells)), [drawable(place_of(result, cell.place)) for cell in cells], fontsize=8)
    ax.invert_yaxis()
    ax.tick_params(labelsize=8)
    ax.set_xlabel(drawable(f"change of {result.unit}"), fontsize=9)
    lines = heading(result, f"a dot is a pair, the mark the mean, the bar its {LEVEL:.0%} interval", 1)
    fig.suptitle(title_text(lines, fig), fontsize=10, x=0.012, ha="left", linespacing=1.35)
    return fig


def heading(r, note, n_maps):
    """The lines above a picture of a set."""
    what = "Attribution" if r.method == "attribution" else "Activation patching"
    everywhere = "" if {"position", "role", "set"} & {*r.axes} else ", all positions at once"
    n_all = len(r.axes[list(r.axes)[-1]]) if len(r.axes) == 3 else 1
    return [
        f"{what} of {r.site} ({SITES[r.site].words.format('each')}){everywhere}: mean over {r.count}",
        f"{known_as(r.model)}, {r.direction}"
        + (f", alpha {r.alpha:g}" if r.alpha != 1 else "")
        + f"; written: {r.source}",
        f"mean of the clean runs {r.clean_values.mean():.2f}, of the corrupted runs {r.corrupted_values.mean():.2f}; {note}",
        *([f"shown: the {n_maps} of {n_all} maps with the largest effects"] if n_maps < n_all else []),
        checked_words(r),
    ]


def title_text(lines, fig):
    n = int(fig.get_size_inches()[0] * 12)
    return drawable("\n".join(line for text in lines for line in wrapped(text, n)))
