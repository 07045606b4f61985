"""Attribution patching: the whole map of a sweep, estimated from one backward pass (Nanda 2023; Syed et al. 2310.10348).

A patch replaces a vector `base` by `source`; to first order the metric moves by (source - base) . gradient, with the gradient
of the metric by that vector in the base run. One backward pass gives the gradients of all vectors. It is exact for small
changes only: sweep(..., alpha=eps) has this slope at eps = 0, and where the model bends between 0 and 1 the estimate is
off. Read sweep.py for the exact values.
"""

import numpy as np

from minigpt2 import model as m
from minigpt2.backward import layer_gradients, pattern_backward
from minigpt2.gpt2 import quiet

from .plan import Plan


def attribute(model, pair, site="resid_post", **choices):
    """Estimate sweep(model, pair, site, **choices) to first order: value of the base run + alpha (source - base) . gradient.

    Takes the choices of sweep and returns its Result, with method="attribution". Raises ValueError for a metric whose
    derivative is not known; a function of the user's can bring its own as an attribute, f.slope(logits) -> [n_vocab].
    """
    plan = Plan(model, pair, site, **choices)
    if plan.site.activation is None:
        raise ValueError(f"attribution needs the one activation that a site blends, and {site} names none: use sweep")
    result, (layers, *others) = plan.result(method="attribution"), plan.axes.values()
    with quiet():
        for layer, gradients in layer_gradients(plan.base, slope(plan)):
            if layer in layers:
                effect = first_order(plan, layer, gradients)[np.ix_(*others)]
                result.values[layers.index(layer)] = plan.base_value + effect
    if not np.isfinite(result.values).all():
        layer = plan.axes["layer"][np.argwhere(~np.isfinite(result.values))[-1][0]]  # the gradient comes from above
        raise FloatingPointError(
            f"the attribution overflowed {plan.model.dtype} in layer {layer}: alpha, the metric's slope or the weights are "
            "too large; try dtype=np.float64"
        )
    return result


def first_order(plan, layer, gradients):
    """alpha (source - base) . gradient for all patches of one layer, with the axes of the site behind its layer."""
    name, base = plan.site.activation, plan.base
    gradient = pattern_backward(gradients["z"], base.v[layer]) if name == "pattern" else gradients[name]
    effect = gradient * plan.alpha * (vectors(plan.source, name, layer) - vectors(base, name, layer))
    if "source" not in plan.axes:
        effect = effect.sum(axis=-1)  # over the vector: [n_seq] or [n_head, n_seq]
    return effect.sum(axis=-1) if plan.all_positions else effect


def slope(plan):
    """d(metric) / d(logits) of the base run's last position, [n_vocab]."""
    metric, tokens = plan.metric, plan.metric.tokens
    if metric.slope is None:
        raise ValueError(
            f"attribution needs the derivative of the metric, and {metric.name} has none: give it an attribute "
            "slope(logits) that returns [n_vocab], or use sweep"
        )
    resid = plan.base.resid_post[-1, -1]
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


def vectors(run, name, layer):
    """One layer of an activation, with the vector on the last axis (of a pattern: the row of a destination)."""
    return m.attention_pattern(run.q[layer], run.k[layer]) if name == "pattern" else getattr(run, name)[layer]
