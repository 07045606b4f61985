"""GPT-2 in pure NumPy, with the residual stream of every layer open as plain arrays. Start with model.py."""

import sys

# While `python -m` imports, sys.argv[0] is "-m": Ctrl-C then ends the command as quietly as it does later.
if sys.argv[:1] == ["-m"]:
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from .errors import CheckpointError, HubError
from .gpt2 import GPT2, Run
from .model import Config
from .overwrite import Overwrite

__all__ = ["GPT2", "CheckpointError", "Config", "HubError", "Overwrite", "Run"]
