"""What every picture needs, whatever it shows: two scales of colour, text that the font can draw, and a file.

pictures.py draws what one run computed with it, patching/draw/figure.py maps of patches. Only matplotlib's objects are used,
never pyplot: no window, no global state. No other room but these three imports matplotlib.
"""

from pathlib import Path

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.font_manager import FontProperties, findfont, get_font

from ..atomic import check_writable, replacing
from ..terminal import printable

SUFFIXES = (".png", ".pdf", ".svg")
SHARE = LinearSegmentedColormap.from_list("share", ["white", "#d6e6f4", "#9ac8e0", "#4a98c9", "#1764ab", "#08306b"])
SIGNED = LinearSegmentedColormap.from_list(  # ColorBrewer's RdBu, safe for colour-blind readers, with a white centre
    "signed",
    "#053061 #2166ac #4393c3 #92c5de #d1e5f0 white #fddbc7 #f4a582 #d6604d #b2182b #67001f".split(),
    N=257,  # odd, so that 0 is white itself
)


def drawable(text):
    """Text that the figure's font can draw and that is not read as mathematics: other characters become escapes, and so
    do those that an SVG may not hold or that turn the direction of writing."""
    text = printable(text, keep="\n")
    has = get_font(findfont(FontProperties())).get_char_index
    shown = "".join(c if c == "\n" or has(ord(c)) else c.encode("ascii", "backslashreplace").decode() for c in text)
    return shown.replace("$", r"\$")


def clipped(text, most):
    """Drawable text of at most `most` characters, the last one "…" where some are left out."""
    return drawable(text if len(text) <= most else text[: most - 1] + "…")


def colour_bar(fig, axes, mesh, label="", shrink=1.0):
    """A bar beside all `axes`, with small numbers and a thin line around it."""
    bar = fig.colorbar(mesh, ax=axes, fraction=0.04, pad=0.015, aspect=28 * shrink, shrink=shrink)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)
    if label:
        bar.set_label(drawable(label), fontsize=9)
    return bar


def cell_lines(ax, n_rows, n_columns):
    """Thin lines between the cells of a map, and thin ones around it."""
    ax.set_xticks([column + 0.5 for column in range(n_columns - 1)], minor=True)
    ax.set_yticks([row + 0.5 for row in range(n_rows - 1)], minor=True)
    ax.grid(which="minor", color="0.88", linewidth=0.4)
    ax.tick_params(length=2, width=0.5)
    ax.tick_params(which="minor", length=0)
    for spine in ax.spines.values():
        spine.set_linewidth(0.5)


def check_picture(path):
    """Raise ValueError or OSError, in one sentence, for a path that no picture can be written to."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write {path}: a picture's name ends in {', '.join(SUFFIXES)}")
    check_writable(path)


def write(fig, path):
    """Write a figure to a .png, .pdf or .svg in one move: an interrupted command leaves an older file as it was."""
    check_picture(path)
    kind = Path(path).suffix.lower().lstrip(".")
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)  # equal figures, equal files
    with replacing(path) as temporary:
        fig.savefig(temporary, format=kind, dpi=150, metadata=dates)
