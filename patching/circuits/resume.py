"""Finished work on disk: the edges of one pair, layer by layer, in a folder that an interrupted call finds again.

A folder keeps one question. Another one (other texts, weights, metric, direction or alpha) is refused, and what differs named.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from minigpt2.atomic import replacing
from minigpt2.checkpoint.weights import flatten


class Kept:
    """values [n_writers, n_readers] of pair number i, and which layers of readers are done; folder None keeps nothing."""

    def __init__(self, folder, i, setting, values):
        self.values, self.done = values, set()
        self.path = None if folder is None else Path(folder) / f"pair-{i:04}.npz"
        if self.path is None:
            return
        self.question = question_of(setting)
        if self.path.exists():
            self.read()

    def read(self):
        try:
            with np.load(self.path, allow_pickle=False) as file:
                question, values, done = json.loads(str(file["question"][()])), file["values"], file["done"].tolist()
            if values.shape != self.values.shape or values.dtype != self.values.dtype or not isinstance(question, dict):
                raise ValueError
        except Exception:  # zipfile, zlib and NumPy's format have classes of their own
            raise ValueError(
                f"{self.path} does not keep edges of this model: give another folder, or remove it"
            ) from None
        if others := [name for name, value in self.question.items() if question.get(name) != value]:
            name = others[0]
            raise ValueError(
                f"{self.path} keeps the edges of another question: its {name} is {question.get(name)!r:.60}, and "
                f"{self.question[name]!r:.60} is asked for; give another folder, or remove it"
            )
        self.values[:], self.done = values, set(done)

    def finish(self, layer):
        """Note that this layer's readers are done; the file is replaced in one move."""
        self.done.add(layer)
        if self.path is not None:
            with replacing(self.path) as temporary, open(temporary, "wb") as file:
                np.savez(file, question=json.dumps(self.question), values=self.values, done=sorted(self.done))


def question_of(setting):
    """All that the values depend on, as JSON has it."""
    model = setting.model
    weights = 0
    for name, array in sorted(flatten(model.weights).items()):
        weights = zlib.crc32(np.ascontiguousarray(array).view(np.uint8), zlib.crc32(name.encode(), weights))
    return {
        "clean text": list(setting.tokens.clean), "corrupted text": list(setting.tokens.corrupted),
        "answers": list(setting.tokens.answers), "direction": setting.direction, "metric": setting.metric.name,
        "alpha": setting.alpha, "dtype": str(model.dtype), "weights (checksum)": weights,
        # a function has no other name than its own: its values tell it from another
        "metric of both runs": [setting.clean_value, setting.corrupted_value],
    }  # fmt: skip
