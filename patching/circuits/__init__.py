"""Paths, edges and circuits: what one part of a model sends to another, exactly and estimated, and what a set of such edges
does by itself. Imports minigpt2 and the engine (the files directly in patching/); explain/ and draw/ import nothing from it, and only its command draws."""

from .attribution import attribute_edges
from .circuit import Circuit
from .edges import edges, edges_one_by_one
from .errors import error_report
from .faithfulness import completeness, curve, faithfulness, minimality
from .find import acdc, find_circuit
from .paths import path_patch
from .result import EdgeResult

__all__ = [
    "Circuit", "EdgeResult", "acdc", "attribute_edges", "completeness", "curve", "edges", "edges_one_by_one",
    "error_report", "faithfulness", "find_circuit", "minimality", "path_patch",
]  # fmt: skip
