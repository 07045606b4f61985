"""What lens.py finds, and attention patterns, as figures: layers down with layer 0 on top, tokens across.

Each function returns a style.Picture, which is a matplotlib Figure; style.write() puts one into a file.
"""

import math

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle

from ..terminal import known_as
from .style import SHARE, SIGNED, Picture, cell_lines, clipped, colour_bar, isolated, settings

BAND = 20  # columns of a logit lens side by side; a longer text goes on in another band below
MOST = 80  # positions drawn, the last ones of a longer text
LONGEST = 120  # characters of a title or a note


# Words


def positions(run):
    """The positions that are drawn, and a label for each: two equal tokens keep labels of their own."""
    at = range(max(0, len(run.tokens) - MOST), len(run.tokens))
    return at, [isolated(f"{i}  ", clipped(text, 14)) for i, text in zip(at, run.model.labels(run.tokens[at.start :]))]


def heading(fig, run, title, *notes):
    """The figure's title, and below it the model and notes, in smaller letters."""
    left_out = max(0, len(run.tokens) - MOST)
    notes = [known_as(run.model.name), *notes, f"the first {left_out} positions are left out" if left_out else ""]
    fig.suptitle(clipped(title, LONGEST), x=0.012, ha="left", fontsize=12)
    shown = (clipped(note, LONGEST) for note in notes if note)
    fig.text(0.012, 0.012, "   ·   ".join(shown), fontsize=8, color="0.35")


# Figures


@settings()
def lens_figure(lens, about=""):
    """Draw a logit lens: each cell's likeliest token, coloured by its probability, framed once it is the final one.

    about is said of the run below the picture, as of every figure here.
    """
    run = lens.run
    at, columns = positions(run)
    band = math.ceil(len(at) / math.ceil(len(at) / BAND))  # bands of equal length
    bands = [at[i : i + band] for i in range(0, len(at), band)]
    n_depths, width = len(lens.top_tokens), max(5, band)
    fig = new_figure(0.68 * width + 1.9, (0.25 * n_depths + 1.15) * len(bands) + 0.9)
    grid = fig.subplots(len(bands), 1, squeeze=False)[:, 0]
    for ax, band in zip(grid, bands):
        tokens, p = lens.top_tokens[:, band, 0], lens.top_probabilities[:, band, 0]
        shown = np.full((n_depths, width), np.nan)
        shown[:, : len(band)] = p
        mesh = ax.imshow(shown, cmap=SHARE, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for (depth, column), token in np.ndenumerate(tokens):
            text = clipped(run.model.labels([token])[0], 9)
            ink = "white" if p[depth, column] > 0.55 else "black"
            ax.text(column, depth, text, ha="center", va="center", fontsize=7, color=ink)
            if (tokens[depth:, column] == token).all():
                corner = (column - 0.47, depth - 0.44)
                ax.add_patch(Rectangle(corner, 0.94, 0.88, fill=False, edgecolor="#e08214", linewidth=0.9))
        ax.set_xticks(range(len(band)), columns[band.start - at.start : band.stop - at.start])
        ax.set_yticks(range(n_depths), ["embedding", *(f"layer {i}" for i in range(n_depths - 1))])
        tidy(ax, n_depths, width)
        ax.set_xlim(-0.5, width - 0.5)
    colour_bar(fig, grid, mesh, "probability of the cell's token")
    heading(
        fig, run, "Logit lens: what the model would predict next if it stopped after each layer", about,
        "framed: the final prediction, from the layer on at which it stays",
    )  # fmt: skip
    return fig


@settings()
def attribution_figure(attribution, about="", beside=()):
    """Draw a direct logit attribution: a layer x head map, and bars of what each layer's attention and MLP write.

    beside are the attributions of pictures that stand beside this one: all get the same scale.
    """
    a, all_of_them = attribution, [attribution, *beside]
    n_layer, n_head = a.heads.shape
    others = [
        ("token emb.", -2, "embedding"),
        ("position emb.", -1, "position_embedding"),
        ("ln_f bias", n_layer, "ln_f_bias"),
    ]
    if any(each.overwritten for each in all_of_them):
        others.append(("overwritten", n_layer + 1, "overwritten"))
    names, places, fields = zip(*others)
    fig = new_figure(0.44 * max(n_head, 6) + 7.2, 0.3 * (n_layer + 3) + 1.7)
    left, right = fig.subplots(1, 2, width_ratios=[0.44 * max(n_head, 6), 4.4])
    most = max(np.abs(each.heads).max() for each in all_of_them) or 1
    edges = np.arange(n_head + 1) - 0.5, np.arange(n_layer + 1) - 0.5
    mesh = left.pcolormesh(*edges, a.heads, cmap=SIGNED, vmin=-most, vmax=most, edgecolors="0.88", linewidth=0.4)
    for (layer, head), value in np.ndenumerate(a.heads):
        if abs(value) >= 0.15 * most and n_head <= 16:
            ink = "white" if abs(value) > 0.6 * most else "black"
            left.text(head, layer, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=ink)
    left.set_xticks(range(n_head))
    left.set_yticks(range(n_layer))
    left.set_ylim(places[-1] + 0.5, -2.5)  # the rows of the bars beside it
    left.tick_params(length=0, labelsize=8, pad=1)
    left.spines[:].set_visible(False)
    left.set_xlabel("head", fontsize=9)
    left.set_ylabel("layer", fontsize=9)
    left.set_title("each head", fontsize=9, loc="left")
    colour_bar(fig, [left], mesh)

    at = np.arange(n_layer)
    for y, values, colour, name in (
        (at - 0.2, a.attn, "#5e3c99", "attention: its heads and bias"),
        (at + 0.2, a.mlp, "#e08214", "MLP"),
        (places, [getattr(a, field) for field in fields], "0.45", None),
    ):
        bars = right.barh(y, values, 0.38, color=colour, label=name)
        right.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=6)
    bars = [(*each.attn, *each.mlp, *(getattr(each, field) for field in fields)) for each in all_of_them]
    lo, hi = min(0, np.min(bars)), max(0, np.max(bars))
    right.set_xlim(lo - 0.14 * (hi - lo), hi + 0.14 * (hi - lo))
    right.axvline(0, color="black", linewidth=0.8)
    right.set_yticks([*at, *places], [*map(str, at), *names], fontsize=8)
    right.set_ylim(places[-1] + 0.5, -2.5)
    right.tick_params(labelsize=8, length=2)
    right.grid(axis="x", color="0.9", linewidth=0.5)
    right.set_axisbelow(True)
    right.spines[["top", "right"]].set_visible(False)
    right.set_title("each layer", fontsize=9, loc="left")
    fig.legend(*right.get_legend_handles_labels(), fontsize=8, loc="upper right", ncols=2, frameon=False)
    token = a.run.model.labels([a.run.tokens[a.position]])[0]
    heading(
        fig, a.run, f"{a.question} = {a.total:+.2f}: who wrote it", about,
        f"at position {a.position}, {token}; all terms add up to {a.total:+.2f}; final layer-norm scale frozen",
    )  # fmt: skip
    return fig


