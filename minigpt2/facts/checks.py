"""One function for each kind of fact: (subject, entry of the facts, all facts) -> the Checks it comes to.

All but the token ids run on the ids in the facts, so a wrong vocabulary is not taken for a wrong model, nor the other
way round. Only plain functions of the model are used: what is proven here is what a user calls. The patching matrices are
patching's own, see patching/verify/matrices.py, and so are ablations, patching/verify/ablations.py.
"""

import hashlib
from pathlib import Path

import numpy as np

from .. import model as m
from ..checkpoint.weights import flatten
from . import compare, ends, equal, failed, short, skipped

MISSING_PACKAGE = "needs the package google-crc32c: pip install google-crc32c"
ALL_TEXTS = "every text and token of the other facts"  # the entry that verify adds to the token ids


class Subject:
    """The model that is checked, with the folders of its files. Remembers each text's last logits."""

    def __init__(self, model, folder, vocabulary_folder=None):
        self.model, self.folder = model, Path(folder)
        self.vocabulary_folder = Path(vocabulary_folder or folder)
        self._last = {}

    def path(self, name):
        return (self.vocabulary_folder if name in ("vocab.json", "merges.txt") else self.folder) / name

    def missing_vocabulary(self):
        """A sentence if the vocabulary is not there at all."""
        names = [name for name in ("vocab.json", "merges.txt") if not self.path(name).is_file()]
        return f"{self.vocabulary_folder} has no {' and no '.join(names)}" if names else ""

    def last_logits(self, ids):
        """Logits of the token after the text, [n_vocab], float64."""
        ids = tuple(ids)
        if ids not in self._last:
            end = self.model.run(ids).resid_post[-1, -1:]
            self._last[ids] = self.model.resume(end, self.model.config.n_layer)[-1].astype(np.float64)
        return self._last[ids]


def check_files(subject, entry, facts):
    name, path = entry["name"], subject.path(entry["name"])
    expected = {"bytes": entry["bytes"], "sha256": entry["sha256"]}
    if not path.is_file():
        yield failed("files", name, entry["source"], f"{name} is not in {path.parent}")
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    got = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
    what = "the size is the same, the bytes are not"
    if got["bytes"] != entry["bytes"]:
        what = f"{got['bytes']:,} bytes, not {entry['bytes']:,}"
    message = f"{name} differs from that of {entry['source']}: {what}"
    shown = tuple(f"sha {each['sha256'][:9]}" for each in (expected, got))
    yield equal("files", f"{name}, {entry['bytes']:,} bytes", expected, got, entry["source"], message, shown)


def check_tensors(subject, entry, facts):
    """CRC32C of every weight's little-endian float32 bytes, which the TensorFlow checkpoint's index also holds."""
    try:
        import google_crc32c
    except ImportError:
        yield skipped("tensors", f"CRC32C of {len(entry['crc32c'])} tensors", entry["source"], MISSING_PACKAGE)
        return
    stored = {crc: name for name, crc in entry["crc32c"].items()}
    weights = flatten(subject.model.weights)
    for name, expected in entry["crc32c"].items():
        if name not in weights:
            yield failed("tensors", name, entry["source"], f"tensor {name} is missing")
            continue
        array = np.ascontiguousarray(weights[name], "<f4").view()
        array.flags.writeable = False  # the package reads only what nobody can change meanwhile
        got = f"{google_crc32c.value(array):08x}"
        message = f"tensor {name} differs from {entry['of']}"
        if got in stored:
            message += f": it holds the bytes of {stored[got]}"
        yield equal("tensors", name, expected, got, entry["source"], message)


def check_token_ids(subject, entry, facts):
    fact = ALL_TEXTS if "texts" in entry else short(entry["text"], 43)
    if missing := subject.missing_vocabulary():
        yield skipped("token_ids", fact, entry["source"], missing)
        return
    pairs = entry.get("texts") or [(entry["text"], entry["ids"])]
    got = [subject.model.encode(text) for text, _ in pairs]
    wrong = [(text, ids, ours) for (text, ids), ours in zip(pairs, got) if list(ids) != ours]
    shown = f"{len(pairs)} texts", f"{len(pairs) - len(wrong)} right"
    if len(pairs) == 1:
        shown = ends(pairs[0][1]), ends(got[0])
    message = first_wrong_token(subject.model, *wrong[0]) if wrong else ""
    yield equal("token_ids", fact, [list(ids) for _, ids in pairs], got, entry["source"], message, shown)


def first_wrong_token(model, text, expected, got):
    place = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
    has = f"{got[place]} ({model.decode([got[place]])!r})" if place < len(got) else "no token"
    wants = expected[place] if place < len(expected) else "no token"
    return f"token {place} of {short(text, 50)!r} is {has}, expected {wants}: vocab.json or merges.txt is not the right one"


