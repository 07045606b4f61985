"""What the backward pass and attribution patching cost, in forward passes: `python benchmarks/backward.py`.

Seeded random weights in the GPT-2 small shape, float32, everything measured in one run; every claim is a ratio.
"""

import statistics
import time

import numpy as np
import seeded

from minigpt2 import GPT2, backward
from minigpt2 import model as m
from patching import PromptPair, attribute, sweep

PAIR = PromptPair.from_tokens(seeded.PROMPT, seeded.CORRUPTED, (5437, 4176))  # " Jones", " Smith"


def training_table(model):
    """All gradients of a batch's loss, against the forward pass of the same batch to all its logits."""
    print(
        f"\n{'batch':>12}{'forward':>10}{'backward':>10}{'ratio':>8}{'both, as in training':>22}   (seconds; ratio at most 2.5)"
    )
    weights, config, into = model.weights, model.config, backward.zeros_like(model.weights)

    def way_back(tokens):
        """The seconds of the backward pass, loss included, behind a forward pass that kept its activations."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        stream, made, logits = backward.forward_keeping(inputs, weights, config)
        start = time.perf_counter()
        _, dlogits = backward.cross_entropy(logits, targets, np.ones(targets.shape, np.float32))
        backward.weight_gradients(dlogits, inputs, stream, made, weights, config, into)
        return time.perf_counter() - start

    for n_texts, n_seq in ((1, 128), (4, 128), (1, 1023)):
        tokens = np.random.default_rng(n_seq).integers(0, 50257, (n_texts, n_seq + 1))
        alone = []
        t = seeded.interleaved(
            7 if n_texts * n_seq < 1000 else 5,
            forward=lambda: m.forward(tokens[:, :-1], weights, config),
            backward=lambda: alone.append(way_back(tokens)),
            both=lambda: backward.loss_and_gradients(tokens, weights, config, into=into),
        )
        seconds = statistics.median(alone)
        ratio = seconds / t["forward"]
        print(
            f"{f'{n_texts} x {n_seq}':>12}{t['forward']:10.3f}{seconds:10.3f}{ratio:8.2f}{t['both']:22.3f}", flush=True
        )


def attribution_table(model):
    """Estimates of a whole map, against one forward pass of one text and against the exact sweep."""
    forward = seeded.interleaved(15, one=lambda: model.run(seeded.PROMPT).logits)["one"]
    print(f"\none forward pass of the example's 11 tokens: {forward:.3f} s\n")
    print(
        f"{'site':>14}{'cells':>8}{'attribute':>11}{'forwards':>10}{'sweep':>9}{'faster':>8}   (attribute runs both texts, then backward)"
    )
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
