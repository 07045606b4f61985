"""What several overwrites at once show: ablations of parts of the model, the interactions of two parts, Shapley values of
groups, and causal tracing. Imports the engine (the files directly in patching/) and minigpt2; draws nothing."""

from .ablate import Ablation, ablate
from .interactions import Interactions, interactions, interactions_one_by_one
from .shapley import Shapley, shapley
from .trace import Trace, trace

__all__ = [
    "Ablation",
    "Interactions",
    "Shapley",
    "Trace",
    "ablate",
    "interactions",
    "interactions_one_by_one",
    "shapley",
    "trace",
]
