"""Facts about a checkpoint, as others have published them, and how one is compared with what a model gives.

A facts file is JSON: for each kind of fact a list of entries, each with its source and the tolerance that this source
permits. README.md in this folder tells the form, gpt2.json is the real GPT-2 small. Read next: checks.py (one function
for each kind), then verify.py (the command).
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ..checkpoint.tensors import open_file
from ..model import Config

HERE = Path(__file__).parent

# What an entry of each kind must hold, in the order of cause: what is wrong in one kind makes the later ones wrong.
KINDS = {
    "files": ("name", "bytes", "sha256", "source"),
    "tensors": ("of", "crc32c", "source"),
    "token_ids": ("text", "ids", "source"),
    "activations": ("text", "ids", "rows", "columns", "tolerance", "relative_tolerance", "values", "source"),
    "next_token": ("text", "ids", "top", "source"),
    "logit_differences": ("value", "tolerance", "source"),
    "losses": ("text", "ids", "value", "tolerance", "source"),
    "log_probabilities": ("text", "ids", "values", "relative_tolerance", "source"),
    "greedy": ("text", "ids", "source"),
    "head_ablation": ("text", "ids", "layer", "head", "value", "tolerance", "source"),
    "backup_heads": ("group", "layer", "head", "position", "value", "value_tolerance", "heads", "tolerance", "source"),
    "patching": (
        "clean_ids",
        "corrupted_ids",
        "answers",
        "clean_value",
        "corrupted_value",
        "sites",
        "tolerance",
        "source",
    ),
    "circuits": ("measure", "text_set", "fact", "value", "tolerance", "source"),
    "pair_maps": ("pairs", "clean", "corrupted", "run_tolerance", "maps", "tolerance", "source"),
    "head_scores": ("ids", "scores", "tolerance", "source"),
    "probability_differences": ("text", "years", "value", "tolerance", "source"),
}


class FactsError(ValueError):
    """A facts file cannot be used; the message says why."""


def load_facts(path=HERE / "gpt2.json"):
    """Read a facts file, with every kind there, if only as an empty list."""
    try:
        with open_file(path) as file:
            facts = json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FactsError(f"{path} cannot be read as JSON ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(facts, dict) or not {"sizes", "sources"} <= facts.keys():
        raise FactsError(f"{path} is no facts file: it needs sizes, sources and facts, as {HERE / 'gpt2.json'} has")
    if not isinstance(facts["sizes"], dict) or not facts["sizes"].keys() <= {field.name for field in fields(Config)}:
        raise FactsError(f"{path}: sizes must be an object of {', '.join(field.name for field in fields(Config))}")
    sources = facts["sources"]
    if not isinstance(sources, dict) or not all(
        isinstance(source, dict) and {"where", "stated"} <= source.keys() for source in sources.values()
    ):
        raise FactsError(f"{path}: sources must be an object, each source with where and stated")
    for kind, needed in KINDS.items():
        entries = facts.setdefault(kind, [])
        if not isinstance(entries, list):
            raise FactsError(f"{path}: {kind} must be a list of facts")
        for number, entry in enumerate(entries):
            missing = [field for field in needed if not isinstance(entry, dict) or field not in entry]
            if missing:
                raise FactsError(f"{path}: number {number} of {kind} has no {', '.join(missing)}")
            if not isinstance(entry["source"], str) or entry["source"] not in sources:
                raise FactsError(f"{path}: number {number} of {kind} has the unknown source {entry['source']!r:.60}")
    return facts


def published():
    """All facts about the real GPT-2 small: gpt2.json with gpt2_pairs.json, which is a file of its own for its size."""
    facts, sets = load_facts(HERE / "gpt2.json"), load_facts(HERE / "gpt2_pairs.json")
    for kind in KINDS:
        facts[kind] = facts[kind] + sets[kind]
    return facts | {"sources": sets["sources"] | facts["sources"]}


def texts(facts):
    """Every text of the facts with its ids, [(text, ids), ...]: prompts, answers and the tokens of tables."""
    found = {}

    def visit(part):
        if isinstance(part, dict):
            for text, ids in (("text", "ids"), ("clean", "clean_ids"), ("corrupted", "corrupted_ids")):
                if isinstance(part.get(text), str) and isinstance(part.get(ids), list):
                    found[part[text]] = part[ids]
        elif isinstance(part, list) and len(part) >= 2 and isinstance(part[0], int) and isinstance(part[1], str):
            found[part[1]] = part[:1]  # a token: [id, text, ...]
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            visit(inner)

    visit({kind: facts[kind] for kind in KINDS if kind != "token_ids"})
    return list(found.items())


@dataclass(frozen=True)
class Check:
    """One fact, confirmed or not. For a fact of many numbers, difference, tolerance and shown are the worst one's."""

    kind: str
    fact: str
    expected: object
    got: object
    difference: float | None
    tolerance: float | None
    source: str
    verdict: str  # "holds", "FAILS" or "skipped"
    message: str = ""  # what is wrong, if anything is
    shown: tuple = ("", "")  # expected and got, short enough for a table
    about: str = ""  # the text that the fact is about

    def as_json(self):
        return {name: plain(value) for name, value in asdict(self).items() if name != "shown"}


def plain(value):
    """A value as JSON can hold it: lists for arrays, and None for numbers that are not finite."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def compare(kind, fact, expected, got, source, tolerance=0.0, relative=0.0, where=str, message=""):
    """A Check of numbers: each may be off by tolerance + relative * |expected|. where(index) names one of them."""
    expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    if expected.shape != got.shape:
        shapes = f"{list(expected.shape)}", f"{list(got.shape)}"
        text = f"{fact}: {shapes[0]} numbers are expected, the model gives {shapes[1]}"
        return Check(kind, fact, expected, got, None, None, source, "FAILS", text, shapes)
    with np.errstate(all="ignore"):  # a fact may be of any size
        bound = tolerance + relative * np.abs(expected)
        difference = np.nan_to_num(np.abs(got - expected), nan=np.inf)
        worst = np.unravel_index(np.argmax(difference / bound), expected.shape)
    n_off = int((difference > bound).sum())
    if n_off and expected.size > 1:
        message = f"{message or fact}: {n_off} of {expected.size} numbers are off, most of all {where(worst)}"
    shown = f"{expected[worst]:.7g}", f"{got[worst]:.7g}"
    return Check(
        kind, fact, expected, got, float(difference[worst]), float(bound[worst]), source,
        "FAILS" if n_off else "holds", (message or fact) if n_off else "", shown,
    )  # fmt: skip


def equal(kind, fact, expected, got, source, message="", shown=None):
    """A Check of something that is either the same or not."""
    verdict, message = ("holds", "") if expected == got else ("FAILS", message or fact)
    return Check(kind, fact, expected, got, None, None, source, verdict, message, shown or (str(expected), str(got)))


def skipped(kind, fact, source, message):
    return Check(kind, fact, None, None, None, None, source, "skipped", message)


def failed(kind, fact, source, message):
    """A Check whose fact could not even be computed."""
    return Check(kind, fact, None, None, None, None, source, "FAILS", message)


def short(text, width):
    """text with its middle left out, at most width characters, line breaks shown as they are written."""
    text = text.replace("<|endoftext|>", "<bos>").replace("\n", "\\n")
    return text if len(text) <= width else f"{text[: (width - 1) // 2]}…{text[len(text) - width // 2 :]}"


def ends(ids, width=13):
    """Token ids for a table: all of them if they fit, else the first and the last."""
    line = " ".join(map(str, ids))
    return line if len(line) <= width else f"{ids[0]} … {ids[-1]}"
