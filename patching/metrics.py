"""How one number is read off the last position's logits: the metrics of a sweep, each with its derivative.

To add one: write the function that makes it for a pair, add its line to METRICS; sweeps, attribution, the demo and what is
said of a result know it from there. A function of the user's logits is a metric too, without a line.

A metric that needs only the two answers' logits asks for these two rows of wte and nothing else of the vocabulary; one that
needs a softmax, and any function of the user's, costs the full unembedding of every patch (n_vocab * n_embd
multiplications each, about half a forward pass of the GPT-2 small shape per position).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from minigpt2 import model as m


@dataclass(frozen=True)
class Metric:
    """read(logits) -> value, for logits [..., n] of the token ids in `tokens` (all of the vocabulary if None).

    slope(logits) is d(value) / d(logits), [n], or None where it is not known. unit names the value in tables and figures.
    """

    unit: str
    read: Callable
    slope: Callable | None = None
    tokens: tuple[int, ...] | None = None
    name: str = ""


class Contrast(NamedTuple):
    """What a metric is made for."""

    answers: tuple  # ids: (clean answers, corrupted answers), each a tuple of one or more
    labels: tuple  # theirs, visible: one for each side
    last_logits: Callable  # (token ids, or None for all) -> the last position's logits of both runs, [2, n]


def logit_difference(contrast):
    """logit(corrupted answer) - logit(clean answer), of a set of answers the mean over it: positive where the corrupted
    answer wins. A constant added to all logits (which a softmax would not see either) does not change it."""
    clean, corrupted = contrast.answers
    n, weights = len(corrupted), [1 / len(corrupted)] * len(corrupted) + [-1 / len(clean)] * len(clean)
    if len(clean) == n == 1:
        read = lambda logits: logits[..., 0] - logits[..., 1]  # noqa: E731
    else:
        read = lambda logits: logits[..., :n].mean(axis=-1) - logits[..., n:].mean(axis=-1)  # noqa: E731
    unit = f"logit({contrast.labels[1]}) - logit({contrast.labels[0]})"
    return Metric(unit, read, slope=lambda logits: np.array(weights), tokens=(*corrupted, *clean))


def normalised(contrast):
    """The logit difference on the scale on which the corrupted run is 0 and the clean run 1 (TransformerLens, ARENA)."""
    difference = logit_difference(contrast)
    clean_value, corrupted_value = difference.read(contrast.last_logits(difference.tokens))
    gap = clean_value - corrupted_value
    if gap == 0:
        raise ValueError(
            f"the normalised metric divides by the gap between the two runs, and both have a logit difference of "
            f"{clean_value:.4g}: choose answers that tell the runs apart, or metric='logit_difference'"
        )
    return replace(
        difference,
        unit="share of the gap (0 corrupted, 1 clean)",
        read=lambda logits: (difference.read(logits) - corrupted_value) / gap + 0.0,  # no minus zero
        slope=lambda logits: difference.slope(logits) / gap,
    )


def probability(contrast, which):
    """softmax(logits)[answer], of a set of answers the sum over it; its slope is p_answer (one-hot - p)."""
    answers = list(contrast.answers[which])

    def slope(logits):
        p = m.softmax(logits)
        inside = np.zeros_like(p)
        inside[answers] = p[answers]
        return inside - p[answers].sum() * p

    return Metric(f"p({contrast.labels[which]})", lambda logits: total(m.softmax(logits), answers), slope)


def probability_difference(contrast):
    """p(corrupted answers) - p(clean answers), each summed over its set (Hanna et al. 2023, with the other sign)."""
    clean, corrupted = (probability(contrast, which) for which in (0, 1))
    return Metric(
        f"{corrupted.unit} - {clean.unit}",
        read=lambda logits: corrupted.read(logits) - clean.read(logits),
        slope=lambda logits: corrupted.slope(logits) - clean.slope(logits),
    )


def log_probability(contrast, which):
    """log softmax(logits)[answer], in nats; its slope is one-hot - p. Of a set of answers, the log of their sum."""
    answers = list(contrast.answers[which])

    def read(logits):
        top = logits.max(axis=-1)
        return log_total(logits, answers) - top - np.log(np.exp(logits - top[..., None]).sum(axis=-1))

    def slope(logits):
        inside = np.zeros_like(logits)
        inside[answers] = m.softmax(logits[answers])
        return inside - m.softmax(logits)

    return Metric(f"log p({contrast.labels[which]})", read, slope)


def kl_divergence(contrast):
    """KL(clean run || this run) of the next token's distributions, in nats, from the unpatched clean run: 0 for the clean
    run itself. Its slope is q - p, with p of the clean run and q of this one."""
    log_p = log_softmax(contrast.last_logits(None)[0])
    p = np.exp(log_p)
    return Metric(
        "KL from the clean run (nats)",
        read=lambda logits: (p * (log_p - log_softmax(logits))).sum(axis=-1),
        slope=lambda logits: m.softmax(logits) - p,
    )


def total(p, answers):
    return p[..., answers[0]] if len(answers) == 1 else p[..., answers].sum(axis=-1)


def log_total(logits, answers):
    if len(answers) == 1:
        return logits[..., answers[0]]
    top = logits[..., answers].max(axis=-1)
    return top + np.log(np.exp(logits[..., answers] - top[..., None]).sum(axis=-1))


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class Entry(NamedTuple):
    make: Callable  # Contrast -> Metric
    words: str
    bounded: bool = False  # between 0 and 1: a change far below 1 may mean something
    compares: bool = False  # its sign says which answer is ahead: positive, the corrupted one


METRICS = {
    "logit_difference": Entry(logit_difference, "logit(corrupted answer) - logit(clean answer)", compares=True),
    "normalised": Entry(normalised, "the same; 0 is the corrupted run, 1 the clean run"),
    "clean_probability": Entry(partial(probability, which=0), "probability of the clean answer", bounded=True),
    "corrupted_probability": Entry(partial(probability, which=1), "probability of the corrupted answer", bounded=True),
    "probability_difference": Entry(
        probability_difference, "p(corrupted answers) - p(clean answers); sets too", compares=True
    ),
    "clean_log_probability": Entry(partial(log_probability, which=0), "log probability of the clean answer (nats)"),
    "corrupted_log_probability": Entry(partial(log_probability, which=1), "log probability of the corrupted answer"),
    "kl_divergence": Entry(kl_divergence, "KL divergence from the unpatched clean run (nats)"),
}


def make(metric, answers, labels, last_logits):
    """The Metric for a name of METRICS or a function of the user's; the other arguments are Contrast's."""
    if callable(metric):
        return user_function(metric)
    if isinstance(metric, (list, tuple)):  # which sweep and attribute take apart before
        known = [one for one in metric if callable(one) or isinstance(one, str) and one in METRICS]
        if len(known) == len(metric):
            some = f"got a list of {len(metric)}: give one metric" if metric else "is an empty list: give one metric"
            raise ValueError(f"metric {some}, or a list of them")
        metric = next(one for one in metric if one not in known)
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(
            f"unknown metric {metric!r:.60}; choose from {', '.join(METRICS)}, or give a function of the logits"
        )
    return replace(METRICS[metric].make(Contrast(answers, labels, last_logits)), name=metric)


def is_bounded(name):
    """Whether the metric of that name stays between 0 and 1; of a function of the user's it is not known."""
    return name in METRICS and METRICS[name].bounded


def user_function(f):
    """Any function of one position's logits [n_vocab] that returns a number; it may define .slope."""

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

    name = getattr(f, "__name__", "metric")
    return Metric(name, read, getattr(f, "slope", None), name=name)


def check_value(metric, value, dtype, where):
    """Refuse a value that is not a finite number of `dtype`: a map with a NaN in it would be drawn, and believed. where()
    says which run or patch gave it."""
    if not (is_finite(value) and abs(float(value)) <= float(np.finfo(dtype).max)):
        raise ValueError(
            f"the metric {metric.name} is {value:.4g} {where()}: it must be a finite number for any logits"
        )


def is_finite(number):
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond any float
        return False
