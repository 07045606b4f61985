"""Activation patching: overwrite a residual vector, let the model run on, read one number. Start with sweeps.py."""

import minigpt2  # noqa: F401 - first of all, for Ctrl-C while the rest is imported

from .attribution import attribute
from .metrics import METRICS
from .prompts import PromptPair
from .result import Result
from .sites import SITES
from .sweeps import sweep, sweep_one_by_one

__all__ = ["METRICS", "SITES", "PromptPair", "Result", "attribute", "sweep", "sweep_one_by_one"]
