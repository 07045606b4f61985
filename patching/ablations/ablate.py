"""What is needed: a metric of the clean run with places ablated, each alone and all together.

If two places do the same work, either alone can go and both together cannot; so the values alone say little about the
value together. interactions.py has all pairs, shapley.py all sets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt2 import GPT2

from ..plan import Plan, Question
from ..prompts import PromptPair
from ..sources import Source
from .one_text import OneText
from .places import as_sets, names_of


@dataclass(frozen=True, eq=False, repr=False)
class Ablation:
    """The metric with nothing ablated, with each of the places, and with all of them."""

    names: tuple  # of the places
    intact: float
    alone: np.ndarray  # [n_places]
    together: float
    unit: str
    source: str  # what was written
    model: str

    def __repr__(self):
        each = ", ".join(f"{name} {value:.3f}" for name, value in zip(self.names[:8], self.alone))
        each += f", and {len(self.names) - 8} more" if len(self.names) > 8 else ""
        return (
            f"Ablation({self.unit}: intact {self.intact:.3f}; without {each}; without all {self.together:.3f}; "
            f"written: {self.source}; {self.model})"
        )

    @property
    def effects(self) -> np.ndarray:
        """How far each place alone moves the metric, [n_places]."""
        return self.alone - self.intact

    @property
    def effect_together(self) -> float:
        return self.together - self.intact


def ablate(
    model: GPT2,
    texts: PromptPair | str | Sequence[int],
    places: Sequence,
    site: str = "z",
    *,
    source: Source | str | Any = "zero",
    metric: str | Callable | None = None,
) -> Ablation:
    """Overwrite places of a text's run, each alone and all together, and read the metric.

    texts is a PromptPair, of which the clean text is run, or a text or token ids. places is a list of (layer, head) or
    (layer, head, position) for the heads' z, and of (layer,) or (layer, position) for a site without heads, e.g. "mlp_out"; a
    list of such places counts as one. source is sweep's. metric is a name of patching.METRICS or a function of the last
    position's logits, or "loss", the mean over the text of -log p(next token) in nats; by default logit_difference for a
    pair and the loss for a text. Raises ValueError for anything that cannot be ablated.
    """
    pair = texts if isinstance(texts, PromptPair) else OneText.of(model, texts)
    metric = metric or ("loss" if pair is not texts else "logit_difference")
    if pair is not texts and metric != "loss" and not callable(metric):
        raise ValueError(f'one text has no two answers to compare: metric must be "loss" or a function, got {metric!r:.60}')
    sets = as_sets(places)
    question = Question(
        model, pair, site, direction="noising", source=source, places=[*sets, [place for some in sets for place in some]]
    )
    if pair is not texts and question.source is not None and question.source.words == "the other run":
        raise ValueError("one text has no other run to take vectors from: give a PromptPair, or another source")
    plan = Plan(question, unread if metric == "loss" else metric)
    read = (lambda logits: loss(logits, plan.base.tokens)) if metric == "loss" else lambda x: read_last(plan, x)
    values = np.mean([[read(logits) for logits in ablated(each)] for each in plan.draws()], axis=0)
    return Ablation(
        names_of(question)[:-1],
        intact=float(read(plan.base.logits)),
        alone=values[:-1],
        together=float(values[-1]),
        unit="loss (nats per token)" if metric == "loss" else plan.metric.unit,
        source=plan.source.words,
        model=model.name,
    )


def ablated(plan):
    """The logits [n_seq, n_vocab] after each patch of a Plan, each by itself, from the lowest layer that it writes to."""
    for patch in plan.question.patches():
        layer = min(place.layer for place in patch.places)
        yield plan.model.resume(plan.base.resid_pre[layer], layer, overwrites=plan.overwrites(patch))


def read_last(plan, logits):
    """A metric of METRICS or a user's off the last row of logits [n_seq, n_vocab]."""
    tokens = plan.metric.tokens
    return float(plan.metric.read(logits[-1] if tokens is None else logits[-1, list(tokens)]))


def loss(logits, tokens):
    """The mean of -log p(next token), in nats, from the logits [n_seq, n_vocab] of a text."""
    if len(tokens) < 2:
        raise ValueError("the loss of a text needs at least two tokens: nothing is predicted in one")
    logits = logits[:-1].astype(np.float64)
    top = logits.max(axis=-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    return float((total - logits[np.arange(len(logits)), list(tokens[1:])]).mean())


def unread(logits):
    """The metric of a Plan whose values are read off all positions instead."""
    return 0.0
