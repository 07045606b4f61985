"""A loaded model sent to another process is sent as its name, not as its weights: each process loads it once."""

import zlib
from functools import lru_cache

import numpy as np

from .errors import CheckpointError
from .shapes import flatten


def fingerprint(weights):
    """A number that changes with any training: the checksum of the last row of every array."""
    return zlib.crc32(b"".join(np.ascontiguousarray(array[-1]).tobytes() for array in flatten(weights).values()))


@lru_cache(maxsize=4)
def load_again(kind, place, dtype, revision, name, expected):
    """Load the model that was pickled: of class `kind`, from a folder or the Hub, `revision` being a commit.

    A process keeps the last four. Raises CheckpointError if other weights are there by now, fingerprint `expected`.
    """
    model = kind.from_pretrained(place, np.dtype(dtype), revision, mapped=True)  # shared by the workers of a machine
    model.name = name
    if fingerprint(model.weights) != expected:
        raise CheckpointError(f"{place} holds other weights than when {name} was pickled: load it anew")
    return model
