"""The rule of every fuzz test: a case ends in a right result or in one sentence of ours, soon, and in little memory.

A sentence is ours if a `raise` of these packages made it; numpy's, json's or argparse's internals reaching the user do
not count. Everything is seeded; `cases` counts what was tried, and conftest.py prints it. More can be tried at will:

    FUZZ=10 python -m pytest tests/test_fuzz_*.py
"""

import contextlib
import linecache
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = tuple(str(ROOT / package) + os.sep for package in ("minigpt2", "patching"))
EFFORT = int(os.environ.get("FUZZ", 1))
SECONDS = 10  # for one case; the slowest takes about one
LONGEST = 600  # characters of a sentence, without the paths in it

cases = Counter()  # by kind


class Hang(BaseException):
    """A case took longer than SECONDS. No Exception, so that nothing under test can catch it."""


@contextlib.contextmanager
def limited(seconds=SECONDS):
    """Raise Hang in what takes too long."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise Hang(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """Let the process grow by one gigabyte at most: what allocates more ends in a MemoryError, which is no sentence."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def answer(kind, f, *args, **kwargs):
    """Try one case: (what f returns, None), or (None, the sentence by which it is refused)."""
    cases[kind] += 1
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be a second line, and from inside a library
            return f(*args, **kwargs), None
    except (ValueError, OSError, FloatingPointError) as error:
        return None, sentence(error)


def sentence(error):
    """The message of an error, checked to be one sentence that these packages raise on purpose."""
    frame = error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    file, line = (
        frame.tb_frame.f_code.co_filename,
        linecache.getline(frame.tb_frame.f_code.co_filename, frame.tb_lineno),
    )
    text = str(error)
    assert file.startswith(OURS) and "raise" in line, f"{type(error).__name__} from inside {file}: {text}"
    first, *table = text.split("\n")  # two texts of unequal length are shown below each other, indented
    assert first.strip() and len(first) < LONGEST and all(line.startswith("  ") for line in table), ascii(text)[:2000]
    assert first.isprintable() and "Traceback" not in text, ascii(text)[:2000]
    return text
