"""Every edge estimated: the writer's difference times the gradient at the reader's input (EAP: Syed et al. 2310.10348).

steps > 1 is EAP-IG (Hanna et al. 2403.17806): the gradient is the mean over runs whose input embeddings lie between both
texts'. ends="both" is their "clean-corrupted": the mean of the gradients in the two runs themselves. errors.py sets these
beside the exact values of edges.py.
"""

from collections.abc import Callable, Iterable

import numpy as np

from minigpt2 import GPT2
from minigpt2.backward import layer_gradients, layer_norm_backward, unembed_backward
from minigpt2.checks import quiet, whole_number
from minigpt2.overwrite import Overwrite

from ..prompts import PromptPair
from .edges import summary
from .nodes import edge_mask
from .result import EdgeResult, Moments, result_of
from .setting import Setting, as_direction, as_metrics, as_pairs


def attribute_edges(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    *,
    steps: int = 1,
    ends: str = "base",
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
    alpha: float = 1.0,
) -> EdgeResult:
    """Estimate every edge to first order: base value + difference . gradient, summed over positions.

    steps 1 is EAP; m steps are EAP-IG at the embeddings other + k/m (base - other). ends says which k: "base" 1 to m, with
    the base run among them (the paper's sum), "other" 0 to m - 1 (what hannamw/EAP-IG's code runs), and "both" the two runs
    alone, whatever steps is. The other arguments are those of edges. Raises ValueError for a metric without a slope.
    """
    steps, moments, settings = whole_number("steps", steps, 1), Moments(), []
    if ends not in ("base", "other", "both"):
        raise ValueError(f'ends must be "base", "other" or "both", got {ends!r:.60}')
    pairs = as_pairs(pairs)
    for pair, one_metric in zip(pairs, as_metrics(metric, len(pairs))):
        setting = Setting(model, pair, as_direction(direction), one_metric, alpha)
        moments.add(setting.base_value + scores(setting, fractions(steps, ends)), setting.base_value)
        settings.append(summary(setting))
    method = (
        "clean-corrupted" if ends == "both" else "EAP" if steps == 1 and ends == "base" else f"EAP-IG, {steps} steps"
    )
    return result_of(model, settings, moments, method)


def fractions(steps, ends):
    """How much of the base run's embeddings each run has that a gradient is taken in."""
    if ends == "both":
        return [0.0, 1.0]
    return [(k + (ends == "base")) / steps for k in range(steps)]


def scores(setting, fractions):
    """The mean over runs of difference . gradient, [n_writers, n_readers]; NaN where there is no edge."""
    c = setting.model.config
    found = np.where(edge_mask(c), 0.0, np.nan).astype(setting.model.dtype)
    differences = [setting.differences(layer) for layer in range(-1, c.n_layer)]
    for fraction in fractions:
        for first_column, gradients in reader_gradients(run_between(setting, fraction)):
            add_products(found, differences, setting.first, first_column, gradients)
    if not np.isfinite(found[edge_mask(c)]).all():
        raise FloatingPointError(
            f"the estimates overflowed {setting.model.dtype}: alpha, the metric's slope or the weights are too large; try "
            "dtype=np.float64"
        )
    return found / len(fractions)


def run_between(setting, fraction):
    """The run of embeddings that are `fraction` the base run's and the rest the other's."""
    if fraction == 1:
        return setting, setting.base
    base, other = setting.base.resid_pre[0], setting.other.resid_pre[0]
    embedded = other + setting.model.dtype.type(fraction) * (base - other)
    keep = ["resid_mid", "q", "k", "v", "z"]
    run = setting.model.run(setting.base.tokens, keep, [Overwrite(0, "resid_pre", embedded)])
    return setting, run


def reader_gradients(setting_and_run):
    """The gradient of the metric at each reader's input: yields (its column, [n_readers, n_seq, n_embd]) from the end on."""
    setting, run = setting_and_run
    model, c = setting.model, setting.model.config
    eps, n_columns, dlogits = c.layer_norm_epsilon, 3 * c.n_head + 1, setting.slope(run)
    with quiet():
        at_logits = np.zeros_like(run.resid_post[-1])
        dlogits = np.asarray(dlogits, model.dtype)
        at_logits[-1:] = unembed_backward(
            dlogits[None], run.resid_post[-1][-1:], model.weights.ln_f, model.weights.wte, eps
        )
        yield c.n_layer * n_columns, at_logits[None]
        for layer, gradients in layer_gradients(run, dlogits):
            h = model.weights.h[layer]
            by_column = np.concatenate([gradients[kind] for kind in "qkv"])  # [3 * n_head, n_seq, d_head]
            weight = h.attn.c_attn.weight.reshape(c.n_embd, 3 * c.n_head, c.d_head).transpose(1, 2, 0)
            at_heads = layer_norm_backward(by_column @ weight, run.resid_pre[layer], h.ln_1.weight, eps)
            # the stream's gradient in the middle is the MLP's, and what passes by it
            at_mlp = gradients["resid_mid"] - gradients["resid_post"]
            yield layer * n_columns, np.concatenate([at_heads, at_mlp[None]])


def add_products(found, differences, first, first_column, gradients):
    """difference . gradient of all writers with some readers; differences are of one layer each."""
    row, columns = 0, slice(first_column, first_column + len(gradients))
    flat = gradients[:, first:].reshape(len(gradients), -1)
    for some in differences:
        found[row : row + len(some), columns] += some.reshape(len(some), -1) @ flat.T  # NaN stays: there is no edge
        row += len(some)
