"""Activation patching: overwrite a residual vector, let the model run on, read one number. Start with sweeps.py."""

import minigpt2  # noqa: F401 - first of all, for Ctrl-C while the rest is imported

from .metrics import METRICS
from .pairs.pairset import PairSet
from .pairs.result import SetResult
from .pairs.sweeps import attribute, sweep
from .prompts import PairTokens, PromptPair
from .result import Result
from .sites import SITES
from .sources import SOURCES, Source
from .sweeps import sweep_one_by_one

__all__ = [
    "METRICS", "SITES", "SOURCES", "PairSet", "PairTokens", "PromptPair", "Result", "SetResult", "Source", "attribute",
    "sweep", "sweep_one_by_one",
]  # fmt: skip
