"""Train the bundled model: python -m minigpt2.bundled.train --out FOLDER

Everything is this repository's own: the text (corpus.py), the vocabulary (bpe.py), the gradients (backward.py) and the
optimiser (optimiser.py). The result is a folder in the Hub's layout, which GPT2.from_pretrained(FOLDER) loads. A run
depends on its settings only (and on how the BLAS at hand rounds); Ctrl-C saves it, --resume continues it bit for bit.

Read next: evaluate.py.
"""

import argparse
import dataclasses
import json
import math
import os
import random
import signal
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import backward
from ..checkpoint import weights
from ..model import Config
from ..terminal import brief, guarded
from ..tokenizer import Tokenizer
from . import batches, bpe, corpus, words
from .optimiser import AdamW, Parameters, clip

LIMITS = {  # of every setting, those of the sizes being GPT-2 XL's; beyond them there is no memory, or no meaning
    "steps": (0, 10**9), "batch": (1, 10**6), "seed": (0, 2**63), "learning_rate": (0, 1e38), "warm_up": (0, 10**9),
    "beta1": (0, 0.999999), "beta2": (0, 0.999999), "weight_decay": (0, 1), "clip": (1e-9, 1e9), "spread": (0, 1),
    "n_layer": (1, 48), "n_head": (1, 25), "n_embd": (2, 1600), "n_ctx": (1, 1024), "n_vocab": (300, 50257),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All that a training run depends on."""

    steps: int = 10000
    batch: int = 1024  # predictions a step
    seed: int = 0
    learning_rate: float = 2e-3  # the highest; it rises linearly during warm_up and falls to a twentieth as a cosine
    warm_up: int = 100
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.1
    clip: float = 1.0
    spread: float = 0.08  # of the first weights, about 1 / sqrt(n_embd); GPT-2's 0.02 is for its 768 and too slow here
    n_layer: int = 6
    n_head: int = 4
    n_embd: int = 128
    n_ctx: int = 128
    n_vocab: int = 1524

    def __post_init__(self):
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from {least} to {most}, got {getattr(self, name)}")
        if self.n_embd % self.n_head or self.n_embd % 2:
            raise ValueError(f"n_embd {self.n_embd} must be even and divisible by n_head {self.n_head}")
        if not self.lengths:
            raise ValueError(f"n_ctx {self.n_ctx} is too short: batches have rows of {min(batches.LENGTHS)} or more")
        if self.batch < max(self.lengths):
            raise ValueError(f"a batch of {self.batch} predictions is less than one row of {max(self.lengths)}")

    @property
    def lengths(self):
        """Which of the batches' row lengths fit into n_ctx."""
        return {n: odds for n, odds in batches.LENGTHS.items() if n <= self.n_ctx}

    @property
    def config(self):
        return Config(self.n_layer, self.n_head, self.n_embd, self.n_ctx, self.n_vocab, 4 * self.n_embd)

    def learning_rate_at(self, step):
        """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017) down to a twentieth."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def learn_vocabulary(folder, n_vocab):
    """Write vocab.json and merges.txt, learned from the corpus and from its names and the verbs of giving, often enough
    for each to become one token (the names also at the start of a text, where no space is before them)."""
    rng = random.Random("vocabulary")
    texts = [document(rng).replace(corpus.MARK, "") for _ in range(2000) for document in batches.DOCUMENTS]
    names = words.FIRST_NAMES + words.SURNAMES + [*words.CAPITALS, *words.CAPITALS.values()]
    texts += [f"{name} {name}\n" * 1000 for name in names] + [f" {verb}" * 1000 for verb in words.GAVE]
    bpe.write(folder, bpe.learn(texts, n_vocab - 257))


class Training:
    """A run and everything that its next step depends on. `folder` holds the vocabulary, the state and the model."""

    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings
        self.parameters, self.gradients = Parameters(settings.config), Parameters(settings.config)
        self.parameters.initialise(settings.seed, settings.spread, settings.config)
        s = settings
        self.adam = AdamW(self.parameters.flat, self.parameters.n_decayed, s.beta1, s.beta2, s.weight_decay)
        self.encode = Tokenizer(folder / "vocab.json", folder / "merges.txt").encode

    @classmethod
    def start(cls, folder, settings):
        """A new run in an empty folder."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "training.npz").exists():
            raise ValueError(f"{folder} holds a training run already: --resume continues it, another --out starts anew")
        if (folder / "model.safetensors").exists():
            raise ValueError(f"{folder} holds a model, which would be overwritten: choose another --out")
        learn_vocabulary(folder, settings.n_vocab)
        return cls(folder, settings)

    @classmethod
    def resume(cls, folder):
        """The run that was saved in the folder, with its settings."""
        if not (folder / "training.npz").exists():
            raise ValueError(f"{folder} holds no training run (training.npz): leave --resume out to start one")
        try:
            with np.load(folder / "training.npz") as state:
                self = cls(folder, Settings(**json.loads(str(state["settings"]))))
                self.parameters.flat[:], self.adam.m[:], self.adam.v[:] = state["parameters"], state["m"], state["v"]
                self.adam.steps = int(state["steps"])
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{folder}/training.npz is not a whole training run ({brief(error)}): start anew"
            ) from None
        return self

    def save(self):
        """Write the state and the model; a file is replaced only by a finished one."""
        state = dict(
            parameters=self.parameters.flat, m=self.adam.m, v=self.adam.v, steps=self.adam.steps,
            settings=json.dumps(dataclasses.asdict(self.settings)),
        )  # fmt: skip
        if not np.abs(self.parameters.flat).max() <= np.finfo(np.float16).max:
            raise FloatingPointError(
                f"a weight is beyond float16 at step {self.adam.steps}: try a lower --learning-rate"
            )
        unfinished = self.folder / "unfinished.npz"
        np.savez(unfinished, **state)
        os.replace(unfinished, self.folder / "training.npz")
        weights.save_folder(self.folder, self.settings.config, self.parameters.weights, dtype=np.float16)

    def step(self):
        """One step of gradient descent. Returns the loss before it."""
        s = self.settings
        tokens, weight = batches.batch(s.seed, self.adam.steps, self.encode, s.n_vocab, s.batch, s.lengths)
        loss, _ = backward.loss_and_gradients(tokens, self.parameters.weights, s.config, weight, self.gradients.weights)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.adam.steps}: try a lower --learning-rate")
        clip(self.gradients.flat, s.clip)
        self.adam.step(self.gradients.flat, s.learning_rate_at(self.adam.steps))
        return loss


