"""A folder that keeps each pair's map as it is finished, so that a long run can be stopped in any way and go on.

question.json says what was asked; another question is refused, naming what differs. One file a pair, each written in one
move: several processes may work in one folder at a time.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from minigpt2 import Run
from minigpt2.atomic import replacing
from minigpt2.checkpoint.tensors import open_file
from minigpt2.pickled import fingerprint

from .ask import PairMap

FORMAT = 1


class Directory:
    """The finished pairs of one question in a folder, which is made if it is not there."""

    def __init__(self, folder, model, pairs, ask, threads):
        self.folder = Path(folder)
        question = question_of(model, pairs, ask) | {"BLAS threads": threads, "format": FORMAT}
        path = self.folder / "question.json"
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(question, indent=1, ensure_ascii=False), encoding="utf-8")
        self.check(path, json.loads(json.dumps(question)))

    def check(self, path, question):
        try:
            with open_file(path) as file:
                there = json.loads(file.read())
        except OSError as error:
            raise OSError(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise ValueError(f"{path} is not a question that a sweep of pairs wrote: choose another directory")
        different = [name for name in question if there.get(name) != question[name]]
        if different:
            told = "; ".join(
                f"{name}: {brief(there.get(name))} there, {brief(question[name])} here" for name in different
            )
            raise ValueError(f"{self.folder} holds the maps of another question ({told}): choose another directory")

    def path(self, i):
        return self.folder / f"pair-{i:06d}.npz"

    def write(self, i, found):
        """Keep a PairMap."""
        about = {name: value for name, value in found._asdict().items() if name != "values"}
        text = json.dumps(about, ensure_ascii=False)
        arrays = {f"values {name}": array for name, array in found.values.items()}
        with replacing(self.path(i)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, about=np.array(text), **arrays)

    def read(self, numbers):
        """{number: PairMap} of those that are finished. A file that is damaged counts as not there."""
        found = {}
        for i in numbers:
            try:
                with open_file(self.path(i)) as opened, np.load(opened, allow_pickle=False) as file:
                    about = json.loads(str(file["about"][()]))
                    values = {name.removeprefix("values "): file[name] for name in file if name != "about"}
                    about["positions"] = about["positions"] and tuple(about["positions"])
                    about["checks"] = tuple(about["checks"])
                    found[i] = PairMap(values=values, **about)
            except Exception:  # zipfile, zlib and NumPy's format have classes of their own
                continue
        return found


def brief(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def question_of(model, pairs, ask):
    """All that a map depends on, as JSON; ValueError for what cannot be compared later."""
    options = {
        name: plain(name, value)
        for name, value in ask.options.items()
        if name not in ("overwrites", "source_overwrites")
    }
    written = {name: digest_of_overwrites(ask.options[name]) for name in ("overwrites", "source_overwrites")}
    tokens = [[*pair.tokens(model)[:2], pair.answer_sets(model)] for pair in pairs]
    roles = [name for name in (*(ask.roles or ()), ask.at) if isinstance(name, str)]
    places = {role: [pairs.position(model, i, role) for i in range(len(pairs))] for role in roles}
    return {
        "model": model.name,
        "weights": f"{fingerprint(model.weights):08x} {model.dtype}",
        "pairs": f"{len(pairs)} pairs, {digest(tokens)}",
        "positions of roles": digest(places) if places else None,
        "method": ask.method,
        "site": ask.site,
        "at": ask.at,
        **options,
        **written,
    }


def plain(name, value):
    """An option as JSON has it."""
    if isinstance(value, (list, tuple)) and name in ("metric", "layers", "heads", "positions", "places"):
        return [plain(name, each) for each in value]
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, range):
        return list(value)
    raise ValueError(
        f"directory= compares questions, and {name} is a {type(value).__name__}: give it by name, or leave out directory"
    )


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def digest_of_overwrites(overwrites):
    """One text for a list of overwrites: None for none."""
    if not overwrites:
        return None
    told = hashlib.sha256()
    for each in overwrites:
        if isinstance(each.value, Run):
            raise ValueError("directory= compares questions, and an overwrite's value is a Run: give its array")
        parts = (
            each.layer,
            each.name,
            *(None if at is None else list(map(int, at)) for at in (each.heads, each.positions)),
        )
        told.update(repr((*parts, each.add)).encode() + np.asarray(each.value).tobytes())
    return told.hexdigest()[:16]


def digest_of(model, pairs, ask):
    """A number for weights, tokens and options together, or "" where a function of the user's is one of them."""
    try:
        return digest(question_of(model, pairs, ask))
    except ValueError:
        return ""
