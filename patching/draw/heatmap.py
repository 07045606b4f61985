"""A sweep in a terminal: its map, in colour or in plain characters, and its progress.

Tables, line breaks and errors are minigpt2/terminal.py's, as of every command.
"""

import os
import sys
import time

import numpy as np

from minigpt2.terminal import fit, width, wrapped

from ..explain.numbers import tenths

LOW, MIDDLE, HIGH = (33, 102, 172), (247, 247, 247), (178, 24, 43)  # ColorBrewer's RdBu, as in the figures


# The map


def heatmap(values, base, gap, row_names, column_names, n, colour):
    """Lines of a map of values [n_rows, n_columns]: numbers where n columns of the terminal have room for them, else
    the share of the gap in tenths. Columns that do not fit beside each other go on in further blocks below."""
    change = np.asarray(values, float) - base
    scale = max(np.abs(change).max(), abs(gap) / 20) or 1.0  # as in the figures: rounding is not drawn as an effect
    side = max(map(width, row_names)) + 2
    numbers = [[f"{value:.2f}" for value in row] for row in values]
    wide = max(max(map(len, row)) for row in numbers) + 1
    full = side + wide * len(column_names) <= n
    if not full:
        unit = gap or scale
        numbers = [[tenths(c / unit) for c in row] for row in change]
        wide = max(map(width, column_names)) + 1
        wide = wide if side + wide * len(column_names) <= 2 * n else 3
    per_block = max(1, (n - side) // wide)
    lines = []
    for start in range(0, len(column_names), per_block):
        some = slice(start, start + per_block)
        lines += [""] * bool(lines) + [
            " " * side + "".join(fit(name, wide - 1, True) + " " for name in column_names[some]).rstrip()
        ]
        for name, row, shift in zip(row_names, numbers, change):
            cells = [
                paint(fit(text, wide - 1, True) + " ", c / scale, colour) for text, c in zip(row[some], shift[some])
            ]
            lines.append(fit(name, side - 1, True) + " " + "".join(cells).rstrip())
    if not full:
        key = "1 to 9: tenths of the gap; # all of it; + more; . less than half a tenth; - the other way"
        lines += ["", *wrapped(key, n)]
    return lines


def paint(text, strength, colour):
    """Text on the colour of a strength from -1 (blue) to 1 (red); no colour near 0, whatever the terminal's own is."""
    if not colour or abs(strength) < 0.04:
        return text
    end, t = (LOW if strength < 0 else HIGH), min(1.0, abs(strength)) ** 0.8
    r, g, b = (round(m + t * (e - m)) for m, e in zip(MIDDLE, end))
    ink = "30" if 0.299 * r + 0.587 * g + 0.114 * b > 140 else "97"
    if os.environ.get("COLORTERM") in ("truecolor", "24bit"):
        back = f"48;2;{r};{g};{b}"
    else:
        back = f"48;5;{16 + sum(round(c / 255 * 5) * f for c, f in zip((r, g, b), (36, 6, 1)))}"
    return f"\x1b[{ink};{back}m{text}\x1b[0m"


# Progress


class Progress:
    """A bar with the time left, on a terminal's stderr, for what takes over a second; call it with (done, total)."""

    def __init__(self, what, quiet=False, stream=None, clock=time.monotonic):
        self.what, self.stream, self.clock = what, stream or sys.stderr, clock
        self.quiet = quiet or not self.stream.isatty()
        self.start, self.drawn = clock(), 0.0

    def __call__(self, done, total):
        now = self.clock()
        spent = now - self.start
        if self.quiet or spent < 1 or (now - self.drawn < 0.1 and done < total):
            return
        self.drawn = now
        left = spent / max(done, 1) * (total - done)
        bar = ("#" * (20 * done // total)).ljust(20, ".")
        self.stream.write(f"\r\x1b[K{self.what} [{bar}] {done}/{total}, {duration(left)} left")
        self.stream.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


def duration(seconds):
    seconds = round(seconds)
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