@settings()
def pattern_figure(run, layer, head):
    """Draw where one head looks: destinations down, sources across; each row sums to 1."""
    c = run.model.config
    whole = all(isinstance(i, (int, np.integer)) for i in (layer, head))
    if not (whole and 0 <= layer < c.n_layer and 0 <= head < c.n_head):
        ranges = f"layers are 0 to {c.n_layer - 1}, heads 0 to {c.n_head - 1}, and a picture shows one"
        raise ValueError(f"there is no head {layer!r:.30}.{head!r:.30}: {ranges}")
    at, names = positions(run)
    pattern = run.pattern[layer, head, at.start :, at.start :]
    n = len(at)
    cell = 0.42 if n <= 16 else max(0.13, 0.26 - 0.003 * (n - 16))
    label = 0.075 * max(map(len, names))
    fig = new_figure(max(5.2, cell * n + label + 1.3), max(3.4, cell * n + label + 1.1))
    ax = fig.subplots()
    ax.set_facecolor("0.93")
    shown = np.where(np.tri(n, dtype=bool), pattern, np.nan)
    mesh = ax.imshow(shown, cmap=SHARE, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")  # small shares show too
    if n <= 16:
        for (row, column), value in np.ndenumerate(pattern):
            if value >= 0.095:
                ink = "white" if value > 0.3 else "black"
                ax.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=ink)
    ax.set_xticks(range(n), names)
    ax.set_yticks(range(n), names)
    tidy(ax, n, n, small=n > 30)
    ax.set_xlabel("source: the position that is read", fontsize=9)
    ax.set_ylabel("destination: the position that reads", fontsize=9)
    colour_bar(fig, [ax], mesh, "share of the attention")
    notes = "each row sums to 1", "shades by the square root, so that small shares show"
    heading(fig, run, f"Attention pattern of head {layer}.{head}", *notes)
    return fig


def new_figure(width, height):
    fig = Picture((width, height), layout="constrained")
    fig.get_layout_engine().set(rect=(0, 0.3 / height, 1, 1 - 0.3 / height))  # below it stands heading's note
    return fig


def tidy(ax, n_rows, n_columns, small=False):
    """Thin lines between the cells, small labels, tokens set at an angle."""
    cell_lines(ax, n_rows, n_columns)
    ax.tick_params(labelsize=6.5 if small else 8)
    angle = {"rotation": 90} if small else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    for text in ax.get_xticklabels():
        text.set(**angle)
