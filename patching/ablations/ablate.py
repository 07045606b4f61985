"""Ablation: what a metric becomes when parts of the model are overwritten by what says nothing of this text, each part alone
and all of them together (zero: Michel et al. 2019; mean and resample: Wang et al. 2022, Chan et al. 2022).

The text is the clean one of a pair, so that the corrupted one can be the source (resample ablation). Where the parts stand
in for each other, all together do more harm than the sum of each alone; where they do the same work twice, less.
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
    """The metric of the clean text under ablations. run is the one with all parts ablated, for whatever else is asked."""

    parts: tuple[str, ...]
    alone: np.ndarray  # [n_parts]: the value with this part alone ablated
    together: float
    intact: float
    unit: str
    source: str
    model: str
    intact_run: Run
    run: Run
    answers: tuple[int, int]  # (clean, corrupted)

    def direct_attributions(self) -> tuple[Attribution, Attribution]:
        """What each part of the model adds to logit(corrupted answer) - logit(clean answer), intact and with all parts
        ablated: a head that adds more in the second stands in for what is gone (backup heads, Wang et al. 2022)."""
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
    pair: PromptPair,
    parts: Sequence,
    source: Source | str | Any = "zero",
    *,
    metric: str | Callable = "logit_difference",
    positions: Sequence[int] | None = None,
    overwrites: Sequence[Overwrite] = (),
) -> Ablation:
    """Overwrite parts of the model while it reads the clean text: each alone, then all together.

    parts are names ("9.6", "mlp 5", "attn 5") or pairs (layer, head). source is what sweep takes; None is the corrupted
    text's run. positions are those of the overwriting, all by default. overwrites are there throughout, as in sweep.
    Raises ValueError for parts, sources or positions that are not there.
    """
    question = Question(model, pair, "z", direction="noising", source=source, overwrites=overwrites)
    plan, parts = Plan(question, metric, keep=["z", "attn_out", "mlp_out"]), parts_of(parts, model)
    written = [overwrite_of(part, plan.runs, plan.source, positions) for part in parts]

    def run(some):
        return model.run(plan.tokens.clean, overwrites=[*overwrites, *some])

    alone = np.array([value_of(plan, run([one])) for one in written])
    together = run(written)
    return Ablation(
        tuple(map(str, parts)), alone, value_of(plan, together), plan.base_value, plan.metric.unit, plan.source.words,
        model.name, model.run(plan.tokens.clean, overwrites=overwrites), together, plan.tokens.answers,
    )  # fmt: skip


def value_of(plan: Plan, run: Run) -> float:
    """The plan's metric after a run."""
    return float(plan.metric.read(plan.logits(run.resid_post[-1, -1], plan.metric.tokens)))
