"""What a sweep is asked to do: every patch with its place in the result, the two runs, and how the metric is read.

A Question checks the arguments without running anything; a Plan runs both texts for it (as one batch), before the first
patch, and says what each patch writes. Read next: sweeps.py.
"""

import copy
import math
from itertools import product
from typing import NamedTuple

import numpy as np

from minigpt2 import model as m
from minigpt2.checks import check_finite, indices, is_finite, quiet, whole_number
from minigpt2.overwrite import Overwrite, prepare

from . import metrics
from .prompts import PromptPair
from .result import Result
from .sites import SITES, Place
from .sources import Runs, make_source, other_run


class Patch(NamedTuple):
    index: tuple  # of its value in Result.values
    places: tuple[Place, ...]  # what it overwrites


class Question:
    """What a sweep is to patch, checked: see sweeps.sweep for the arguments."""

    def __init__(
        self, model, pair, site="resid_post", *, direction=None, alpha=1.0, source=None, layers=None, heads=None,
        positions=None, window=1, places=None, overwrites=(), source_overwrites=None,
    ):  # fmt: skip
        if not isinstance(pair, PromptPair):
            raise ValueError(f"a sweep compares the texts of a PromptPair, got {type(pair).__name__}")
        if not isinstance(site, str) or site not in SITES:
            raise ValueError(f"unknown site {site!r:.60}; choose from {', '.join(SITES)}")
        if direction is None:
            direction = "denoising" if source is None else "noising"
        if not isinstance(direction, str) or direction not in ("denoising", "noising"):
            raise ValueError(
                f'direction must be "denoising" (clean into corrupted) or "noising", got {direction!r:.60}'
            )
        if not is_finite(alpha):
            raise ValueError(
                f"alpha must be a finite number (1 writes the whole vector, 0 none of it), got {alpha!r:.60}"
            )
        self.model, self.site_name, self.site = model, site, SITES[site]
        self.direction, self.alpha = direction, float(alpha)
        self.pair, self.tokens = pair, pair.tokens(model, may_be_equal=source_overwrites is not None)
        self.n_seq = len(self.tokens.clean)
        self.source = make_source(source, model, direction)
        self.overwrites = overwrites
        self.source_overwrites = overwrites if source_overwrites is None else source_overwrites
        for some in (self.overwrites, self.source_overwrites):
            prepare(some, model, self.n_seq)
        self.window = whole_number("window, the number of layers that are patched together,", window, 1)
        self.all_positions = isinstance(positions, str) and positions == "all"
        self.places = None if places is None else self._places(places, layers, heads, positions)
        self.axes = self._axes(layers, heads, positions) if places is None else {"set": list(range(len(self.places)))}
        self.n_patches = math.prod(map(len, self.axes.values()))

    def _axes(self, layers, heads, positions):
        """The chosen indices of each axis of the result, {"layer": [0, 1, ...], ...}."""
        if "head" not in self.site.axes and heads is not None:
            raise ValueError(
                f"{self.site_name} has no heads to choose from: leave out heads, or patch z, q, k, v or pattern"
            )
        if self.site_name == "pattern_entry" and self.all_positions:
            raise ValueError('pattern_entry patches single entries: positions="all" is the site pattern')
        positions = None if self.all_positions else positions
        chosen = {axis: self._indices(axis, some) for axis, some in
                  (("layer", layers), ("head", heads), ("position", positions), ("source", None))}  # fmt: skip
        return {axis: chosen[axis] for axis in self.site.axes if not (axis == "position" and self.all_positions)}

    def _indices(self, axis, chosen):
        """The chosen indices along one axis, all of them for None, or a ValueError."""
        c, name = self.model.config, self.model.name
        if axis == "layer":
            return indices(axis, chosen, c.n_layer, f"{name} has {c.n_layer} layers")
        if axis == "head":
            return indices(axis, chosen, c.n_head, f"{name} has {c.n_head} heads")
        return indices(axis, chosen, self.n_seq, f"the prompts have {self.n_seq} tokens")

    def _places(self, places, layers, heads, positions):
        """Sets of places, each to be patched together: a list of lists of (layer, position) or (layer, head, position),
        the position left out for all of them."""
        if any(choice is not None for choice in (layers, heads, positions)) or self.window != 1:
            raise ValueError("places says where to patch: leave out layers, heads, positions and window")
        if self.site_name == "pattern_entry":
            raise ValueError("pattern_entry has no sets of places: patch the site pattern")
        try:
            sets = [[tuple(place) for place in some] for some in places]
        except TypeError:
            raise ValueError("places must be a list of sets, each a list of places, e.g. [[(9, 6), (9, 9)]]") from None
        if not sets or not all(sets):
            raise ValueError("places must be a list of sets with at least one place in each")
        return tuple(distinct([self._place(place) for place in some]) for some in sets)

    @property
    def named_places(self):
        """The sets of places as a Result has them, or None."""
        if self.places is None:
            return None
        whole = slice(0, self.n_seq)
        at = lambda positions: None if positions == whole and self.n_seq > 1 else positions.start  # noqa: E731
        return tuple(tuple((place.layer, place.head, at(place.positions)) for place in some) for some in self.places)

    def _place(self, place):
        axes = self.site.axes
        if len(place) not in (len(axes) - 1, len(axes)):
            raise ValueError(
                f"a place of {self.site_name} is ({', '.join(axes)}), or without the position, got {place!r:.60}"
            )
        at = {axis: self._indices(axis, [i])[0] for axis, i in zip(axes, place)}
        return Place(at["layer"], at.get("head"), rows(at.get("position"), self.n_seq))

    def patches(self, together="layer"):
        """Make every Patch, one by one (they may be millions); those with one place on that axis follow each other."""
        if self.places is not None:
            yield from (Patch((i,), places) for i, places in enumerate(self.places))
            return
        spots = {axis: range(len(chosen)) for axis, chosen in self.axes.items()}
        outer = together if together in spots else "layer"
        for i in sorted(spots[outer], key=self.axes[outer].__getitem__):
            yield from map(self._patch, product(*(spots | {outer: [i]}).values()))

    def _patch(self, index):
        at = {axis: self.axes[axis][i] for axis, i in zip(self.axes, index)}
        positions = rows(at.get("position"), self.n_seq)
        first = max(0, at["layer"] - self.window // 2)  # a window of 10 is layer - 5 to layer + 4, as in ROME
        layers = range(first, min(self.model.config.n_layer, at["layer"] - self.window // 2 + self.window))
        return Patch(index, tuple(Place(layer, at.get("head"), positions, at.get("source")) for layer in layers))


class Plan:
    """A Question, both texts run, and a metric: a name of patching.METRICS, or a function of the last position's logits
    [n_vocab] that returns a number. keep names activations that both runs hold beside what the patches need."""

    def __init__(self, question, metric="logit_difference", keep=()):
        self.question, self.model, self.tokens = question, question.model, question.tokens
        self.keep = list(keep)
        denoising = question.direction == "denoising"
        clean, corrupted = self._runs(("source", "base") if denoising else ("base", "source"))
        self.runs = Runs(corrupted, clean) if denoising else Runs(clean, corrupted)
        self.base = self.runs.base
        self.source = question.source or other_run()
        same = question.source is None and question.source_overwrites is question.overwrites
        self.first_change = self.tokens.first_difference if same else 0  # before it both runs are the same
        self.read_by(metric)

    def read_by(self, metric):
        """Read another metric off the same runs, in place."""
        first, second = self.runs.base, self.runs.target
        clean, corrupted = (second, first) if self.question.direction == "denoising" else (first, second)
        ends = np.stack([clean.resid_post[-1, -1], corrupted.resid_post[-1, -1]])  # [2, n_embd]
        sets = self.question.pair.answer_sets(self.model)
        self.answer_labels = tuple(set_label(self.model, some) for some in sets)
        self.metric = metrics.make(metric, sets, self.answer_labels, lambda tokens: self.logits(ends, tokens))
        self.clean_value, self.corrupted_value = map(float, self.metric.read(self.logits(ends, self.metric.tokens)))
        for run, value in (("clean", self.clean_value), ("corrupted", self.corrupted_value)):
            metrics.check_value(self.metric, value, self.model.dtype, lambda: f"on the {run} run")
        self.base_value = self.corrupted_value if self.question.direction == "denoising" else self.clean_value
        return self

    def reading(self, metric):
        """This plan, reading another metric."""
        return copy.copy(self).read_by(metric)

    def _runs(self, roles):
        """The runs of the clean and of the corrupted text, which are "base" or "source"."""
        question, texts = self.question, (self.tokens.clean, self.tokens.corrupted)
        name = question.site.activation
        patched = [*self.keep, *(["q", "k"] if name == "pattern" else [name])]
        keep = {"base": [*patched, "resid_mid", "q", "k", "v", "z"], "source": patched}
        overwrites = {"base": question.overwrites, "source": question.source_overwrites}
        if len(texts[0]) <= 256 and question.overwrites is question.source_overwrites:
            return self.model.run_batch(texts, keep["base"], question.overwrites)  # every weight is read once
        # Memory counts for long texts
        return [self.model.run(text, keep[role], overwrites[role]) for text, role in zip(texts, roles)]

    def first_row(self, patch):
        """The first position at which a patch can change anything."""
        return max(self.first_change, min(place.positions.start for place in patch.places))

    def vectors(self, name, layer, head):
        """What the source has for one layer's activation, one head's where it has heads; [n_seq, size] or what broadcasts
        to it. Of a pattern, no query reads a later key."""
        vectors = self.source.vectors(self.runs, name, layer, head)
        n_seq = len(self.base.tokens)
        return np.tril(np.broadcast_to(vectors, (n_seq, n_seq))) if name == "pattern" else vectors

    def draws(self):
        """This plan, or of a random source with several draws one for each."""
        plans = [copy.copy(self) for _ in self.source.draws]
        for plan, source in zip(plans, self.source.draws):
            plan.source = source
        return plans or [self]

    def overwrites(self, patch):
        """What a patch writes, list[Overwrite]: (1 - alpha) of the base run's own vector + alpha of the source's."""
        return [self._overwrite(place) for place in patch.places]

    def _overwrite(self, place):
        name, (layer, head, positions, read) = self.question.site.activation, place
        old = self.base.activation(name, layer, head)  # [n_seq, size]
        new = self.vectors(name, layer, head)
        with quiet():
            value = blended(old, new, positions, self.question.alpha)
        if read is not None:  # one entry of a pattern's row
            row, value = value, old[positions].copy()
            value[:, read] = row[:, read]
        check_finite(value, f"the patched vector overflowed {self.model.dtype} in layer {layer}")
        return Overwrite(layer, name, value, None if head is None else [head], range(positions.start, positions.stop))

    def logits(self, resid, tokens=None):
        """Logits [..., n] of some tokens (all if None) from the stream after the last block, [..., n_embd]."""
        weights, eps = self.model.weights, self.model.config.layer_norm_epsilon
        with quiet():
            logits = m.unembed(resid, weights.ln_f, weights.wte if tokens is None else weights.wte[list(tokens)], eps)
        check_finite(logits, f"the logits overflowed {self.model.dtype}")
        return logits

    def result(self, keep_logits=False, method="patching"):
        """A Result in which every value is the base run's, and so the value of every patch that cannot matter."""
        question = self.question
        shape = tuple(map(len, question.axes.values()))
        logits = None
        if keep_logits:
            logits = np.empty((*shape, self.model.config.n_vocab), self.model.dtype)
            logits[:] = self.logits(self.base.resid_post[-1, -1])
        return Result(
            values=np.full(shape, self.base_value, self.model.dtype),
            clean_value=self.clean_value,
            corrupted_value=self.corrupted_value,
            logits=logits,
            axes=question.axes,
            site=question.site_name,
            direction=question.direction,
            metric=self.metric.name,
            unit=self.metric.unit,
            alpha=question.alpha,
            tokens=self.tokens,
            clean_labels=tuple(self.model.labels(self.tokens.clean)),
            corrupted_labels=tuple(self.model.labels(self.tokens.corrupted)),
            answer_labels=self.answer_labels,
            model=self.model.name,
            revision=self.model.revision,
            method=method,
            source=self.source.words,
            places=question.named_places,
            overwrites=len(question.overwrites),
        )


def distinct(places, what="a set of places contains"):
    """The places as a tuple, or a ValueError where two of them overlap."""
    seen = set()
    for layer, head, positions, _ in places:
        for position in range(positions.start, positions.stop):
            if (layer, head, position) in seen:
                at = (layer, position) if head is None else (layer, head, position)
                raise ValueError(f"{what} {at} twice")
            seen.add((layer, head, position))
    return tuple(places)


def blended(old, new, positions, alpha):
    """(1 - alpha) old + alpha new at some positions; new [n_seq, size], or the same vector or number for all."""
    new = new[positions] if new.ndim == 2 and len(new) == len(old) else new
    return (1 - alpha) * old[positions] + alpha * new  # [n_positions, size]


def set_label(model, answers):
    """ "␣Jones", or of several answers "33 and 66 others"."""
    (label,), n = model.labels(answers[:1]), len(answers) - 1
    return f"{label} and {n} other{'s' * (n > 1)}" if n else label


def rows(position, n_seq):
    """One position as a slice; None is all of them."""
    return slice(0, n_seq) if position is None else slice(position, position + 1)
