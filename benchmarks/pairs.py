"""A set of pairs against TransformerLens, its floor, and itself on two processes: `python benchmarks/pairs.py [pairs]`.

100 pairs of 15 tokens (seeded) that differ in the eleventh, as those of indirect object identification do; seeded weights in
the GPT-2 small shape. TransformerLens does a tenth of them, so compare by rate. Every claim is a ratio of one run.
"""

import contextlib
import io
import os
import subprocess
import sys
import time

import numpy as np
import seeded
from sweep import ANSWERS, bridge, floor, row_counts

from minigpt2 import GPT2
from patching import PairSet, PromptPair, sweep
from patching.pairs.workers import workers

N_SEQ, CHANGED, N_LAYER, N_HEAD = 15, 10, 12, 12
SWEEPS = {"residual stream": ("resid_pre", {}), "heads, all positions": ("z", {"positions": "all"})}


def pairs(n):
    rng, made = np.random.default_rng(0), []
    for _ in range(n):
        tokens = rng.integers(0, 50257, N_SEQ).tolist()
        other = [*tokens[:CHANGED], (tokens[CHANGED] + 1) % 50257, *tokens[CHANGED + 1 :]]
        made.append(PromptPair.from_tokens(tokens, other, ANSWERS))
    return PairSet(made)


def head_counts():
    """Rows through attention, out of it, and through the MLP of each layer, for all heads at all positions at once."""
    rows, counts = N_SEQ - CHANGED, []
    for layer in range(N_LAYER):
        entered, last = N_HEAD * layer, layer == N_LAYER - 1
        out = entered * (1 if last else rows)
        counts.append((entered * rows, out, out + N_HEAD * (1 if last else rows)))
    return counts


COUNTS = {"residual stream": row_counts(N_SEQ, CHANGED), "heads, all positions": head_counts()}


def a_second(n, f):
    start = time.perf_counter()
    f()
    return n / (time.perf_counter() - start)


def alone(n, repeats=3):
    """Pairs a second of one process, and of the floor, by turns; the best of each, by sweep."""
    model, some = GPT2.from_pretrained(seeded.folder()), pairs(n)
    for name, (site, choices) in SWEEPS.items():
        multiply, ours, least = floor(model, N_SEQ, COUNTS[name]), [], []
        sweep(model, some[:2], site, **choices)
        for _ in range(repeats):
            ours.append(a_second(n, lambda: sweep(model, some, site, **choices)))
            least.append(a_second(n, lambda: [multiply() for _ in range(n)]))
        print(name, max(ours), max(least), sep="\t")


def on_two(n, repeats=3):
    """Pairs a second of two processes of one thread each, which have the model loaded."""
    model, some = GPT2.from_pretrained(seeded.folder()), pairs(n)
    with workers(2) as executor:
        for name, (site, choices) in SWEEPS.items():
            sweep(model, some[:6], site, executor=executor, **choices)
            print(
                name,
                max(
                    a_second(n, lambda: sweep(model, some, site, executor=executor, **choices)) for _ in range(repeats)
                ),
                sep="\t",
            )


def memory(n):
    """MiB that 1, 2 and 3 workers take together: their proportional set sizes after a sweep (Linux)."""
    model, some = GPT2.from_pretrained(seeded.folder()), pairs(12)
    for count in (1, 2, 3):
        with workers(count) as executor:
            sweep(model, some, "z", positions="all", executor=executor)
            print(count, sum(map(proportional, executor._processes)) / 1024, sep="\t")


def proportional(process):
    with open(f"/proc/{process}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def transformer_lens(n):
    """Pairs a second of TransformerLens's own functions, and the largest difference from our maps."""
    import torch
    from transformer_lens import patching
    from transformers import GPT2LMHeadModel

    model, some = GPT2.from_pretrained(seeded.folder()), pairs(n)
    lens = bridge(GPT2LMHeadModel.from_pretrained(seeded.folder()).eval())
    functions = (patching.get_act_patch_resid_pre, patching.get_act_patch_attn_head_out_all_pos)
    for (name, (site, choices)), patch in zip(SWEEPS.items(), functions):
        maps = []

        def run(patch=patch, maps=maps):
            for pair in some:
                clean, corrupted = (torch.tensor([list(ids)]) for ids in pair.ids)
                with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                    _, cache = lens.run_with_cache(clean)
                    difference = lambda logits: logits[0, -1, ANSWERS[1]] - logits[0, -1, ANSWERS[0]]  # noqa: E731
                    maps.append(patch(lens, corrupted, cache, difference).numpy())

        rate = a_second(n, run)
        print(name, rate, np.abs(np.array(maps) - sweep(model, some, site, **choices).values).max(), sep="\t")


def measured(what, n, threads):
    """What one of the functions above prints, in a process of its own: {sweep: numbers}."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    line = [sys.executable, os.path.abspath(__file__), str(n), what]
    done = subprocess.run(line, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    rows = (row.split("\t") for row in done.stdout.splitlines() if "\t" in row)
    return {name: list(map(float, numbers)) for name, *numbers in rows}


def main(n):
    seeded.folder()
    print(f"{seeded.machine()}\n{n} pairs of {N_SEQ} tokens, pairs a second (best of 3)\n")
    one, two = measured("alone", n, 2), measured("on_two", n, 1)
    try:
        lens = measured("transformer_lens", max(1, n // 10), 2)
    except subprocess.CalledProcessError:
        lens = {}
    for name in SWEEPS:
        (ours, least), both = one[name], two[name][0]
        print(
            f"{name}\n  one process of two threads   {ours:8.2f}\n  two processes of one thread  {both:8.2f}  {both / ours:.2f} x as fast"
        )
        print(f"  the matrix products alone    {least:8.2f}  the sweep takes {least / ours:.2f} x as long")
        if name in lens:
            rate, off = lens[name]
            print(
                f"  TransformerLens              {rate:8.2f}  {max(ours, both) / rate:.0f} x slower; largest difference {off:.0e}"
            )
    one, two, three = (each[0] for each in measured("memory", n, 1).values())
    print(
        f"1, 2 and 3 workers take {one:.0f}, {two:.0f} and {three:.0f} MiB together: {three - two:.0f} for a further one"
    )


if __name__ == "__main__":
    count = int(sys.argv[1]) if sys.argv[1:] else 100
    modes = {"alone": alone, "on_two": on_two, "memory": memory, "transformer_lens": transformer_lens}
    (modes[sys.argv[2]] if sys.argv[2:] else main)(count)
