"""What a command shows in a terminal: tables that line up, a map in colour, progress, and errors as one sentence.

Colour and progress are for terminals only: into a file or a pipe go plain characters, and NO_COLOR or TERM=dumb ask for
them too. Nothing here knows what it shows; demo.py does.
"""

import os
import re
import shutil
import sys
import time
import unicodedata
from itertools import zip_longest

import numpy as np

LOW, MIDDLE, HIGH = (33, 102, 172), (247, 247, 247), (178, 24, 43)  # ColorBrewer's RdBu, as in the figures


def guarded(main):
    """Run a command's main() and return its exit status: an error that a user can cause is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows "\u2423" rather than failing
    try:
        main()
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader has seen enough, as in "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted: nothing more was written", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


# Text of odd widths


def width(text):
    """The columns that text takes in a terminal: two for East Asian wide characters and emoji, none for marks."""
    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )  # fmt: skip


def fit(text, n, right=False):
    """Text in exactly n columns: padded, or cut with "…" at its end."""
    if width(text) > n:
        while width(text) > n - 1:
            text = text[:-1]
        text = (text + "…")[:n]
    pad = " " * (n - width(text))
    return pad + text if right else text + pad


def wrapped(text, n, indent=""):
    """Text in lines of at most n columns, the second and later ones indented; no word is cut."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and width(line) + 1 + width(word) > n:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def table(head, rows, most=40):
    """Lines of a table with its head underlined; columns of numbers stand to the right, none is wider than `most`."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [min(most, max(map(width, column))) for column in zip(head, *rows)]
    right = [all(re.fullmatch(r"<?-?[\d.]+(e-?\d+)?( %)?", cell) for cell in column) for column in zip(*rows)]
    right = right or [False] * len(head)
    lines = [head, ["-" * n for n in widths], *rows]
    return ["  ".join(fit(c, n, r) for c, n, r in zip(line, widths, right)).rstrip() for line in lines]


def beside(left, right, n, between="     "):
    """Two blocks of lines side by side where n columns are enough for both, else one below the other."""
    wide = max(map(width, left))
    if wide + len(between) + max(map(width, right)) > n:
        return [*left, "", *right]
    return [(fit(a, wide) + between + b).rstrip() for a, b in zip_longest(left, right, fillvalue="")]


# The map


def in_colour(stream=None):
    """Whether to write colours to a stream (stdout)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")


def columns():
    return max(40, shutil.get_terminal_size().columns)


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


def tenths(share):
    """One character for a share of the gap."""
    if abs(share) < 0.05:
        return "."
    return "-" if share < 0 else "+" if share >= 1.1 else "#" if share >= 0.95 else str(int(share * 10 + 0.5))


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
