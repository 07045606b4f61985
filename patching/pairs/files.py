"""A set of pairs from a file: CSV with a header, or JSON Lines.

The columns are clean, corrupted, clean_answer, corrupted_answer, perhaps bos, and one for each role: a position, or a
piece of the clean text. Several answers of one side are separated by "|". All faults are told at once, by line.
"""

import csv
import io
import json
from pathlib import Path

from minigpt2.checkpoint.tensors import open_file

from ..prompts import PromptPair
from .roles import find, listed

COLUMNS = ("clean", "corrupted", "clean_answer", "corrupted_answer")
TRUE = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def read(path, *, skip: bool = False):
    """What a PairSet is made of: (pairs, roles, how messages call each, the faults of what was left out)."""
    text, pairs, spots, called, faults = text_of(path), [], [], [], []
    rows = (
        from_json_lines(text) if Path(path).suffix.lower() in (".jsonl", ".ndjson", ".json") else from_csv(text, path)
    )
    for number, row in rows:
        try:
            pair, places = made(row)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
        else:
            pairs.append(pair), spots.append(places), called.append(f"line {number}")
    if faults and not (skip and pairs):
        raise ValueError(listed(f"{path} has {len(faults)} lines that are not pairs", faults, skip))
    if not pairs:
        raise ValueError(f"{path} has no pairs: a line for each, with {', '.join(COLUMNS)}")
    names = list(dict.fromkeys(name for places in spots for name in places))
    roles = {name: [places.get(name, "") for places in spots] for name in names}
    return pairs, roles, called, faults


def text_of(path) -> str:
    try:
        with open_file(path) as file:
            data = file.read()
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from None
    line = lambda at: data.count(b"\n", 0, at) + 1  # noqa: E731
    if (zero := data.find(b"\0")) >= 0:
        raise ValueError(f"{path} is not a text file: line {line(zero)} has a zero byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: see line {line(error.start)}; save it as UTF-8") from None


def from_csv(text, path):
    """Yield (line number, {column: text} or the ValueError for the line) for each line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, started = None, 1
    try:
        for row in reader:
            number, started = started, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = checked_header([cell.strip() for cell in row], path)
            elif len(row) != len(header):
                yield (
                    number,
                    ValueError(f"it has {len(row)} cells, and the header {len(header)}; quote texts with commas"),
                )
            else:
                yield number, dict(zip(header, row))
    except csv.Error as error:
        raise ValueError(
            f"{path} is not CSV from line {started} on: {error}; close the quotes, double those inside"
        ) from None


def checked_header(header, path):
    missing = [name for name in COLUMNS if name not in header]
    twice = [name for name in header if header.count(name) > 1]
    if missing or twice or "" in header:
        what = f"no {', '.join(missing)}" if missing else f"{twice[0]!r} twice" if twice else "a column without a name"
        raise ValueError(f"{path}: the header has {what}; it needs {', '.join(COLUMNS)}, and a name for each role")
    return header


def from_json_lines(text):
    """Yield (line number, object or ValueError) for each line that is not empty."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = ValueError(f"it is not JSON ({str(error).splitlines()[0]:.80})")
        if not isinstance(row, (dict, ValueError)):
            row = ValueError('it is not an object like {"clean": ..., "corrupted": ...}')
        yield number, row


def made(row):
    """The PromptPair of a line, and its roles; ValueError for what is not one."""
    if isinstance(row, ValueError):
        raise row
    if missing := [name for name in COLUMNS if name not in row or row[name] in ("", [])]:
        raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    clean, corrupted, *answers = (row[name] for name in COLUMNS)
    answers = tuple(
        tuple(some.split("|")) if isinstance(some, str) and "|" in some.strip("|") else some for some in answers
    )
    answers = tuple(tuple(some) if isinstance(some, list) else some for some in answers)
    bos = row.get("bos", False)
    bos = TRUE.get(bos.strip().lower()) if isinstance(bos, str) else bos
    if not isinstance(bos, bool):
        raise ValueError(f"bos is {row['bos']!r:.40}, not true or false")
    pair = PromptPair(clean, corrupted, answers, bos=bos)
    return pair, {name: spot(clean, cell, name) for name, cell in row.items() if name not in (*COLUMNS, "bos")}


def spot(clean, cell, role):
    """A role's cell: a position, or a piece of the clean text, which must be there."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    if isinstance(cell, str) and cell.strip().lstrip("-").isdecimal():
        return int(cell)
    find(clean, cell, role)
    return cell
