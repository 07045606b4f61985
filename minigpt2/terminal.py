"""What every command shows in a terminal: text and tables that line up, whether in colour, and errors as one sentence.

Nothing here knows what it shows. The map of a sweep and its progress are patching/draw/heatmap.py's.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import threading
import unicodedata
from contextlib import contextmanager
from itertools import accumulate, takewhile, zip_longest
from pathlib import Path


def guarded(main):
    """Run main() and return its exit status (None is 0): an error that a user can cause is a sentence on stderr."""
    os.environ.pop("MPLBACKEND", None)  # a notebook hands down its own, without which matplotlib then does not import
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command, as by >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows "\u2423" rather than failing
    try:
        with unwinding():
            status = main()
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:  # the reader has seen enough, as in "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"error: {printable(str(error) or type(error).__name__, keep=chr(10))}", file=sys.stderr)
        return 1


@contextmanager
def unwinding():
    """Let SIGTERM and SIGHUP end the process as an exception does, so that temporary files go; not where they are
    ignored, as under nohup. The exit status is a shell's for that signal."""

    def leave(number, frame):
        signal.signal(number, signal.SIG_IGN)  # a second one must not end the unwinding
        raise SystemExit(128 + number)

    numbers = [
        getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
    ]  # Windows has no SIGHUP
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread may handle signals
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def warn(sentence):
    """One line on stderr for what is allowed, but hardly meant."""
    print(f"WARNING: {printable(sentence)}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Errors of the command line as one sentence, without the usage."""

    def parse_args(self, args=None, namespace=None):
        self.given = sys.argv[1:] if args is None else args
        return super().parse_args(args, namespace)

    def error(self, message):
        dashed = [text for text in self.given if re.match("-.+", text) and text != "--"]
        if any(text.partition("=")[0] not in self._option_string_actions for text in dashed):
            message += "; a text that begins with a dash is given as --option=-text, or after -- at the end"
        self.exit(2, f"error: {printable(message)} ({self.prog} --help shows how)\n")


def filled(text):
    """The value of an option, for argparse: any text but the empty one, which an unset variable of a shell leaves."""
    if not text:
        raise argparse.ArgumentTypeError("got an empty text; give at least one character, or leave the option out")
    return text


def decoded(text):
    """The value of an option that is read as text, for argparse: refuse bytes that the terminal's encoding cannot read."""
    if foreign := re.search("[\udc80-\udcff]", text):  # Python's stand-ins for such bytes (PEP 383)
        raise argparse.ArgumentTypeError(
            f"byte {ord(foreign[0]) - 0xDC00:#x} of the text is not {sys.getfilesystemencoding()}: convert the text, for "
            "example with iconv, or set the locale that it was written in (LC_ALL)"
        )
    return text


def known_as(name):
    """The name of a model in headings: of a folder's path, or of owner/name, the last part; of "bundled", words."""
    return "the bundled model" if name == "bundled" else printable(Path(name).name) or "model"


def in_colour(stream=None):
    """Whether to write colours to a stream (stdout): only on a terminal, and not if NO_COLOR is set or
    TERM is dumb."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")


def columns():
    return max(40, shutil.get_terminal_size().columns)


# Untrusted text


def printable(text, keep=""):
    r"""Text that anyone may have written, safe to show: what a terminal or a page would obey becomes an escape.

    Escaped, as \x1b or \u202e, are control characters (but those in `keep`), marks that turn the direction of writing,
    line separators and lone surrogates; the two joiners that emoji and Persian are spelled with stay.
    """
    keep += "\u200c\u200d"
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in str(text))


def brief(value):
    """What an untrusted file holds, or what was wrong with it, in one printable line that is not too long."""
    text = " ".join(str(value).split()) if isinstance(value, Exception) else repr(value)
    return printable(text if len(text) <= 120 else f"{text[:120]}...")


# Text of odd widths


def width(text):
    """The columns that text takes in a terminal: two for East Asian wide characters and emoji, none for marks."""
    shown = [c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf")]
    return len(shown) + sum(unicodedata.east_asian_width(c) in "WF" for c in shown)


def fit(text, n, right=False):
    """Text in exactly n columns: padded, or cut with "…" at its end."""
    if width(text) > n:
        ends = takewhile(lambda end: end < n, accumulate(map(width, text)))  # the column after each character
        text = text[: len(list(ends))] + "…" * (n > 0)
    pad = " " * (n - width(text))
    return pad + text if right else text + pad


def wrapped(text, n, indent=""):
    """Text in lines of at most n columns, the later ones indented; no word is cut, and no number from its " %"."""
    lines, line = [], ""
    start = len(text) - len(text.lstrip(" "))
    first, *others = re.split(r" (?!%)", text[start:])
    for word in (" " * start + first, *others):
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
    right = [all(re.fullmatch(r"<?[+-]?[\d.]+(e-?\d+)?( %)?", cell) for cell in column) for column in zip(*rows)]
    right = right or [False] * len(head)
    lines = [head, ["-" * n for n in widths], *rows]
    return ["  ".join(fit(c, n, r) for c, n, r in zip(line, widths, right)).rstrip() for line in lines]


def beside(left, right, n, between="     "):
    """Two blocks of lines side by side where n columns are enough for both, else one below the other."""
    wide = max(map(width, left))
    if wide + len(between) + max(map(width, right)) > n:
        return [*left, "", *right]
    return [(fit(a, wide) + between + b).rstrip() for a, b in zip_longest(left, right, fillvalue="")]
