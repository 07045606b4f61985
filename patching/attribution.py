"""Attribution patching: the whole map of a sweep, estimated from one backward pass (Nanda 2023; Syed et al. 2310.10348).

A patch replaces a vector `base` by what the source has; to first order the metric moves by (source - base) . gradient, with
the gradient of the metric by that vector in the base run. One backward pass gives the gradients of all vectors. It is exact
for small changes only: sweep(..., alpha=eps) has this slope at eps = 0, and where the model bends between 0 and 1 the
estimate is off. Read sweeps.py for the exact values.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigpt2 import GPT2
from minigpt2.backward import layer_gradients
from minigpt2.checks import quiet
from minigpt2.overwrite import Overwrite

from .plan import Question
from .prompts import PromptPair
from .result import Result
from .sources import Source
from .sweeps import by_metric, over_draws, plans_for


def attribute(
    model: GPT2,
    pair: PromptPair,
    site: str = "resid_post",
    *,
    direction: str | None = None,
    metric: str | Callable | Sequence[str | Callable] = "logit_difference",
    alpha: float = 1.0,
    source: Source | str | Any = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int] | str | None = None,
    window: int = 1,
    places: Sequence[Sequence[tuple]] | None = None,
    overwrites: Sequence[Overwrite] = (),
    source_overwrites: Sequence[Overwrite] | None = None,
) -> Result | dict[str, Result]:
    """Estimate the same sweep to first order: value of the base run + alpha (source - base) . gradient.

    Takes the arguments of sweep and returns its Result, with method="attribution". Raises ValueError for a metric whose
    derivative is not known; a custom function may define .slope(logits) -> [n_vocab].
    """
    question = Question(
        model, pair, site, direction=direction, alpha=alpha, source=source, layers=layers, heads=heads,
        positions=positions, window=window, places=places, overwrites=overwrites, source_overwrites=source_overwrites,
    )  # fmt: skip
    plans = plans_for(question, metric)
    return by_metric(metric, plans, over_draws(plans, lambda plans, _: [estimated(plan) for plan in plans]))


def estimated(plan):
    """attribute, for a Plan with one draw."""
    model, question, result = plan.model, plan.question, plan.result(method="attribution")
    simple = question.places is None and question.window == 1
    add_up = add_up_cells if simple else add_up_places
    with quiet():
        for layer, gradients in layer_gradients(plan.base, slope(plan), pattern=question.site.activation == "pattern"):
            add_up(result, question, layer, lambda: first_order(plan, layer, gradients))
    if not np.isfinite(result.values).all():
        named = question.axes.get("layer", [None])
        raise FloatingPointError(
            f"the attribution overflowed {model.dtype}"
            + (f" in layer {named[np.argwhere(~np.isfinite(result.values))[-1][0]]}" if simple else "")
            + ": alpha, the metric's slope or the weights are too large; try dtype=np.float64"
        )
    return result


def first_order(plan, layer, gradients):
    """alpha (source - base) . gradient at every place of one layer: [n_seq] or [n_head, n_seq], of a pattern's single
    entries [n_head, n_seq, n_seq]."""
    question, base = plan.question, plan.base
    name = question.site.activation
    own = base.activation(name, layer)
    if len(question.site.axes) == 2:
        new = plan.vectors(name, layer, None)
    else:
        new = np.stack([np.broadcast_to(plan.vectors(name, layer, i), own.shape[1:]) for i in range(len(own))])
    effect = gradients[name] * question.alpha * (new - own)
    return effect if "source" in question.axes else effect.sum(axis=-1)


def add_up_cells(result, question, layer, effect):
    """Each patch is one place, or all positions of one: its effect on the base run's value."""
    layers, *others = question.axes.values()
    if layer in layers:
        effect = effect()
        effect = effect.sum(axis=-1) if question.all_positions else effect
        result.values[layers.index(layer)] += effect[np.ix_(*others)]


def add_up_places(result, question, layer, effect):
    """Each patch is a set of places: their effects by themselves, added up. That is no slope where one place reads another,
    whose own effect the overwriting of the later one cuts off."""
    effect = effect()
    for patch in question.patches():
        for place in patch.places:
            if place.layer == layer:
                cells = effect if place.head is None else effect[place.head]
                result.values[patch.index] += cells[place.positions].sum()


def slope(plan, run=None):
    """d(metric) / d(logits) of the last position of the base run, or of another run of the same text, [n_vocab]."""
    metric, tokens = plan.metric, plan.metric.tokens
    if metric.slope is None:
        raise ValueError(
            f"attribution needs the derivative of the metric, and {metric.name} has none: give it an attribute "
            "slope(logits) that returns [n_vocab], or use sweep"
        )
    resid = (run or plan.base).resid_post[-1, -1]
    if tokens is None:
        return checked(metric.slope, plan.logits(resid))
    dlogits = np.zeros(plan.model.config.n_vocab, plan.model.dtype)
    dlogits[list(tokens)] = metric.slope(plan.logits(resid, tokens))
    return dlogits


def checked(f, logits):
    """f(logits) as an array, if it is a gradient by logits."""
    slope = np.asarray(f(logits)) if callable(f) else np.asarray(None)
    if slope.shape != logits.shape or slope.dtype.kind not in "iuf" or not np.isfinite(slope).all():
        raise ValueError(
            f"the metric's slope must be a function that returns {len(logits)} finite numbers, one for each logit"
        )
    return slope
