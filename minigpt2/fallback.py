"""Which model a command uses when none was asked for: gpt2, or the bundled one when gpt2 is not available."""

import sys

from .gpt2 import GPT2


def load_or_bundled(name=None):
    """Load the model of that name or folder. None: gpt2, or, after one line on stderr saying why, the bundled model.

    A name that was given is never replaced by another model: its error is the caller's.
    """
    if name is not None:
        return GPT2.from_pretrained(name)
    try:
        model = GPT2.from_pretrained("gpt2")
        model.tokenizer  # noqa: B018 - read now: weights without a vocabulary are no use to a command that takes text
        return model
    except (OSError, ValueError) as error:  # hub.HubError and weights.CheckpointError
        reason = " ".join(str(error).split())
    model = GPT2.from_pretrained("bundled")
    print(f"WARNING: gpt2 cannot be loaded, so this is the small bundled model instead ({reason})", file=sys.stderr)
    return model
