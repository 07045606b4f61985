"""A result on disk: one .npz that load() reads back, and the same as .json to read and as .csv for a spreadsheet.

Nothing is pickled, in either direction: the .npz holds `values` (and `logits`) as plain arrays and everything else as
JSON text.
"""

import csv
import io
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from minigpt2.atomic import replacing
from minigpt2.checkpoint import tensors
from minigpt2.terminal import brief

from .prompts import PairTokens
from .result import OTHER_RUN, Result
from .sites import SITES

FORMAT = 1
LARGEST = 1e100  # of a number in a result; matplotlib's scales end before floats do
UNPACKED = 256 << 20  # bytes that any file may unpack to; a larger one (of logits) to 20 times its size
MOST_CELLS = 5_000_000  # of a map; 48 layers x 25 heads x 1,024 positions are a million
MOST = {"layer": 1000, "head": 1000, "position": 50_000, "source": 50_000}  # entries of an axis
LONGEST = 100_000  # characters of a name or a label
ARRAYS = ("values", "logits", "spread")
SUFFIXES = (".npz", ".json", ".csv")
KINDS = {  # of every other field of Result as JSON has it; the check of a file that someone may have edited
    "clean_value": float,
    "corrupted_value": float,
    "axes": dict,
    "site": str,
    "direction": str,
    "metric": str,
    "unit": str,
    "alpha": float,
    "tokens": dict,
    "clean_labels": list,
    "corrupted_labels": list,
    "answer_labels": list,
    "model": str,
    "revision": (str, type(None)),
    "method": str,
    "source": str,
    "places": (list, type(None)),
    "overwrites": int,
}
LATER = {"source": OTHER_RUN, "places": None, "overwrites": 0}  # fields that older files do not have


def save(result: Result, path: str | os.PathLike[str], command: str | None = None) -> Path:
    """Write result to path with the suffixes .npz, .json and .csv, and return the path of the .npz.

    command, a string, is kept as what made it. Raises OSError where the folder cannot be written.
    """
    about = {name: getattr(result, name) for name in KINDS} | {"tokens": result.tokens._asdict()}
    about |= {"format": FORMAT, "command": command, "versions": versions()}
    arrays = {name: array for name in ARRAYS if (array := getattr(result, name)) is not None}
    text = json.dumps(about, ensure_ascii=False, default=as_number)
    npz, json_path, csv_path = paths(path)
    with replacing(npz) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, about=np.array(text), **arrays)
    numbers = {name: arrays[name].tolist() for name in ("values", "spread") if name in arrays}
    with replacing(json_path) as temporary:
        temporary.write_text(readable(about | numbers), encoding="utf-8")
    with replacing(csv_path) as temporary:
        temporary.write_text(
            spreadsheet(result), encoding="utf-8-sig", newline=""
        )  # the mark by which Excel sees UTF-8
    return npz


def readable(about):
    """JSON with a line for each field, and for each row of the values."""
    dumped = {name: json.dumps(value, ensure_ascii=False, default=as_number) for name, value in about.items()}
    dumped["values"] = dumped["values"].replace("], [", "],\n  [")
    return "{\n" + ",\n".join(f' "{name}": {text}' for name, text in dumped.items()) + "\n}\n"


def as_number(value):
    """NumPy's numbers as JSON's."""
    return value.item()


def paths(path: str | os.PathLike[str]) -> list[Path]:
    """The three paths of a saved result, for a path with or without one of the suffixes."""
    path = Path(path)
    stem = path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES else path.name
    return [path.with_name(stem + suffix) for suffix in SUFFIXES]


def spreadsheet(result):
    """The values as CSV text: a row for each layer (and head), a column for each entry of the last axis."""
    *row_axes, last = result.axes
    out = io.StringIO()
    write = csv.writer(out).writerow
    write([*row_axes, *(result.label(last, i) for i in result.axes[last])] if row_axes else [last, result.unit])
    if not row_axes:
        for i, value in zip(result.axes[last], result.values.tolist()):
            write([i, repr(value)])
        return out.getvalue()
    for index in np.ndindex(result.values.shape[:-1]):
        places = [result.axes[axis][i] for axis, i in zip(row_axes, index)]
        write([*places, *map(repr, result.values[index].tolist())])
    return out.getvalue()


def versions():
    return {"python": platform.python_version(), "numpy": np.__version__, "platform": platform.platform()}


def load(path: str | os.PathLike[str]) -> Result:
    """Read a Result from a .npz that save() wrote, by the path that save() was given, with or without its suffix.

    Raises ValueError for a file that is not one, OSError for none.
    """
    path = Path(path)
    path = path if path.suffix in SUFFIXES or path.is_file() else paths(path)[0]
    with open_file(path) as opened:
        try:
            check_zip(path, opened)
            with np.load(opened, allow_pickle=False) as file:
                check_size(sum(member.file_size for member in file.zip.infolist()), os.fstat(opened.fileno()).st_size)
                about: Any = json.loads(str(file["about"][()]))
                arrays = {name: file[name] for name in ARRAYS if name in file}
        except Exception as error:  # zipfile, zlib, lzma and NumPy's format have classes of their own
            raise ValueError(f"{path} is not a result that patching.save wrote ({brief(error)})") from None
    about = LATER | about if isinstance(about, dict) else about
    fault = find_fault(about, arrays)
    if fault:
        remedy = "make it again with python -m patching.demo --save"
        raise ValueError(f"{path} is not a whole result: {fault:.200}; {remedy}")
    fields: dict[str, Any] = {
        name: float(about[name]) if kind is float else about[name] for name, kind in KINDS.items()
    }
    for name in ("clean_labels", "corrupted_labels", "answer_labels"):
        fields[name] = tuple(fields[name])
    if fields["places"] is not None:
        fields["places"] = tuple(tuple(map(tuple, some)) for some in fields["places"])
    fields["tokens"] = pair_tokens(fields["tokens"])
    return Result(**fields, **arrays)


