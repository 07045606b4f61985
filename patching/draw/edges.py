"""Edges as pictures: the map of all writers and readers by layer, and beside it the strongest edges as a graph."""

import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from minigpt2.pictures import style
from minigpt2.pictures.style import SIGNED, drawable, write
from minigpt2.terminal import known_as

__all__ = ["edge_figure", "error_figure", "write"]


def edge_figure(result, n=30):
    """The effects [writers, readers] with lines between layers, and a graph of the n strongest edges."""
    fig = Figure(figsize=(15, 7), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(3, 2))
    scale = max(float(np.nanmax(np.abs(result.effects))), 1e-12)
    norm = CenteredNorm(0, scale)
    mesh = left.pcolormesh(np.ma.masked_invalid(result.effects), cmap=SIGNED, norm=norm)
    left.invert_yaxis()
    left.set_facecolor("0.93")
    for axis, names, lines in ((left.yaxis, result.writers, left.axhline), (left.xaxis, result.readers, left.axvline)):
        starts = layer_starts(names)
        axis.set_ticks([start + 0.5 for start in starts], [short(names[start]) for start in starts], fontsize=7)
        for start in starts:
            lines(start, color="0.75", linewidth=0.4)
    left.tick_params(axis="x", rotation=90)
    left.set_xlabel("read by (q, k, v of each head, then the MLP)")
    left.set_ylabel("written by (each head, then the MLP)")
    style.colour_bar(fig, [left], mesh, f"effect on {result.unit}")
    draw_graph(right, result, n, norm)
    pairs = f", mean of {result.n_pairs} pairs" if result.n_pairs > 1 else ""
    fig.suptitle(drawable(f"{result.n_edges:,} edges of {known_as(result.model)}, {result.method}{pairs}"), fontsize=11)
    return fig


def layer_starts(names):
    """Where each layer begins in a list of writers or readers."""
    layers = [layer_of(name) for name in names]
    return [i for i, layer in enumerate(layers) if i == 0 or layer != layers[i - 1]]


def layer_of(name):
    if name in ("input", "logits"):
        return name
    return int(name[1:].partition(".")[0])


def short(name):
    return name if name in ("input", "logits") else f"layer {layer_of(name)}"


def draw_graph(ax, result, n, norm):
    """The strongest edges between nodes: layers from bottom to top, heads across, the MLP to the right of them."""
    n_layer = 1 + max(layer_of(name) for name in result.writers if name != "input")
    n_head = sum(name.startswith("a0.") for name in result.writers)

    def place(name):
        if name == "input":
            return n_head / 2, -1
        if name == "logits":
            return n_head / 2, n_layer
        return (n_head, layer_of(name) + 0.5) if name.startswith("m") else (int(name.split(".h")[1]), layer_of(name))

    nodes = set()
    for writer, reader, effect in reversed(result.top(n)):
        ends = writer, reader.partition("<")[0]
        nodes |= set(ends)
        ax.annotate(
            "", place(ends[1]), place(ends[0]), zorder=1,
            arrowprops={
                "arrowstyle": "-|>", "color": SIGNED(norm(effect)), "linewidth": 0.8 + 3 * abs(effect) / norm.vmax,
                "shrinkA": 9, "shrinkB": 9, "connectionstyle": "arc3,rad=0.08",
            },
        )  # fmt: skip
    for name in nodes:
        ax.text(
            *place(name), name, ha="center", va="center", fontsize=7, zorder=2,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "0.6", "linewidth": 0.6},
        )  # fmt: skip
    ax.set_xlim(-1, n_head + 1)
    ax.set_ylim(-1.6, n_layer + 0.6)
    ax.set_axis_off()
    ax.set_title(f"the {min(n, result.n_edges)} strongest", fontsize=10)


def error_figure(exact, estimates):
    """Each estimate against the exact effects, a point for each edge."""
    fig = Figure(figsize=(5 * len(estimates), 5), layout="constrained")
    for ax, estimate in zip(np.atleast_1d(fig.subplots(1, len(estimates))), estimates):
        x, y = exact.effects[exact.mask], estimate.effects[exact.mask]
        end = 1.05 * max(np.abs(x).max(), np.abs(y).max(), 1e-12)
        ax.plot([-end, end], [-end, end], color="0.7", linewidth=0.8)
        ax.axhline(0, color="0.9", linewidth=0.8)
        ax.axvline(0, color="0.9", linewidth=0.8)
        ax.scatter(x, y, s=4, color="#2166ac", alpha=0.5, linewidths=0)
        ax.set_xlabel(drawable(f"exact effect on {exact.unit}"))
        ax.set_ylabel(drawable(f"estimate, {estimate.method}"))
    fig.suptitle(drawable(f"{exact.n_edges:,} edges of {known_as(exact.model)}"), fontsize=11)
    return fig
