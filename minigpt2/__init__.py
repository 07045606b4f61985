"""GPT-2 in pure NumPy, with the residual stream of every layer open as plain arrays. Start with model.py."""

from .errors import CheckpointError, HubError
from .gpt2 import GPT2, Run
from .model import Config
from .overwrite import Overwrite

__all__ = ["GPT2", "CheckpointError", "Config", "HubError", "Overwrite", "Run"]
