"""Both texts of a pair, run, and what each writer adds to the residual stream in the one and in the other.

Everything in this room patches the base run: by default the clean one ("noising", as ACDC, EAP and path patching have it).
"""

import numpy as np

from minigpt2 import model as m
from minigpt2.checks import quiet

from ..attribution import slope
from ..metrics import check_value
from ..plan import Plan, Question
from ..prompts import PromptPair


class Setting(Plan):
    """A pair of texts with both runs and a metric, as any sweep has them, and the differences that edges carry."""

    def __init__(self, model, pair, direction="noising", metric="logit_difference", alpha=1.0):
        super().__init__(Question(model, pair, "mlp_out", direction=direction, alpha=alpha), metric)
        self.other, self.direction, self.alpha = self.runs.target, direction, self.question.alpha
        self.n_seq, self.first = self.question.n_seq, self.first_change

    def _runs(self, roles):
        keep = {"base": ["resid_mid", "mlp_out", "q", "k", "v", "z"], "source": ["mlp_out", "z"]}
        texts = (self.tokens.clean, self.tokens.corrupted)
        return [self.model.run(text, keep[role]) for text, role in zip(texts, roles)]

    def differences(self, layer):
        """alpha (other - base) of what the writers of a layer add to the stream, from the first change on:
        [n_head + 1, n_rows, n_embd], the MLP last; of layer -1 the embedding's, [1, n_rows, n_embd]."""
        rows, base, other = slice(self.first, None), self.base, self.other
        with quiet():
            if layer < 0:
                made = (other.resid_pre[0, rows] - base.resid_pre[0, rows])[None]
            else:
                c_proj = self.model.weights.h[layer].attn.c_proj.weight
                heads = m.head_results(other.z[layer][:, rows] - base.z[layer][:, rows], c_proj)
                mlp = other.mlp_out[layer, rows] - base.mlp_out[layer, rows]
                made = np.concatenate([heads, mlp[None]])
            return made * base.model.dtype.type(self.alpha)

    def slope(self, run):
        """d(metric) / d(logits) of a run's last position, [n_vocab]."""
        return slope(self, run)

    def read(self, resid):
        """The metric of each stream after the last block, last rows [n, n_embd]: [n]."""
        values = self.metric.read(self.logits(resid, self.metric.tokens))
        for value in np.atleast_1d(values):
            check_value(self.metric, value, self.model.dtype, lambda: "after a patch")
        return values


def as_pairs(pairs):
    """A list of PromptPair, from one or from any iterable of them."""
    if isinstance(pairs, PromptPair):
        return [pairs]
    try:
        pairs = list(pairs)
    except TypeError:
        raise ValueError(f"expected a PromptPair or a list of them, got {type(pairs).__name__}") from None
    if not pairs or not all(isinstance(pair, PromptPair) for pair in pairs):
        raise ValueError("expected a PromptPair or a list of them, at least one")
    return pairs


def as_metrics(metric, n):
    """One metric for each of n pairs: the same for all, or a list."""
    if not isinstance(metric, (list, tuple)):
        return [metric] * n
    if len(metric) != n:
        raise ValueError(f"there are {n} pairs and {len(metric)} metrics: give one metric, or one for each pair")
    return list(metric)


def as_direction(direction):
    if direction not in ("denoising", "noising"):
        raise ValueError(f'direction must be "noising" (corrupted into clean) or "denoising", got {direction!r:.60}')
    return direction
