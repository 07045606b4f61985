"""Continuing a text: the model reads what is there, one next token is chosen, and the model reads on.

Two versions of what the model reads: `generate` keeps every layer's keys and values (KeyValueCache), so that a new
token is one row through the layers; `generate_plain` runs the whole text again for each token. Both give the same
tokens. How one is chosen from the logits (temperature, top-k, nucleus) is `choose`. Read model.py first.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from . import model as m
from .checks import check_finite, is_number, quiet, whole_number
from .gpt2 import GPT2
from .overwrite import Overwrite, attend_with, overwritten_block, prepare


class KeyValueCache:
    """The keys and values of the `length` positions read so far; k, v [n_layer, n_head, n_ctx, d_head]."""

    def __init__(self, config: m.Config, dtype: np.typing.DTypeLike = np.float32):
        shape = (config.n_layer, config.n_head, config.n_ctx, config.d_head)
        self.k, self.v, self.length = np.empty(shape, dtype), np.empty(shape, dtype), 0

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store the keys and values of new positions; return those of all positions, [n_head, n_k, d_head]."""
        stop = self.length + k.shape[-2]
        self.k[layer, :, self.length : stop] = k
        self.v[layer, :, self.length : stop] = v
        return self.k[layer, :, :stop], self.v[layer, :, :stop]


def step(tokens, cache, weights, config, writes=None):
    """Read the next tokens [n_q] of a text, one or many, after those in the cache: model.forward, nothing done twice.

    Returns the logits after the last of them, [n_vocab]. The queries are the last n_q of n_k positions, which is how
    model.causal_mask counts them. writes are overwrite.prepare's, by layer.
    """
    first, n = cache.length, len(tokens)
    resid = m.embed(np.asarray(tokens), weights.wte, weights.wpe, first_pos=first)  # [n_q, n_embd]
    for layer, h in enumerate(weights.h):
        some = [write for each in (writes or {}).get(layer, ()) if (write := each.of_suffix(first, n))]
        attend = cached(cache, layer, attend_with(some))
        with quiet():
            for _, resid in overwritten_block(resid, h, config, some, attend):
                pass
        check_finite(resid, f"the residual stream overflowed {resid.dtype} in layer {layer}")
    cache.length += n
    with quiet():  # `continued` checks the logits
        return m.unembed(resid[-1], weights.ln_f, weights.wte, config.layer_norm_epsilon)


def cached(cache, layer, attend):
    """Attention that reads the keys and values of all positions so far."""
    return lambda q, k, v: attend(q, *cache.extend(layer, k, v))


def generate(
    model: GPT2,
    tokens: Sequence[int],
    n: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: int | Sequence[int] | None = None,
    overwrites: Sequence[Overwrite] = (),
) -> Iterator[int]:
    """Continue a text by n tokens; returns an iterator that yields each token id as soon as it is chosen.

    Greedy by default. temperature > 0 draws from softmax(logits / temperature), with top_k from the k likeliest tokens
    only, with top_p from the nucleus; the same seed draws the same text. stop is a token id, or a list of them, at
    which the text ends early; it is not yielded. overwrites without positions are written at every token, given or new
    (steering); those with positions at theirs. Raises ValueError, before the first token, for what cannot be done.
    """
    cache, writes = KeyValueCache(model.config, model.dtype), prepare(overwrites, model)
    return continued(
        model, tokens, n, temperature, top_k, top_p, seed, stop,
        read=lambda new: step(new, cache, model.weights, model.config, writes),
    )  # fmt: skip


def generate_plain(
    model: GPT2,
    tokens: Sequence[int],
    n: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: int | Sequence[int] | None = None,
    overwrites: Sequence[Overwrite] = (),
) -> Iterator[int]:
    """generate without a cache: the whole text through the whole model for each token."""
    text, writes = [], prepare(overwrites, model)

    def read(new):
        text.extend(new)
        resid = m.embed(np.array(text), model.weights.wte, model.weights.wpe)
        for layer, h in enumerate(model.weights.h):
            some = [write for each in writes.get(layer, ()) if (write := each.of_suffix(0, len(text)))]
            with quiet():
                for _, resid in overwritten_block(resid, h, model.config, some):
                    pass
        with quiet():
            return m.unembed(resid, model.weights.ln_f, model.weights.wte, model.config.layer_norm_epsilon)[-1]

    return continued(model, tokens, n, temperature, top_k, top_p, seed, stop, read)


def continued(model, tokens, n, temperature, top_k, top_p, seed, stop, read):
    """Check the arguments, then return the iterator. read(new tokens) gives the logits after them, [n_vocab]."""
    tokens = model.check_tokens(tokens).tolist()
    n = whole_number("n, the number of new tokens,", n, 0)
    n_ctx = model.config.n_ctx
    if len(tokens) + n > n_ctx:
        raise ValueError(
            f"{len(tokens)} tokens and {n} new ones do not fit: {model.name} has n_ctx = {n_ctx} positions; ask for at "
            f"most {n_ctx - len(tokens)}, or shorten the text"
        )
    check_choice(temperature, top_k, top_p)
    stop = [stop] if isinstance(stop, (int, np.integer)) else stop
    none = stop is None or isinstance(stop, (tuple, list)) and not stop
    stop = set() if none else {*model.check_tokens(stop).tolist()}
    rng = np.random.default_rng(seed if seed is None else whole_number("seed", seed, 0))

    def extend():
        new = tokens
        for _ in range(n):
            logits = read(new)
            check_finite(logits, f"the logits overflowed {logits.dtype}")
            token = choose(logits, temperature, top_k, top_p, rng)
            if token in stop:
                return
            yield token
            new = [token]

    return extend()


def choose(
    logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None, rng: np.random.Generator
) -> int:
    """Choose the next token from its logits [n_vocab]: the likeliest at temperature 0, otherwise a draw.

    The logits are divided by the temperature, then cut to the top_k largest (Fan et al. 2018), then to the nucleus: the
    fewest tokens whose probabilities sum to top_p or more (Holtzman et al. 2020, section 3.1).
    """
    if temperature == 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits)[:top_k]  # likeliest first
    scores = logits[order].astype(np.float64)
    with np.errstate(over="ignore"):  # a tiny temperature makes minus infinity of all but the largest, which stays 0
        p = m.softmax((scores - scores[0]) / temperature)
    cumulative = np.cumsum(p)
    if top_p is not None:
        cumulative = cumulative[: np.searchsorted(cumulative, top_p) + 1]
    return int(order[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")])


def check_choice(temperature, top_k, top_p):
    """Raise ValueError for settings of choose that mean nothing."""
    if not (is_number(temperature) and 0 <= temperature < math.inf):
        raise ValueError(f"temperature must be a number from 0 (greedy) up, got {temperature!r}")
    if top_k is not None:
        whole_number("top_k, the number of tokens to draw from,", top_k, 1)
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p, the probability that the nucleus holds, must be above 0 and at most 1, got {top_p!r}")
    if temperature == 0 and not (top_k is top_p is None):
        raise ValueError("top_k and top_p say what to draw from, and temperature 0 draws nothing: give one, such as 1")
