"""Which heads does one text need? Every head alone at zero, by two conventions of zero, and at its mean over other texts.

python examples/zero_ablation.py [MODEL]      (bundled by default)
"""

import sys

import numpy as np

from minigpt2 import GPT2
from minigpt2.terminal import guarded
from patching import PromptPair, sources, sweep

PAIR = PromptPair(
    "Michelle Jones was a top-notch student. Michelle",
    "Michelle Smith was a top-notch student. Michelle",
    (" Jones", " Smith"),
)
NAMES = ("Brown", "Davis", "Taylor", "Miller", "Wilson", "Clark", "Moore", "Jackson")
OTHERS = [f"{first} {name} was a top-notch student. {first}" for first in ("Michelle", "Jessica") for name in NAMES]


def main():
    model = GPT2.from_pretrained(*sys.argv[1:2] or ["bundled"])
    n_seq = len(PAIR.tokens(model).clean)
    texts = [
        text for text in map(model.encode, OTHERS) if len(text) == n_seq
    ]  # a mean at each position needs one length
    written = {
        "zero": "zero",
        "TransformerLens's zero": "transformer_lens zero",
        f"the mean of {len(texts)} other texts": sources.mean(texts),
    }
    for name, source in written.items():
        result = sweep(model, PAIR, "z", source=source, positions="all")  # [n_layer, n_head], in the clean run
        effects = result.values - result.base_value
        order = np.argsort(-np.abs(effects), axis=None)[:6]
        strongest = (np.unravel_index(i, effects.shape) for i in order)
        print(f"{name}: {result.unit} is {result.base_value:+.2f}; the largest changes without one head:")
        print("  " + ", ".join(f"{layer}.{head} {effects[layer, head]:+.2f}" for layer, head in strongest))


if __name__ == "__main__":
    sys.exit(guarded(main))
