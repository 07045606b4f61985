"""Interactions of pairs as a triangle: the part of each row with that of each column, white where their effects add up, red
above and blue below. The strongest pairs are framed, numbered and put into words."""

import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.patches import Rectangle

from minigpt2.pictures import style
from minigpt2.pictures.style import Picture, colour_map, drawable, settings
from minigpt2.terminal import known_as

from ..ablations.interactions import Interactions

MOST_TICKS = 72


@settings()
def figure(interactions: Interactions, strongest: int = 5, *, size=None, cmap=None) -> Picture:
    """Draw Interactions as a Picture; the `strongest` pairs are framed and named below the triangle."""
    matrix, names = interactions.values, interactions.parts
    n = len(names)
    matrix[np.triu_indices(n)] = np.nan
    side = min(12.0, 4.5 + 0.16 * n)
    fig = Picture(size or (side + 1.5, side + 0.6 + 0.2 * strongest), layout="constrained")
    ax = fig.subplots()
    half = float(np.nanmax(np.abs(matrix))) or 1.0
    mesh = ax.imshow(matrix, cmap=colour_map(cmap), norm=CenteredNorm(0, half), interpolation="nearest")
    at = range(0, n, -(-n // MOST_TICKS))
    ax.set_yticks(at, [drawable(names[i]) for i in at], fontsize=8 if n <= 40 else 5)
    ax.set_xticks(at, [drawable(names[i]) for i in at], fontsize=8 if n <= 40 else 5, rotation=90)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    pairs = interactions.strongest(strongest)
    for number, (first, second, _) in enumerate(pairs, start=1):
        i, j = names.index(first), names.index(second)
        ax.add_patch(Rectangle((i - 0.5, j - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.0))
        ax.annotate(str(number), (i, j), (6, 6), textcoords="offset points", fontsize=8)
    style.colour_bar(fig, ax, mesh, f"interaction: {interactions.unit}", 0.7)
    ax.set_xlabel(
        "\n".join(drawable(f"{k}. {interactions.describe(a, b)}") for k, (a, b, _) in enumerate(pairs, 1)), fontsize=8
    )
    lines = [
        "Interactions of pairs: what both do together, less what each does alone",
        f"{known_as(interactions.model)}, written: {interactions.source}; {interactions.unit} {interactions.none:.2f} intact",
    ]
    fig.suptitle("\n".join(map(drawable, lines)), fontsize=10, x=0.012, ha="left", linespacing=1.35)
    return fig
