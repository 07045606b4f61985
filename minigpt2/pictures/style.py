"""What every picture needs, whatever it shows: settings of its own, two scales of colour, text that the font can draw, and
a file.

runs.py draws what one run computed with it, patching/draw/figure.py maps of patches. Only matplotlib's objects are used,
never pyplot: no window, no global state.
"""

import threading
import unicodedata
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from matplotlib import __version_info__, colormaps, rc_context, rcParams, rcParamsDefault
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from ..atomic import check_writable, replacing
from ..terminal import printable

SUFFIXES = (".png", ".pdf", ".svg")
SHARE = LinearSegmentedColormap.from_list("share", ["white", "#d6e6f4", "#9ac8e0", "#4a98c9", "#1764ab", "#08306b"])
MOST_UNIT = 80  # characters of a colour bar's label
MOST_LINES = 300  # rows or columns of a map that has thin lines between its cells; in a larger one they would cover it
SIGNED = LinearSegmentedColormap.from_list(  # ColorBrewer's RdBu, safe for colour-blind readers, with a white centre
    "signed",
    "#053061 #2166ac #4393c3 #92c5de #d1e5f0 white #fddbc7 #f4a582 #d6604d #b2182b #67001f".split(),
    N=257,  # odd, so that 0 is white itself
)


# Settings

USERS_OWN = ("backend", "interactive", "toolbar", "timezone", "figure.raise_window", "figure.max_open_warning")
USERS_OWN += ("font.family", "font.serif", "font.sans-serif", "font.cursive", "font.fantasy", "font.monospace")
USERS_OWN += ("animation.", "date.", "docstring.", "keymap.", "savefig.directory", "tk.", "webagg.")
OURS = {name: rcParamsDefault[name] for name in rcParamsDefault.copy() if not name.startswith(USERS_OWN)}
OURS |= {
    "pdf.fonttype": 42,  # TrueType, which journals ask for and editors can edit; matplotlib's own is Type 3
    "ps.fonttype": 42,
    "svg.fonttype": "path",  # letters as outlines: the same picture where the font is not installed
    "svg.hashsalt": "minigpt2",  # equal figures, equal files
}
LOCK = threading.RLock()  # rcParams are one for all threads: two that restore them in turn would leave ours behind


@contextmanager
def settings():
    """Matplotlib's defaults and OURS, whatever the user's matplotlibrc and styles say, but with the user's fonts."""
    with LOCK:
        theirs = rcParams.copy()
        with rc_context({name: value for name, value in OURS.items() if theirs[name] != value}):
            yield


class Picture(Figure):
    """A matplotlib Figure that is also drawn and saved under settings(), and that a notebook shows as it is."""

    def draw(self, renderer):
        with settings():
            super().draw(renderer)

    def savefig(self, *args, **kwargs):
        with settings():
            super().savefig(*args, **kwargs)

    def _repr_png_(self):
        picture = BytesIO()
        self.savefig(picture, format="png", dpi=100)
        return picture.getvalue()


def colour_map(cmap):
    """A Colormap: SIGNED for None, matplotlib's own by name, or what it is already."""
    if cmap is None or isinstance(cmap, Colormap):
        return cmap or SIGNED
    if not isinstance(cmap, str) or cmap not in colormaps:
        raise ValueError(f'cmap is {cmap!r:.60}, not a matplotlib Colormap or the name of one, e.g. "PuOr"')
    return colormaps[cmap]


def ink(colour):
    """Black or white on a colour, by WCAG's relative luminance: the better of the two has a contrast of 4.58 or more."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    light = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return "#000" if (light + 0.05) ** 2 > 0.05 * 1.05 else "#fff"


# Text

REORDERS = __version_info__ >= (3, 11)  # matplotlib sets words written from right to left so, which it did not before


def fonts():
    """The installed fonts of the user's font.family, in the order in which matplotlib looks for a glyph."""
    paths = []
    for family in rcParams["font.family"]:
        try:
            paths.append(findfont(FontProperties(family=[family]), fallback_to_default=False))
        except ValueError:  # not installed
            pass
    return [get_font(path) for path in paths or [findfont(FontProperties())]]


def visible(text):
    """Printable text in which what no font can draw is an escape, too."""
    have, text = [font.get_char_index for font in fonts()], printable(text)
    drawn = (c if any(has(ord(c)) for has in have) else c.encode("ascii", "backslashreplace").decode() for c in text)
    return "".join(drawn)


def drawable(text):
    """Visible text that is not read as mathematics."""
    return visible(text).replace("$", r"\$")


def clipped(text, most):
    """Drawable text of at most `most` characters, the last one "…" where some are left out."""
    shown = visible(text[: most + 1])
    return (shown if len(shown) <= most else shown[: most - 1] + "…").replace("$", r"\$")


def isolated(start, *tokens):
    """Drawable tokens joined by arrows after `start`: one written from right to left keeps its place among them."""
    if REORDERS and any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for token in tokens for c in token):
        start = f"\N{LEFT-TO-RIGHT MARK}{start}"
        tokens = [f"\N{FIRST STRONG ISOLATE}{token}\N{POP DIRECTIONAL ISOLATE}" for token in tokens]
    return start + " → ".join(tokens)


def colour_bar(fig, axes, mesh, label="", shrink=1.0):
    """A bar beside all `axes`, with small numbers and a thin line around it."""
    bar = fig.colorbar(mesh, ax=axes, fraction=0.04, pad=0.015, aspect=28 * shrink, shrink=shrink)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)
    if label:
        bar.set_label(clipped(label, MOST_UNIT), fontsize=9)
    return bar


def cell_lines(ax, n_rows, n_columns):
    """Thin lines between the cells of a map, and thin ones around it."""
    limits = ax.get_xlim(), ax.get_ylim()
    if max(n_rows, n_columns) <= MOST_LINES:
        ax.vlines([i + 0.5 for i in range(n_columns - 1)], -0.5, n_rows - 0.5, color="0.88", linewidth=0.4)
        ax.hlines([i + 0.5 for i in range(n_rows - 1)], -0.5, n_columns - 0.5, color="0.88", linewidth=0.4)
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.tick_params(length=2, width=0.5)
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
