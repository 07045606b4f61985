"""Where the vectors come from that a patch writes: the other text's run, or zero, a mean, noise, another place.

A source is a function of (runs, name, layer, head) that returns one layer's activation `name` as it is to be written, [n_seq,
size] or what broadcasts to it, of one head where the activation has heads; runs.base is the run that is patched, runs.target
that of the other text. To add one: write its function here; `words` say in tables and pictures what is written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minigpt2 import GPT2, Run
from minigpt2.checks import is_finite, is_number, whole_number

from .prompts import PromptPair
from .result import OTHER_RUN


class Runs(NamedTuple):
    base: Run  # the run that is patched
    target: Run  # the run of the other text


@dataclass(frozen=True, eq=False)
class Source:
    """vectors(runs, name, layer, head) is what a patch writes; words say what that is, e.g. "zero"."""

    words: str
    vectors: Callable[[Runs, str, int, int | None], Any]
    draws: tuple["Source", ...] = ()  # of a random source: one Source a draw


def other_run() -> Source:
    """The other text's run, at the same place: what patching writes unless something else is asked for."""
    return Source(OTHER_RUN, lambda runs, name, layer, head: runs.target.activation(name, layer, head))


def zero(convention: str = "raw") -> Source:
    """Zero ablation. "raw" writes 0. "transformer_lens" writes what a 0 is with TransformerLens's folded weights: there
    the value bias and ln_1's bias through W_V have moved into the output bias, so a head whose v, z or result is 0 still
    adds them (TransformerLens, fold_layer_norm and fold_value_biases in its weight processing); every other activation
    is 0 in both."""
    if convention == "raw":
        return Source("zero", lambda runs, name, layer, head: np.zeros(1, runs.base.model.dtype))
    if convention != "transformer_lens":
        raise ValueError(f'unknown convention {convention!r:.60} of zero; choose "raw" or "transformer_lens"')

    def vectors(runs, name, layer, head):
        if name not in ("v", "z", "result"):
            return np.zeros(1, runs.base.model.dtype)
        h, n = runs.base.model.weights.h[layer], runs.base.model.config.d_head
        v = (h.ln_1.bias @ h.attn.c_attn.weight + h.attn.c_attn.bias)[2 * h.ln_1.bias.size :][head * n : (head + 1) * n]
        return v if name != "result" else v @ h.attn.c_proj.weight[head * n : (head + 1) * n]

    return Source("TransformerLens's zero", vectors)


def mean(texts: Sequence[Sequence[int]], per_position: bool = True) -> Source:
    """Mean ablation: the mean over texts (token ids), at each position by itself, which needs texts as long as the
    prompts, or over all their positions. Whether weights are folded makes no difference to it."""
    texts = [tuple(text) for text in texts]
    if not texts:
        raise ValueError("a mean needs at least one text of token ids")
    seen: dict[Any, np.ndarray] = {}

    def vectors(runs, name, layer, head):
        model, n_seq = runs.base.model, len(runs.base.tokens)
        if per_position and {len(text) for text in texts} != {n_seq}:
            lengths = ", ".join(str(n) for n in sorted({len(text) for text in texts}))
            raise ValueError(
                f"a mean at each position needs texts of the prompts' {n_seq} tokens, got {lengths}; "
                "per_position=False takes the mean over all positions"
            )
        if (key := (id(model), name)) not in seen:
            seen[key] = mean_activation(model, texts, name, per_position)
        of_layer = seen[key][layer]
        return of_layer if head is None else of_layer[head]

    return Source(f"the mean of {len(texts)} texts" + ("" if per_position else " and their positions"), vectors)


def mean_activation(model: GPT2, texts: Sequence[Sequence[int]], name: str, per_position: bool = True) -> np.ndarray:
    """The mean of an activation over texts, for every layer: [n_layer, n_seq, size], or [n_layer, n_head, n_seq, size];
    n_seq is 1 for the mean over positions, which counts every position of every text alike."""
    if name == "pattern" and not per_position:
        raise ValueError("a pattern has no mean over positions: each position looks at another number of them")
    total: Any = None
    n = 0
    for text in texts:
        run = model.run(text, keep=["q", "k"] if name == "pattern" else ["z"] if name == "result" else [name])
        array = np.stack([run.activation(name, layer) for layer in range(model.config.n_layer)]).astype(np.float64)
        array = array if per_position else array.sum(axis=-2, keepdims=True)
        total, n = (array if total is None else total + array), n + (1 if per_position else len(text))
    return (total / n).astype(model.dtype)


