"""What several overwrites cost: `python benchmarks/overwrites.py`.

A run with 20 overwrites against the plain run, sweeps of windows and of sets against their floor (their matrix products with
weights and nothing else), and all pairs of heads. Seeded random weights in the GPT-2 small shape; every claim is a ratio
of times taken in turn.
"""

import sys
import time

import numpy as np
import seeded
from sweep import PAIR, row_counts

from minigpt2 import GPT2, Overwrite
from patching import sweep
from patching.ablations import interactions

N_HEAD, N_SEQ = 12, len(seeded.PROMPT)


def twenty(rng):
    """20 overwrites: of single heads, MLPs and the stream, at single positions and at all."""
    some = [Overwrite(layer, "z", 0.0, heads=[layer]) for layer in range(12)]
    some += [
        Overwrite(layer, "mlp_out", rng.standard_normal(768).astype(np.float32), positions=[5]) for layer in range(5)
    ]
    some += [Overwrite(6, "attn_out", 0.0, positions=[2]), Overwrite(9, "resid_mid", 0.1, positions=[-1], add=True)]
    return [*some, Overwrite(3, "resid_post", 0.1, positions=[4], add=True)]


def multiply(model, counts):
    """A function that multiplies by every layer's weights, with rows as row_counts has them."""
    x = np.random.default_rng(0).standard_normal((max(map(max, counts)), 3072), dtype=np.float32)

    def products():
        for h, (attention, out, mlp) in zip(model.weights.h, counts):
            for rows, linear in (
                (attention, h.attn.c_attn),
                (out, h.attn.c_proj),
                (mlp, h.mlp.c_fc),
                (mlp, h.mlp.c_proj),
            ):
                n_in = linear.weight.shape[0]
                np.matmul(x.reshape(-1)[: rows * n_in].reshape(rows, n_in), linear.weight)

    return products


def runs_table(model):
    some, longer = twenty(np.random.default_rng(0)), (np.arange(256) * 7 % 50257).tolist()
    print(f"{'':34}{'plain':>9}{'with 20':>9}{'ratio':>7}")
    for tokens, repeats in ((seeded.PROMPT, 21), (longer, 5)):
        t = seeded.interleaved(
            repeats, plain=lambda: model.run(tokens), overwritten=lambda: model.run(tokens, overwrites=some)
        )
        print(
            f"{f'a run of {len(tokens)} tokens':34}{t['plain']:9.4f}{t['overwritten']:9.4f}{t['overwritten'] / t['plain']:7.2f}"
        )


def sweeps_table(model):
    heads = [(layer, head) for layer in range(12) for head in range(N_HEAD)]
    sets = [[heads[i], heads[(i + 1) % 144], heads[(i + 30) % 144]] for i in range(144)]
    base = [(2 * N_SEQ,) * 3] * 12
    lowest = [min(place[0] for place in some) for some in sets]
    of_sets = [
        (N_SEQ * sum(low < layer for low in lowest), (N_SEQ if layer < 11 else 1) * sum(low < layer for low in lowest),
         (N_SEQ if layer < 11 else 1) * sum(low <= layer for low in lowest))
        for layer in range(12)
    ]  # fmt: skip
    plain = row_counts(N_SEQ, 1)
    jobs = {
        "resid_post, 132 patches": (lambda: sweep(model, PAIR), plain),
        "mlp_out, 132 patches": (lambda: sweep(model, PAIR, "mlp_out"), plain),
        "mlp_out, windows of 5": (lambda: sweep(model, PAIR, "mlp_out", window=5), windows(5)),
        "144 sets of 3 heads, zero": (lambda: sweep(model, PAIR, "z", source="zero", places=sets), of_sets),
    }
    print(f"\n{'':34}{'floor':>9}{'sweep':>9}{'ratio':>7}")
    for name, (job, counts) in jobs.items():
        products = [multiply(model, base), multiply(model, counts)]
        t = seeded.interleaved(5, sweep=job, floor=lambda products=products: [product() for product in products])
        print(f"{name:34}{t['floor']:9.3f}{t['sweep']:9.3f}{t['sweep'] / t['floor']:7.2f}", flush=True)


def windows(n):
    """The rows of a sweep of windows of n layers' MLPs: a patch joins after the MLP of its lowest layer."""
    rows = sum(N_SEQ - pos for pos in range(1, N_SEQ))
    counts = []
    for layer in range(12):
        entered = sum(max(0, centre - n // 2) < layer for centre in range(12))
        out = entered * (rows if layer < 11 else N_SEQ - 1)
        counts.append((entered * rows, out, out))
    return counts


def pairs_table(model):
    plain = seeded.interleaved(9, run=lambda: model.run(seeded.PROMPT, ["z"]))["run"]
    start, start_cpu = time.perf_counter(), time.process_time()
    found = interactions(model, PAIR)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    n = len(found.parts)
    pairs = n * (n - 1) // 2
    print(
        f"\nall {pairs:,} pairs of {n} heads on {N_SEQ} tokens: {seconds:.1f} s ({cpu:.1f} s of processor time), ",
        end="",
    )
    print(f"{seconds / pairs / plain:.2f} plain runs each")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    print(seeded.machine() + "\n")
    model = GPT2.from_pretrained(seeded.folder())
    runs_table(model)
    sweeps_table(model)
    pairs_table(model)
