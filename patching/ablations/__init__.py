"""What parts of a model are needed for, alone and together: ablations of sets of heads or MLPs, interactions of pairs, Shapley
values, causal traces. Imports minigpt2 and the engine (the files directly in patching/); nothing of explain/, draw/ or page/."""

from .ablate import Ablation, ablate
from .interactions import Interactions, interactions, interactions_one_by_one
from .shapley import Shapley, shapley
from .trace import Trace, trace

__all__ = [
    "Ablation", "Interactions", "Shapley", "Trace", "ablate", "interactions", "interactions_one_by_one", "shapley", "trace",
]  # fmt: skip
