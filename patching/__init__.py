"""Activation patching: overwrite a residual vector, let the model run on, read one number. Start with sweeps.py."""

import minigpt2  # noqa: F401 - first of all, for Ctrl-C while the rest is imported

from .attribution import attribute
from .metrics import METRICS
from .prompts import PairTokens, PromptPair
from .result import Result
from .sites import SITES
from .sources import SOURCES, Source
from .sweeps import sweep, sweep_one_by_one

__all__ = [
    "METRICS", "SITES", "SOURCES", "PairTokens", "PromptPair", "Result", "Source", "attribute", "sweep",
    "sweep_one_by_one",
]  # fmt: skip