def check_activations(subject, entry, facts):
    """In the order of the data flow, so that the first that is off is the first that went wrong."""
    run = subject.model.run(entry["ids"])
    cells = np.ix_(entry["rows"], entry["columns"])
    for values in entry["values"]:
        name, layer = values["name"], values.get("layer")
        array = getattr(run, name) if layer is None else getattr(run, name)[layer]
        label = name if layer is None else f"{name}_{layer}"
        yield compare(
            "activations", label, values["values"], array[cells], entry["source"],
            entry["tolerance"], entry["relative_tolerance"],
            where=lambda at: f"position {entry['rows'][at[0]]}, component {entry['columns'][at[1]]}",
        )  # fmt: skip


def check_next_token(subject, entry, facts):
    logits = subject.last_logits(entry["ids"])
    probabilities = m.softmax(logits)
    named, top = entry["top"] + entry.get("others", []), [row[0] for row in entry["top"]]
    if top:
        got = np.argsort(-logits, kind="stable")[: len(top)].tolist()
        place = next((i for i, (a, b) in enumerate(zip(top, got)) if a != b), 0)
        message = f"place {place + 1} is token {got[place]}, expected {top[place]} ({entry['top'][place][1]!r})"
        shown = ends(top), ends(got)
        yield equal("next_token", f"the top {len(top)}, in order", top, got, entry["source"], message, shown)
    for column, word, numbers in ((2, "probability", probabilities), (3, "logit", logits)):
        rows = [row for row in named if row[column] is not None]
        if rows:
            yield compare(
                "next_token", f"{word} of {len(rows)} token{'s' * (len(rows) > 1)}", [row[column] for row in rows],
                numbers[[row[0] for row in rows]], entry["source"], entry[f"{word}_tolerance"],
                where=lambda at: f"that of {rows[at[0]][1]!r}",
            )  # fmt: skip


def check_logit_differences(subject, entry, facts):
    def difference(entry):
        logits = subject.last_logits(entry["ids"])
        return logits[entry["plus"][0]] - logits[entry["minus"][0]]

    if "mean_of" in entry:
        group = [other for other in facts["logit_differences"] if other.get("group") == entry["mean_of"]]
        fact, got = f"mean of the {len(group)} {entry['mean_of']}", np.mean([difference(other) for other in group])
    else:
        fact = f"{entry['plus'][1]!r} - {entry['minus'][1]!r}"
        got = difference(entry)
    yield compare("logit_differences", fact, entry["value"], got, entry["source"], entry["tolerance"])


def token_log_probabilities(logits, ids):
    """log p of each token but the first, from the logits [n_seq, n_vocab] of the text, in nats."""
    logits = logits[:-1].astype(np.float64)
    top = logits.max(axis=-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    return logits[np.arange(len(logits)), list(ids[1:])] - total


def check_losses(subject, entry, facts):
    """The mean over all predictions, the first from <|endoftext|> included."""
    got = -token_log_probabilities(subject.model.run(entry["ids"]).logits, entry["ids"]).mean()
    yield compare(
        "losses", f"loss, {len(entry['ids'])} tokens", entry["value"], got, entry["source"], entry["tolerance"]
    )


def check_log_probabilities(subject, entry, facts):
    got = token_log_probabilities(subject.model.run(entry["ids"]).logits, entry["ids"])
    yield compare(
        "log_probabilities", f"log p of {len(got)} tokens", entry["values"], got, entry["source"],
        relative=entry["relative_tolerance"], where=lambda at: f"token {at[0] + 1}",
    )  # fmt: skip


def check_greedy(subject, entry, facts):
    """Always the likeliest token, one run of the whole text for each."""
    fact, text = "continuation", entry.get("continuation")
    if text is not None and (missing := subject.missing_vocabulary()):
        yield skipped("greedy", fact, entry["source"], missing)
        return
    expected = entry["continuation_ids"] if text is None else subject.model.encode(text)
    ids, log_probabilities = list(entry["ids"]), []
    for _ in expected:
        logits = subject.last_logits(ids)
        ids.append(int(logits.argmax()))
        log_probabilities.append(np.log(m.softmax(logits)[ids[-1]]))
    got = ids[len(entry["ids"]) :]
    if text is not None:
        continued = subject.model.decode(got)  # the source gives a text, which other tokens could spell as well
        shown = short(text, 13), short(continued, 13)
        yield equal("greedy", fact, text, continued, entry["source"], f"goes on with {short(continued, 60)!r}", shown)
        return
    place = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), 0)
    message = f"token {place + 1} of the continuation is {got[place]}, expected {expected[place]}"
    shown = ends(expected), ends(got)
    yield equal("greedy", fact, expected, got, entry["source"], message, shown)
    if "log_probabilities" in entry:
        yield compare(
            "greedy", f"log p of {len(expected)} tokens", entry["log_probabilities"], log_probabilities,
            entry["source"], entry["tolerance"], where=lambda at: f"token {at[0] + 1}",
        )  # fmt: skip