def pair_tokens(ids):
    return PairTokens(*(tuple(ids[name]) for name in PairTokens._fields))


def open_file(path):
    try:
        return tensors.open_file(path)
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}; python -m patching.demo --save writes results") from None


def check_zip(path, opened):
    """Raise ValueError for what is not an .npz file, which NumPy would take for a pickle."""
    start = opened.read(2)
    opened.seek(0)
    if start != b"PK":
        beside = f"; {paths(path)[0]} beside it is" if Path(path).suffix in (".json", ".csv") else ""
        raise ValueError(f"it is not an .npz file{beside}")


def check_size(unpacked, packed):
    """Raise ValueError for a small file that unpacks to gigabytes."""
    allowed = max(UNPACKED, 20 * packed)
    if unpacked > allowed:
        raise ValueError(
            f"its {packed} bytes would unpack to {unpacked >> 20} MiB, and {allowed >> 20} MiB are allowed"
        )


def find_fault(about, arrays):
    """The first thing in a file's content that would draw or say something wrong, as a phrase, or None."""
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        return f"its format is not {FORMAT}"
    for name, kind in KINDS.items():
        if name not in about:
            return f"{name} is missing"
        if not isinstance(about[name], (int, float) if kind is float else kind) or isinstance(about[name], bool):
            return f"{name} is {about[name]!r:.40}"
    if fault := find_excess(about, arrays):
        return fault
    if about["direction"] not in ("denoising", "noising"):
        return f"direction is {about['direction']!r}"
    values = arrays.get("values")
    return wrong_numbers(about, arrays) or wrong_texts(about) or wrong_axes(about, values.shape)


def wrong_numbers(about, arrays):
    values, spread = arrays.get("values"), arrays.get("spread")
    if values is None or not np.issubdtype(values.dtype, np.floating):
        return "its values are missing or not numbers"
    finite = all(abs(about[name]) < LARGEST for name, kind in KINDS.items() if kind is float)
    if not finite or not (np.abs(values.astype(np.float64)) < LARGEST).all():
        return "its numbers are not all finite"
    if spread is not None and (spread.shape != values.shape or not (spread >= 0).all()):
        return "its spread is not a number from 0 up for each value"
    return None


def wrong_texts(about):
    tokens, labels = about["tokens"], [about[name] for name in KINDS if name.endswith("_labels")]
    if not all(indices_ok(tokens.get(name), distinct=False) for name in PairTokens._fields):
        return "its tokens are not lists of ids"
    if not all(isinstance(label, str) for some in labels for label in some):
        return "its labels are not text"
    n_seq = len(tokens["clean"])
    if [len(tokens["corrupted"]), len(tokens["answers"]), *map(len, labels)] != [n_seq, 2, n_seq, n_seq, 2]:
        return "its texts, answers and labels are not of one length"
    return None if pair_tokens(tokens).differing else "its texts do not differ"


def wrong_axes(about, shape):
    axes, n_seq = about["axes"], len(about["tokens"]["clean"])
    if not all(indices_ok(chosen) for chosen in axes.values()):
        return "its axes are not lists of different indices"
    if tuple(map(len, axes.values())) != shape:
        return f"its axes are {', '.join(f'{a} {len(c)}' for a, c in axes.items())}, its values {list(shape)}"
    if any(max(axes.get(axis, [0])) >= n_seq for axis in ("position", "source")):
        return f"it has positions beyond its {n_seq} tokens"
    if about["places"] is not None and not (list(axes) == ["set"] and places_ok(about)):
        return "its places are not a list of sets, one for each entry of the axis set"
    if about["site"] not in SITES or not (
        tuple(axes) in possible_axes(SITES[about["site"]].axes) or list(axes) == ["set"] and places_ok(about)
    ):
        return f"site {about['site']!r} has no map by {' x '.join(axes)}"
    return None


def find_excess(about, arrays):
    """The first thing that is larger than any result is, as a phrase, or None: it would take minutes to draw."""
    texts = {name: [value] for name, value in about.items() if isinstance(value, str)}
    texts |= {name: value for name, value in about.items() if name.endswith("_labels")}
    for name, some in texts.items():
        longest = max((len(text) for text in some if isinstance(text, str)), default=0)
        if longest > LONGEST:
            return f"its {name} has {longest} characters, and {LONGEST} are allowed"
    for axis, chosen in about["axes"].items():
        if isinstance(chosen, list) and len(chosen) > MOST.get(axis, LONGEST):
            return f"its {axis} axis has {len(chosen)} entries, and {MOST.get(axis, LONGEST)} are allowed"
    if "values" in arrays and arrays["values"].size > MOST_CELLS:
        return f"its map has {arrays['values'].size} cells, and {MOST_CELLS} are allowed"
    return None


def possible_axes(axes):
    """The axes that a site's map can have: its own, or with positions="all" those without the position."""
    return axes, tuple(axis for axis in axes if axis != "position")


def places_ok(about):
    """Whether there is a list of (layer, head or None, position or None) for each set."""
    sets = about["places"]
    return isinstance(sets, list) and len(sets) == len(about["axes"]["set"]) and all(
        isinstance(some, list) and some and all(
            isinstance(place, list) and len(place) == 3 and all(i is None or type(i) is int and i >= 0 for i in place)
            for place in some
        )
        for some in sets
    )  # fmt: skip


def indices_ok(chosen, distinct=True):
    ok = isinstance(chosen, list) and chosen and all(type(i) is int and i >= 0 for i in chosen)
    return ok and not (distinct and len(set(chosen)) < len(chosen))