def train(training, save_every=200, report_every=25, interrupted=lambda: False):
    """Run to the end, or until interrupted() after some step; saved either way. Returns whether it came to the end."""
    started, first, recent = time.monotonic(), training.adam.steps, []
    while training.adam.steps < training.settings.steps and not interrupted():
        recent = [*recent[-49:], training.step()]
        done, steps = training.adam.steps, training.settings.steps
        per_step = (time.monotonic() - started) / (done - first)
        if sys.stderr.isatty() or done % report_every == 0 or done == steps:
            left = f"{int((steps - done) * per_step) // 60}:{int((steps - done) * per_step) % 60:02}"
            line = f"step {done}/{steps}  loss {sum(recent) / len(recent):.3f}  {per_step:.2f} s a step  {left} left"
            print(line, end="  \r" if sys.stderr.isatty() and done < steps else "\n", file=sys.stderr, flush=True)
        if done % save_every == 0:
            training.save()
    training.save()
    return training.adam.steps >= training.settings.steps


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m minigpt2.bundled.train", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bundled-model"), help="folder for the model (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, with the settings it has")
    for field in dataclasses.fields(Settings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=field.type, help=f"({field.default})")
    chosen = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    folder, resume = chosen.pop("out"), chosen.pop("resume")
    if resume and chosen:
        parser.error(f"a resumed run keeps the settings it has: leave out --{next(iter(chosen)).replace('_', '-')}")
    try:
        training = Training.resume(folder) if resume else Training.start(folder, Settings(**chosen))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(True) if not stop else sys.exit(130))
    try:
        finished = train(training, interrupted=lambda: bool(stop))
    except (FloatingPointError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not finished:
        print(f"\nstopped after step {training.adam.steps}; --resume continues", file=sys.stderr)
        return 130
    print(f"the model is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
