"""A result's maps as HTML tables for report.py: which cells a page has room for, and what each says.

Every cell carries its place, its value and its share of the gap as text, its title, so that a table is complete without
script. The colours are the picture's own, on one scale (panels.py), as classes: colour #b2182b is class cb2182b. All that
came from a text or a token passes escaped().
"""

import html
import math
import re
import unicodedata

import numpy as np
from matplotlib.colors import to_hex

from minigpt2.pictures import style
from minigpt2.pictures.style import SIGNED

from ..draw.panels import shown_range
from ..explain.numbers import three_digits, with_share

LONGEST = 24  # characters of a label; its title has all of them


def escaped(text):
    """Text as HTML, in elements and attributes: none of it is markup, and characters that do not show are escapes."""
    visible = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))
    return html.escape("".join(visible))


class Grid:
    """The rows and columns of a panel that a page shows: all, or of more than `most` cells those with the largest
    changes, in their order."""

    def __init__(self, panel, most):
        self.panel, (self.down, self.across) = panel, panel.axes
        change = np.nan_to_num(np.abs(panel.values - panel.result.base_value))
        n_rows = min(len(panel.rows), max(math.isqrt(most), most // change.shape[1]))
        self.rows = strongest(panel.rows, change.max(axis=1), n_rows)
        self.columns = strongest(panel.columns, change.max(axis=0), max(1, most // n_rows))

    def values(self, result):
        """The values [n_rows, n_columns] of a result with the panel's axes, the panel's own or its estimate."""
        chosen = {axis: [i] for axis, i in self.panel.held.items()} | {self.down: self.rows, self.across: self.columns}
        index = np.ix_(*([indices.index(i) for i in chosen[axis]] for axis, indices in result.axes.items()))
        return result.values[index].reshape(len(self.rows), -1)

    def place(self, row, column):
        return (
            self.panel.held | {self.down: self.rows[row]} | ({self.across: self.columns[column]} if self.across else {})
        )

    def left_out(self):
        pairs = ((self.down, self.rows, self.panel.rows), (self.across, self.columns, self.panel.columns))
        return [f"{len(some)} of {len(every)} {axis}s" for axis, some, every in pairs if len(some) < len(every)]


def strongest(indices, size, n):
    return [indices[i] for i in sorted(np.argsort(-size, kind="stable")[:n])] if indices else []


def table(grid, result, beside, scale, title="", worst=None, n=1):
    """One map as a figure, one of n on the page. The title of a cell gives the values of all results in `beside`; worst is
    a place to outline. A wide map, or one of many, shows its numbers when asked: else it would stand alone in its row."""
    across, left_out = grid.across, grid.left_out()
    note = f"{grid.down}s down, {across}s across" if across else f"{grid.down}s down"
    if left_out:
        note += f"; only the {' and '.join(left_out)} with the largest changes (--save keeps all)"
    compact = '<label><input type="checkbox" checked> colours only</label>'
    compact = compact if len(grid.columns) > (24 if n <= 4 else 12) else ""
    wide = " wide" if len(grid.columns) > 16 else ""
    lines = [
        f'<figure class="{"worded" * (across in ("position", "source"))}{wide}">{compact}',
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(title)} map, {note}">',
        f"<table><caption><b>{escaped(title)}</b> {note}</caption>",
        f'<thead><tr><th scope="col">{grid.down}</th>',
        *([header(result, across, i, "col") for i in grid.columns] or ['<th scope="col">value</th>']),
        "</tr></thead><tbody>",
    ]
    parts = [grid.values(r) for r in beside]
    names = ("exact ", "estimate ") if len(beside) > 1 else ("",)
    for i, values in enumerate(grid.values(result)):
        lines.append(f"<tr>{header(result, grid.down, grid.rows[i], 'row')}")
        for j, value in enumerate(values):
            place = grid.place(i, j)
            numbers = ", ".join(name + with_share(r, part[i, j]) for name, r, part in zip(names, beside, parts))
            drawn = value - result.base_value if scale.shifted else value
            kind = colour(scale, drawn - scale.centre) + " worst" * (place == worst)
            text = f"{place_label(result, place)}: {numbers}"
            lines.append(f'<td class="{kind}" title="{text}">{three_digits(drawn, scale.half)}</td>')
        lines.append("</tr>")
    return "\n".join([*lines, "</tbody></table></div></figure>"])


def header(result, axis, index, scope):
    """The heading of a row or a column: its number, and at a position its token, marked where the texts differ."""
    if axis not in ("position", "source"):
        return f'<th scope="{scope}">{index}</th>'
    tokens = result.tokens_at(index)
    tag = "mark" if index in result.tokens.differing else "span"
    label = " → ".join(f"<bdi>{escaped(cut(token, LONGEST // len(tokens)))}</bdi>" for token in tokens)
    title = " → ".join(isolated(escaped(token)) for token in tokens)
    return f'<th scope="{scope}" title="{title}"><{tag}>{label}</{tag}> <b>{index}</b></th>'


def cut(label, most=LONGEST):
    return label if len(label) <= most else label[: most - 1] + "…"


def isolated(token):
    """A token as HTML for a title, where there is no <bdi>: one written from right to left stays where it is put."""
    rtl = any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in token)
    return f"\N{FIRST STRONG ISOLATE}{token}\N{POP DIRECTIONAL ISOLATE}" if rtl else token


def place_label(result, place):
    """ "layer 3, position 1 ␣Jones → ␣Smith" as HTML; words written from right to left stay where they are put."""
    parts = []
    for axis, i in place.items():
        tokens = result.tokens_at(i) if axis in ("position", "source") else ()
        parts.append(" ".join([axis, str(i), " → ".join(isolated(escaped(token)) for token in tokens)]).rstrip())
    return ", ".join(parts)


# Colours


def colour(scale, change):
    """The class of a change's colour: the picture's, with white for none."""
    if not np.isfinite(change / scale.half):
        return "unknown"
    return "c" + to_hex(SIGNED(0.5 + 0.5 * change / scale.half)).removeprefix("#")


def rules(body):
    """The style of every colour that occurs in a page: black or white on it, whichever has the larger contrast."""
    found = sorted(set(re.findall(r' class="c([0-9a-f]{6})[ "]', body)))
    return [f".c{c} {{ background: #{c}; color: {ink(c)} }}" for c in found]


def ink(colour):
    """Black or white, by WCAG's relative luminance; the better of the two has a contrast of 4.58 or more on any colour.
    On white itself, which is no effect, a grey that steps back (5.3)."""
    if colour == "ffffff":
        return "#6b6b6b"
    return style.ink(f"#{colour}")


def legend(results, scale):
    """The scale as a row of colours with their numbers, cut to the values that occur, and what white is."""
    lo, hi = shown_range(scale, results)
    steps = [
        k / 4 for k in range(-4, 5) if lo - scale.half / 8 <= scale.centre + scale.half * k / 4 <= hi + scale.half / 8
    ]
    items = [
        f'<li class="{colour(scale, scale.half * step)}">{three_digits(scale.centre + scale.half * step, scale.half)}</li>'
        for step in steps
    ]
    r = results[0]
    white = (
        "White is no effect, red a change upwards, blue one downwards; each number is a change"
        if scale.shifted
        else f"White is no effect: the value of the {r.base} run, {r.base_value:.4g}. Red is above it, blue below it. "
        f"The {r.target} run has {r.target_value:.4g}"
    )
    return ['<div class="legend">', f'<ol aria-label="colours">{"".join(items)}</ol>', f"<p>{white}.</p></div>"]
