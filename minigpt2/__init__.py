"""GPT-2 in pure NumPy, with the residual stream of every layer open as plain arrays. Start with model.py."""

import sys

# While `python -m` imports, sys.argv[0] is "-m": Ctrl-C then ends the command as quietly as it does later.
if sys.argv[:1] == ["-m"]:
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)  # type: ignore[func-returns-value]

from .errors import CheckpointError, HubError, VocabularyError
from .gpt2 import GPT2, Run
from .model import Config, Weights
from .overwrite import Overwrite

__all__ = [
    "GPT2", "CheckpointError", "Config", "HubError", "Overwrite", "Run", "Tokenizer", "VocabularyError", "Weights",
    "__version__",
]  # fmt: skip


def __getattr__(name):  # what takes long to import and is rarely asked for
    if name == "Tokenizer":
        from .tokenizer import Tokenizer

        return Tokenizer
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("minigpt2")
        except PackageNotFoundError:  # a checkout that is not installed
            return "0.1.0"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
