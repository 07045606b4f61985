"""Ablation: what a metric becomes when parts of the model are overwritten by what says nothing of this text, each part alone
and all of them together (zero: Michel et al. 2019; mean and resample: Wang et al. 2022, Chan et al. 2022).

The text is the clean one of a pair, so that the corrupted one can be the source (resample ablation), or a text by itself.
Where the parts stand in for each other, all together do more harm than the sum of each alone; where one works through
another, less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt2 import GPT2, Overwrite, Run
from minigpt2.lens import Attribution, direct_logit_attribution

from ..plan import Plan, Question
from ..prompts import PromptPair
from ..sources import Source
from .parts import overwrite_of, parts_of


@dataclass(frozen=True, eq=False, repr=False)
class Ablation:
    """The metric of the clean text under ablations. run is the one with all parts ablated, for whatever else is asked; of
    noise with several draws, of which the values are means, it is the first draw's."""

    parts: tuple[str, ...]
    alone: np.ndarray  # [n_parts]: the value with this part alone ablated
    together: float
    intact: float
    unit: str
    source: str
    model: str
    intact_run: Run
    run: Run
    answers: tuple[int, int] | None  # (clean, corrupted); None for a text by itself

    def direct_attributions(self) -> tuple[Attribution, Attribution]:
        """What each part of the model adds to logit(corrupted answer) - logit(clean answer), intact and with all parts
        ablated: a head that adds more in the second stands in for what is gone (backup heads, Wang et al. 2022)."""
        if self.answers is None:
            raise ValueError("a text by itself has no answers to attribute: give a PromptPair")
        clean, corrupted = self.answers
        intact, ablated = (direct_logit_attribution(run, corrupted, clean) for run in (self.intact_run, self.run))
        return intact, ablated

    def __repr__(self):
        each = ", ".join(f"{part} {value:.3f}" for part, value in zip(self.parts, self.alone))
        return (
            f"Ablation({self.unit} with {self.source}: {each}; all together {self.together:.3f}, "
            f"intact {self.intact:.3f}; {self.model})"
        )


def ablate(
    model: GPT2,
    texts: PromptPair | str | Sequence[int],
    parts: Sequence,
    source: Source | str | Any = "zero",
    *,
    metric: str | Callable | None = None,
    positions: Sequence[int] | None = None,
    overwrites: Sequence[Overwrite] = (),
) -> Ablation:
    """Overwrite parts of the model while it reads the clean text of a pair, or a text: each alone, then all together.

    parts are names ("9.6", "mlp 5", "attn 5") or pairs (layer, head). source is what sweep takes; None is the corrupted
    text's run. metric is a name of patching.METRICS, a function of the last position's logits, or "loss": the mean over the
    text of -log p(next token), in nats; by default the logit difference of a pair and the loss of a text. positions are
    those of the overwriting, all by default. overwrites are there throughout, as in sweep. Raises ValueError for parts,
    sources, metrics or positions that are not there.
    """
    pair = texts if isinstance(texts, PromptPair) else one_text(model, texts, source, metric)
    metric = metric or ("logit_difference" if pair is texts else "loss")
    question = Question(
        model, pair, "z", direction="noising", source=source, overwrites=overwrites, source_overwrites=overwrites
    )
    plan = Plan(question, unread if metric == "loss" else metric, keep=["z", "attn_out", "mlp_out"])
    parts, read = parts_of(parts, model), loss if metric == "loss" else lambda run: value_of(plan, run)

    def run(some):
        return model.run(plan.tokens.clean, overwrites=[*overwrites, *some])

    values, together = [], []
    for draw in plan.draws():
        written = [overwrite_of(part, plan.runs, draw.source, positions) for part in parts]
        together.append(run(written))
        values.append([*(read(run([one])) for one in written), read(together[-1])])
    *alone, value = np.mean(values, axis=0)
    return Ablation(
        tuple(map(str, parts)), np.array(alone), float(value), read(plan.base),
        "loss (nats per token)" if metric == "loss" else plan.metric.unit, plan.source.words, model.name,
        model.run(plan.tokens.clean, overwrites=overwrites), together[0], plan.tokens.answers if pair is texts else None,
    )  # fmt: skip


def one_text(model: GPT2, text: str | Sequence[int], source: Any, metric: Any) -> PromptPair:
    """A text as both texts of a pair; no metric may compare its answers, and no source may read its other run."""
    if metric not in (None, "loss") and not callable(metric):
        raise ValueError(f'a text by itself has no answers: its metric is "loss" or a function, not {metric!r:.60}')
    if source in (None, "other run"):
        raise ValueError("a text by itself has no other run to take vectors from: give a PromptPair, or another source")
    tokens = model.encode(text) if isinstance(text, str) else text
    return PromptPair.from_tokens(tokens, tokens, (0, 1))


def value_of(plan: Plan, run: Run) -> float:
    """The plan's metric after a run."""
    return float(plan.metric.read(plan.logits(run.resid_post[-1, -1], plan.metric.tokens)))


def loss(run: Run) -> float:
    """The mean of -log p(next token) over a run's text, in nats."""
    if len(run.tokens) < 2:
        raise ValueError("the loss of a text needs at least two tokens: nothing is predicted in one")
    logits = run.logits[:-1].astype(np.float64)
    top = logits.max(axis=-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    return float((total - logits[np.arange(len(logits)), list(run.tokens[1:])]).mean())


def unread(logits):
    """The metric of a Plan whose values are read off whole runs."""
    return 0.0
