"""How one number is read off the last position's logits: the metrics of a sweep, each with its derivative.

A metric that needs only the two answers' logits asks for these two rows of wte and nothing else of the vocabulary; one that
needs a softmax, and any function of the user's, costs the full unembedding of every patch (n_vocab * n_embd
multiplications each, about half a forward pass of the GPT-2 small shape per position).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minigpt2 import model as m


@dataclass(frozen=True)
class Metric:
    """read(logits) -> value, for logits [..., n] of the token ids in `tokens` (all of the vocabulary if None).

    slope(logits) is d(value) / d(logits), [n], or None where it is not known. unit names the value in tables and figures.
    """

    name: str
    unit: str
    read: Callable
    slope: Callable | None = None
    tokens: tuple | None = None


def logit_difference(clean_answer, corrupted_answer, labels):
    """logit(corrupted answer) - logit(clean answer): positive where the corrupted answer wins. A constant added to all
    logits (which a softmax would not see either) does not change it."""
    return Metric(
        "logit_difference",
        f"logit({labels[1]}) - logit({labels[0]})",
        read=lambda logits: logits[..., 0] - logits[..., 1],
        slope=lambda logits: np.array([1.0, -1.0]),
        tokens=(corrupted_answer, clean_answer),
    )


def normalised(difference, clean_value, corrupted_value):
    """The logit difference on the scale on which the corrupted run is 0 and the clean run 1 (TransformerLens, ARENA)."""
    gap = clean_value - corrupted_value
    if gap == 0:
        raise ValueError(
            f"the normalised metric divides by the gap between the two runs, and both have a logit difference of "
            f"{clean_value:.4g}: choose answers that tell the runs apart, or metric='logit_difference'"
        )
    return Metric(
        "normalised",
        "share of the gap (0 corrupted, 1 clean)",
        read=lambda logits: (difference.read(logits) - corrupted_value) / gap + 0.0,  # no minus zero
        slope=lambda logits: difference.slope(logits) / gap,
        tokens=difference.tokens,
    )


def probability(name, answer, label):
    """softmax(logits)[answer]; its slope is p_answer (one-hot - p)."""

    def slope(logits):
        p = m.softmax(logits)
        return p[answer] * (one_hot(logits, answer) - p)

    return Metric(name, f"p({label})", lambda logits: m.softmax(logits)[..., answer], slope)


def log_probability(name, answer, label):
    """log softmax(logits)[answer], in nats; its slope is one-hot - p."""

    def read(logits):
        top = logits.max(axis=-1)
        return logits[..., answer] - top - np.log(np.exp(logits - top[..., None]).sum(axis=-1))

    return Metric(name, f"log p({label})", read, lambda logits: one_hot(logits, answer) - m.softmax(logits))


def one_hot(logits, answer):
    v = np.zeros_like(logits)
    v[..., answer] = 1
    return v


def user_function(f):
    """Any function of one position's logits [n_vocab] that returns a number."""

    def read(logits):
        flat = logits.reshape(-1, logits.shape[-1])
        flat.flags.writeable = False  # they may be kept, as the result's logits
        values = [np.asarray(f(row)) for row in flat]
        for value in values:
            if value.shape != () or value.dtype.kind not in "iuf":
                raise ValueError(
                    f"the metric must return one number for the logits of one position, [{logits.shape[-1]}]; it returned "
                    f"{value.dtype} of shape {list(value.shape)}"
                )
        return np.array(values).reshape(logits.shape[:-1])

    return Metric(getattr(f, "__name__", "metric"), getattr(f, "__name__", "metric"), read, getattr(f, "slope", None))


def check_value(metric, value, dtype, where):
    """Refuse a value that is no finite number of `dtype`: a map with a NaN in it would be drawn, and believed. where() says
    which run or patch gave it."""
    if not (is_finite(value) and abs(float(value)) <= float(np.finfo(dtype).max)):
        raise ValueError(
            f"the metric {metric.name} is {value:.4g} {where()}: it must be a finite number for any logits"
        )


def is_finite(number):
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond any float
        return False


METRICS = (
    "logit_difference",
    "normalised",
    "clean_probability",
    "corrupted_probability",
    "clean_log_probability",
    "corrupted_log_probability",
)


def make(metric, answers, labels, last_logits):
    """The Metric for a name of METRICS or a function of the user's.

    answers and labels are (clean, corrupted). last_logits(token ids, or None for all) gives the last position's logits of
    the clean and of the corrupted run, [2, n].
    """
    difference = logit_difference(*answers, labels)
    if callable(metric):
        return user_function(metric)
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(
            f"there is no metric {metric!r:.60}: it is one of {', '.join(METRICS)}, or a function of the logits"
        )
    if metric == "logit_difference":
        return difference
    if metric == "normalised":
        return normalised(difference, *difference.read(last_logits(difference.tokens)))
    which = metric.startswith("corrupted")
    kind = log_probability if metric.endswith("log_probability") else probability
    return kind(metric, answers[which], labels[which])
