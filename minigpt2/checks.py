"""What the model refuses, each in one sentence: tokens it cannot read, numbers that overflow, choices that mean nothing.

The arithmetic in model.py checks nothing, so that it can be read; those who call it with something of a user's ask here.
"""

import math
import operator

import numpy as np


def check_tokens(tokens, config, name):
    """tokens as an integer array [n_seq], or a ValueError that says what the model `name` cannot read in it."""
    if isinstance(tokens, (str, bytes)):
        raise ValueError("expected token ids, got text; use model.encode(text)")
    try:
        array = np.asarray(tokens)
    except ValueError:
        raise ValueError("tokens must be one flat list of token ids, got lists of different lengths") from None
    if array.ndim != 1:
        raise ValueError(f"tokens must be one flat list of token ids, got an array of shape {list(array.shape)}")
    if array.size == 0:
        raise ValueError("there are no tokens to run: give at least one token id")
    if array.dtype.kind not in "iu":  # NumPy counts spans of time among its integers
        raise ValueError(f"token ids must be integers, got {array.dtype}; model.encode(text) makes them from text")
    if array.size > config.n_ctx:
        raise ValueError(
            f"{array.size} tokens do not fit: {name} has n_ctx = {config.n_ctx} positions; shorten the text"
        )
    outside = array[(array < 0) | (array >= config.n_vocab)]
    if outside.size:
        raise ValueError(f"token id {outside[0]} is not in the vocabulary: {name} has ids 0 to {config.n_vocab - 1}")
    return array.astype(np.int64)  # one type for all: uint64 stacked with int64 would be floats


def check_batch(texts, config, name):
    """Texts of equal length as an integer array [n_texts, n_seq], or a ValueError."""
    try:
        texts = list(texts)
    except TypeError:
        raise ValueError(f"run_batch needs a list of texts, got {type(texts).__name__}") from None
    texts = [check_tokens(text, config, name) for text in texts]
    if len(lengths := sorted({len(text) for text in texts})) != 1:
        raise ValueError(
            f"run_batch needs one or more texts of equal length, got {' and '.join(map(str, lengths)) or 'no'} tokens"
        )
    return np.stack(texts)


def check_resumed(resid, layer, at, config, dtype):
    """A stream that is to enter block `layer`, in the model's dtype, or the ValueError or FloatingPointError for it."""
    c = config
    try:
        with quiet():  # check_finite reports it
            resid = np.asarray(resid).astype(dtype, casting="same_kind", copy=False)
    except (TypeError, ValueError):
        raise ValueError(f"resume needs a residual stream of numbers, got {type(resid).__name__}") from None
    if resid.ndim < 2 or not resid.size or resid.shape[-1] != c.n_embd or resid.shape[-2] > c.n_ctx:
        raise ValueError(
            f"resume needs a residual stream of shape [..., n_seq, {c.n_embd}] with n_seq from 1 to {c.n_ctx}, "
            f"got {list(resid.shape)}"
        )
    if not isinstance(at, str) or at not in ("resid_pre", "resid_mid"):
        raise ValueError(f'resume enters a block at "resid_pre" or at "resid_mid", got {at!r}')
    if not isinstance(layer, (int, np.integer)) or not 0 <= layer <= c.n_layer - (at == "resid_mid"):
        raise ValueError(
            f"layer {layer!r} is out of range: blocks are 0 to {c.n_layer - 1}"
            + (f", and {c.n_layer} is the final layer norm" if at == "resid_pre" else "")
        )
    if not np.isfinite(resid).all():
        raise FloatingPointError(
            f"the residual stream given to layer {layer} contains NaN, or infinity in {dtype}; check the values written "
            "into it"
        )
    check_finite(resid, f"the residual stream given to layer {layer} overflows {dtype}")
    return resid


def quiet():
    """Silence NumPy about overflow where check_finite reports it instead, and names the layer."""
    return np.errstate(over="ignore", invalid="ignore")


def check_finite(array, what):
    """Raise FloatingPointError unless the squares of each row have a finite sum, which the next layer norm takes."""
    with quiet():
        finite = np.isfinite(np.vecdot(array, array)).all()
    if not finite:
        remedy = "; try dtype=np.float64" if array.dtype == np.float32 else ""
        raise FloatingPointError(f"{what}: the weights or the patched vector are too large{remedy}")


def is_number(value):
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_finite(value):
    """Whether value is one finite number."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def whole_number(what, value, least):
    """value as an int of at least `least`, or a ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return number


def indices(what, chosen, n, those):
    """A list of distinct indices 0 to n - 1, all of them for None; negative ones count from the end, as in Python. those
    says in a refusal what there are, e.g. "the prompts have 11 tokens"."""
    if chosen is None:
        return list(range(n))
    found, seen = [], set()
    for i in whole_numbers(what, chosen):
        if not -n <= i < n:
            raise ValueError(f"{what} {i} is out of range: {those} (0 to {n - 1})")
        if i % n in seen:
            raise ValueError(f"{what}s contains {what} {i % n} twice")
        seen.add(i % n)
        found.append(i % n)
    if not found:
        raise ValueError(f"{what}s must be a list of whole numbers with at least one in it (all by default)")
    return found


def whole_numbers(what, chosen):
    """Yield them one by one, so that a wrong one among very many is the last that is looked at."""
    try:
        for i in chosen:
            if not is_number(i) or int(i) != i:
                raise ValueError
            yield int(i)
    except (TypeError, ValueError, OverflowError):  # not a list; a fraction or NaN; infinity
        raise ValueError(f"{what}s must be a list of whole numbers with at least one in it (all by default)") from None