def noise(scale: float | str, seed: int = 0, n: int = 1) -> Source:
    """The run's own vector plus Gaussian noise, n draws. scale is its standard deviation, or "3 sigma": three standard
    deviations of the token embeddings (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", 2.1)."""
    n, seed = whole_number("n, the number of draws,", n, 1), whole_number("seed", seed, 0)
    if scale != "3 sigma" and not (is_finite(scale) and float(scale) > 0):
        raise ValueError(f'the scale of noise must be a number above 0, or "3 sigma", got {scale!r:.60}')

    def draw(i):
        def vectors(runs, name, layer, head):
            own, model = runs.base.activation(name, layer, head), runs.base.model
            size = 3 * float(model.weights.wte.std()) if scale == "3 sigma" else scale
            key = [seed, i, layer, 0 if head is None else head + 1, *name.encode()]
            return own + model.dtype.type(size) * np.random.default_rng(key).standard_normal(
                own.shape, np.float64
            ).astype(model.dtype)

        return vectors

    words = f"noise of {scale}" + (f", {n} draws" if n > 1 else "")
    return Source(words, draw(0), tuple(Source(words, draw(i)) for i in range(n)) if n > 1 else ())


def at(layer: int | None = None, position: int | None = None) -> Source:
    """The other run's vector of another place: of another layer, another position, or both. The control for a patch
    (does the wrong vector do the same?), and what a Patchscope does (Ghandeharioun et al. 2024)."""
    if layer is None and position is None:
        raise ValueError("at needs a layer, a position or both: without them it is the other run's own place")

    def vectors(runs, name, own_layer, head):
        taken = runs.target.activation(name, own_layer if layer is None else checked("layer", layer, runs), head)
        return taken if position is None else taken[checked("position", position, runs)]

    def checked(what, i, runs):
        n = runs.base.model.config.n_layer if what == "layer" else len(runs.base.tokens)
        if not is_number(i) or int(i) != i or not -n <= i < n:
            raise ValueError(f"{what} {i!r:.60} to take vectors from is out of range: there are {n} (0 to {n - 1})")
        return int(i) % n

    where = ", ".join(f"{what} {i}" for what, i in (("layer", layer), ("position", position)) if i is not None)
    return Source(f"the other run's {where}", vectors)


def steer(vector: np.ndarray, c: float = 1.0) -> Source:
    """The run's own vector plus c times a direction [size], e.g. a difference of two means."""
    if not is_finite(c):
        raise ValueError(f"c, how far to steer, must be a finite number, got {c!r:.60}")

    def vectors(runs, name, layer, head):
        own = runs.base.activation(name, layer, head)
        direction = np.asarray(vector)
        if direction.shape != own.shape[-1:] or direction.dtype.kind not in "iuf" or not np.isfinite(direction).all():
            raise ValueError(
                f"the direction for {name} must be {own.shape[-1]} finite numbers, got {list(np.shape(vector))}"
            )
        return own + own.dtype.type(c) * direction.astype(own.dtype)

    return Source(f"the run's own vector, steered by {c:g}", vectors)


def of_run(run: Run) -> Source:
    """A third text's run, at the same place (resample ablation)."""

    def vectors(runs, name, layer, head):
        if len(run.tokens) != len(runs.base.tokens):
            raise ValueError(f"the source has {len(run.tokens)} tokens, the prompts {len(runs.base.tokens)}")
        return run.activation(name, layer, head)

    return Source("another text's run", vectors)


SOURCES = {"other run": other_run, "zero": zero, "transformer_lens zero": lambda: zero("transformer_lens")}


def make_source(source, model, direction):
    """The Source for a name of SOURCES, a Source, a Run, or a PromptPair (of which the same text is taken as of the pair
    that is patched), or a ValueError."""
    if source is None:
        return None
    if isinstance(source, Source):
        return source
    if isinstance(source, Run):
        return of_run(source)
    if isinstance(source, PromptPair):
        tokens = source.tokens(model)
        return of_run(model.run(tokens.clean if direction == "denoising" else tokens.corrupted))
    if isinstance(source, str) and source in SOURCES:
        return SOURCES[source]()
    raise ValueError(
        f"unknown source {source!r:.60}; choose from {', '.join(SOURCES)}, a Run, a PromptPair, or what a function of "
        "patching.sources returns"
    )
