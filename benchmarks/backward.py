"""What the backward pass and attribution patching cost, in forward passes: `python benchmarks/backward.py`.

Seeded random weights in the GPT-2 small shape, float32, everything measured in one run; every claim is a ratio.
"""

import numpy as np
import seeded

from minigpt2 import GPT2, backward
from minigpt2 import model as m
from patching import PromptPair, attribute, sweep

PAIR = PromptPair.from_tokens(seeded.PROMPT, seeded.CORRUPTED, (5437, 4176))  # " Jones", " Smith"


def training_table(model):
    """All gradients of a batch's loss, against the forward pass of the same batch to all its logits."""
    print(f"\n{'batch':>12}{'forward':>10}{'loss and gradients':>20}{'backward alone':>16}   (seconds; at most 2.5 x the forward)")
    into = backward.zeros_like(model.weights)
    for n_texts, n_seq in ((1, 128), (4, 128), (1, 1023)):
        tokens = np.random.default_rng(n_seq).integers(0, 50257, (n_texts, n_seq + 1))
        t = seeded.interleaved(
            7 if n_texts * n_seq < 1000 else 3,
            forward=lambda: m.forward(tokens[:, :-1], model.weights, model.config),
            both=lambda: backward.loss_and_gradients(tokens, model.weights, model.config, into=into),
        )
        alone = (t["both"] - t["forward"]) / t["forward"]
        print(f"{f'{n_texts} x {n_seq}':>12}{t['forward']:10.3f}{t['both']:20.3f}{alone:14.2f} x")


def attribution_table(model):
    """Estimates of a whole map, against one forward pass of one text and against the exact sweep."""
    forward = seeded.interleaved(15, one=lambda: model.run(seeded.PROMPT).logits)["one"]
    print(f"\none forward pass of the example's 11 tokens: {forward:.3f} s\n")
    print(f"{'site':>14}{'cells':>8}{'attribute':>11}{'forwards':>10}{'sweep':>9}{'faster':>8}   (attribute runs both texts, then backward)")
    for site in ("resid_post", "mlp_out", "z", "k", "pattern", "pattern_entry"):
        cells = attribute(model, PAIR, site).values.size
        estimate = seeded.interleaved(9, one=lambda site=site: attribute(model, PAIR, site))["one"]
        exact = seeded.interleaved(1, one=lambda site=site: sweep(model, PAIR, site))["one"] if cells < 2000 else None
        shown = f"{exact:9.2f}{exact / estimate:7.1f}x" if exact else ""
        print(f"{site:>14}{cells:8}{estimate:11.3f}{estimate / forward:10.1f}{shown}")


if __name__ == "__main__":
    print(seeded.machine())
    gpt2 = GPT2.from_pretrained(seeded.folder())
    training_table(gpt2)
    attribution_table(gpt2)
