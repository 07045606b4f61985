"""A source of one's own: what a patch writes is any function of the two runs. Is it a vector's direction that counts, or its
length? Write the other run's direction with the run's own length, and the run's own direction with the other's length.

    python examples/own_source.py [MODEL]      (bundled by default)
"""

import sys

import numpy as np

from minigpt2 import GPT2
from minigpt2.terminal import guarded
from patching import PromptPair, sweep
from patching.sources import Source

PAIR = PromptPair(
    "Michelle Jones was a top-notch student. Michelle",
    "Michelle Smith was a top-notch student. Michelle",
    (" Jones", " Smith"),
)


def length(x):
    return np.linalg.norm(x, axis=-1, keepdims=True)


def direction_of_the_other(runs, name, layer, head):
    own, other = (run.activation(name, layer, head) for run in (runs.base, runs.target))  # [n_seq, size]
    return other / length(other) * length(own)


def length_of_the_other(runs, name, layer, head):
    own, other = (run.activation(name, layer, head) for run in (runs.base, runs.target))
    return own / length(own) * length(other)


def main():
    model = GPT2.from_pretrained(*sys.argv[1:2] or ["bundled"])
    written = {
        "the other run's vectors": None,
        "its directions, own lengths": Source("the other run's direction", direction_of_the_other),
        "its lengths, own directions": Source("the other run's length", length_of_the_other),
    }
    for name, source in written.items():
        result = sweep(model, PAIR, "resid_post", source=source, direction="denoising", positions=[1])
        print(f"{name:29}share of the gap after each layer, at the surname:", end=" ")
        print(" ".join(f"{share + 0.0:.2f}" for share in result.share[:, 0]))


if __name__ == "__main__":
    sys.exit(guarded(main))
