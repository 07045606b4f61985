"""What a sweep is asked to do: every patch with its place in the result, the two runs, and how the metric is read.

A Question checks the arguments, without running anything; a Plan is a Question with both texts run (as one batch), before
the first patch. Read next: sweep.py.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np

from minigpt2 import model as m
from minigpt2.gpt2 import ACTIVATIONS, check_finite, quiet

from . import metrics
from .prompts import PromptPair
from .result import Result
from .sites import SITES

NUMBER = (int, float, np.integer, np.floating)


class Patch(NamedTuple):
    index: tuple  # of its value in Result.values
    layer: int
    at: slice  # the positions that are overwritten
    first: int  # the first row of the stream that it can change
    rest: tuple  # (), (head,) or (head, source)


class Question:
    """What a sweep is to patch, checked. Arguments:

    site        a name of patching.SITES
    direction   "denoising" writes clean vectors into the corrupted run, "noising" corrupted ones into the clean run
    alpha       how much is written: (1 - alpha) of the run's own vector + alpha of the other run's
    layers, heads, positions   lists of indices, all by default; positions="all" patches all positions at once
    """

    def __init__(
        self, model, pair, site="resid_post", *, direction="denoising", alpha=1.0, layers=None, heads=None,
        positions=None, **unknown,
    ):  # fmt: skip
        if unknown:
            known = "direction, metric, alpha, layers, heads or positions"
            raise TypeError(f"there is no choice {next(iter(unknown))!r} here: give {known}")
        if not isinstance(pair, PromptPair):
            raise ValueError(f"a sweep compares the texts of a PromptPair, got {type(pair).__name__}")
        if not isinstance(site, str) or site not in SITES:
            raise ValueError(f"there is no site {site!r}: it is one of {', '.join(SITES)}")
        if not isinstance(direction, str) or direction not in ("denoising", "noising"):
            raise ValueError(f'direction is "denoising" (clean into corrupted) or "noising", got {direction!r}')
        if not (isinstance(alpha, NUMBER) and metrics.is_finite(alpha)):
            raise ValueError(
                f"alpha must be a finite number (1 writes the whole vector, 0 none of it), got {alpha!r:.60}"
            )
        self.model, self.site_name, self.site = model, site, SITES[site]
        self.direction, self.alpha = direction, float(alpha)
        self.tokens = pair.tokens(model)
        self.all_positions = isinstance(positions, str) and positions == "all"
        self.axes = self._choose(layers, heads, positions)
        self.n_patches = math.prod(map(len, self.axes.values()))

    def _choose(self, layers, heads, positions):
        """The chosen indices of each axis of the result, {"layer": [0, 1, ...], ...}."""
        c, n_seq = self.model.config, len(self.tokens.clean)
        if "head" not in self.site.axes and heads is not None:
            raise ValueError(
                f"{self.site_name} has no heads to choose from: leave out heads, or patch z, q, k, v or pattern"
            )
        if self.site_name == "pattern_entry" and self.all_positions:
            raise ValueError('pattern_entry patches single entries: positions="all" is the site pattern')
        chosen = {
            "layer": indices("layer", layers, c.n_layer, self.model.name),
            "head": indices("head", heads, c.n_head, self.model.name),
            "position": indices("position", None if self.all_positions else positions, n_seq, "the pair of prompts"),
            "source": list(range(n_seq)),
        }
        return {axis: chosen[axis] for axis in self.site.axes if not (axis == "position" and self.all_positions)}

    def patches(self, together="layer"):
        """Make every Patch, one by one (they may be millions); those with one place on that axis follow each other."""
        places = {axis: range(len(chosen)) for axis, chosen in self.axes.items()}
        outer = together if together in places else "layer"
        for i in sorted(places[outer], key=self.axes[outer].__getitem__):
            yield from map(self._patch, product(*(places | {outer: [i]}).values()))

    def _patch(self, index):
        chosen = {axis: self.axes[axis][i] for axis, i in zip(self.axes, index)}
        n_seq, start = len(self.tokens.clean), chosen.get("position", 0)
        at = slice(0, n_seq) if self.all_positions else slice(start, start + 1)
        rest = tuple(chosen[axis] for axis in ("head", "source") if axis in chosen)
        return Patch(index, chosen["layer"], at, max(start, self.tokens.first_difference), rest)


class Plan(Question):
    """A Question, both texts run, and a metric: a name of patching.METRICS, or a function of the last position's logits
    [n_vocab] that returns a number."""

    def __init__(self, model, pair, site="resid_post", *, metric="logit_difference", **choices):
        super().__init__(model, pair, site, **choices)
        denoising = self.direction == "denoising"
        clean, corrupted = self._runs(("source", "base") if denoising else ("base", "source"))
        self.base, self.source = (corrupted, clean) if denoising else (clean, corrupted)
        ends = np.stack([clean.resid_post[-1, -1], corrupted.resid_post[-1, -1]])  # [2, n_embd]
        labels = model.labels(self.tokens.answers)
        self.metric = metrics.make(metric, self.tokens.answers, labels, lambda tokens: self.logits(ends, tokens))
        self.clean_value, self.corrupted_value = map(float, self.metric.read(self.logits(ends, self.metric.tokens)))
        for run, value in (("clean", self.clean_value), ("corrupted", self.corrupted_value)):
            metrics.check_value(self.metric, value, model.dtype, lambda: f"on the {run} run")
        self.base_value = self.corrupted_value if denoising else self.clean_value

    def _runs(self, roles):
        """The runs of the clean and of the corrupted text, which are "base" or "source"."""
        texts = self.tokens.clean, self.tokens.corrupted
        patched = {"pattern": ["q", "k"], None: [*ACTIVATIONS]}.get(self.site.activation, [self.site.activation])
        keep = {"base": [*patched, "resid_mid", "q", "k", "v", "z"], "source": patched}
        if len(texts[0]) <= 256:
            return self.model.run_batch(texts, keep["base"])  # every weight is read once
        return [self.model.run(text, keep[role]) for text, role in zip(texts, roles)]  # memory counts for long texts

    def overwrite(self, patch):
        """The changed stream [n_seq, n_embd] of a patch, and where it enters: (layer, "resid_pre" or "resid_mid")."""
        with quiet():
            stream, layer, at = self.site.overwrite(
                self.base, self.source, self.alpha, patch.layer, patch.at, *patch.rest
            )
        check_finite(stream, f"the patched stream overflowed {self.model.dtype} in layer {patch.layer}")
        return stream, layer, at

    def logits(self, resid, tokens=None):
        """Logits [..., n] of some tokens (all if None) from the stream behind the last block, [..., n_embd]."""
        weights, eps = self.model.weights, self.model.config.layer_norm_epsilon
        with quiet():
            logits = m.unembed(resid, weights.ln_f, weights.wte if tokens is None else weights.wte[list(tokens)], eps)
        check_finite(logits, f"the logits overflowed {self.model.dtype}")
        return logits

    def result(self, keep_logits=False, method="patching"):
        """A Result in which every value is the base run's, and so the value of every patch that cannot matter."""
        shape = tuple(map(len, self.axes.values()))
        logits = None
        if keep_logits:
            logits = np.empty((*shape, self.model.config.n_vocab), self.model.dtype)
            logits[:] = self.logits(self.base.resid_post[-1, -1])
        return Result(
            values=np.full(shape, self.base_value, self.model.dtype),
            clean_value=self.clean_value,
            corrupted_value=self.corrupted_value,
            logits=logits,
            axes=self.axes,
            site=self.site_name,
            direction=self.direction,
            metric=self.metric.name,
            unit=self.metric.unit,
            alpha=self.alpha,
            tokens=self.tokens,
            clean_labels=tuple(self.model.labels(self.tokens.clean)),
            corrupted_labels=tuple(self.model.labels(self.tokens.corrupted)),
            answer_labels=tuple(self.model.labels(self.tokens.answers)),
            model=self.model.name,
            revision=self.model.revision,
            method=method,
        )


def indices(what, chosen, n, of):
    """A checked list of distinct indices 0 to n - 1; negative ones count from the end, as in Python."""
    if chosen is None:
        return list(range(n))
    found = []
    for i in whole_numbers(what, chosen):
        if not -n <= i < n:
            raise ValueError(f"there is no {what} {i}: {of} has {n}, 0 to {n - 1}")
        if i % n in found:
            raise ValueError(f"{what}s names the same {what} twice: {i % n}")
        found.append(i % n)
    if not found:
        raise ValueError(f"{what}s must be a list of whole numbers with at least one in it (all by default)")
    return found


def whole_numbers(what, chosen):
    """Yield them one by one, so that a wrong one among very many is the last that is looked at."""
    try:
        for i in chosen:
            if not isinstance(i, NUMBER) or int(i) != i:
                raise ValueError
            yield int(i)
    except (TypeError, ValueError, OverflowError):  # no list; a fraction or NaN; infinity
        raise ValueError(f"{what}s must be a list of whole numbers with at least one in it (all by default)") from None
