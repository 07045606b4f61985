"""The sweep against its peers, its floor, its own arithmetic, and its memory: `python benchmarks/sweep.py`.

Seeded random weights in the GPT-2 small shape, the example's tokens, everything measured in one run; every claim is a
ratio. Needs torch and transformers (`make benchmarks` installs them); TransformerLens takes part where it is installed.
"""

import contextlib
import io
import os
import subprocess
import sys
import time

import numpy as np
import seeded

from minigpt2 import GPT2
from patching import PromptPair, sweep, sweep_one_by_one

ANSWERS = (5437, 4176)  # " Jones", " Smith"
PAIR = PromptPair.from_tokens(seeded.PROMPT, seeded.CORRUPTED, ANSWERS)


# The peers


def peers(folder, ours):
    """Each peer's residual sweep of the example as a function that returns its matrix [12, 11]."""
    import torch
    from transformers import GPT2LMHeadModel

    hf = GPT2LMHeadModel.from_pretrained(folder).eval()
    blocks, corrupted = hf.transformer.h, torch.tensor([seeded.CORRUPTED])
    n_layer, n_seq = len(blocks), corrupted.shape[1]

    def clean_vectors():
        """The output of every block in the clean run, [n_layer, n_seq, n_embd]."""
        kept = []
        hooks = [b.register_forward_hook(lambda _m, _i, out: kept.append(tensor_of(out)[0])) for b in blocks]
        hf(torch.tensor([seeded.PROMPT]))
        for hook in hooks:
            hook.remove()
        return torch.stack(kept)

    def with_hooks(**logits_to_keep):
        values, clean = torch.empty(n_layer, n_seq), clean_vectors()
        for layer in range(n_layer):
            for pos in range(n_seq):

                def overwrite(_module, _inputs, out, layer=layer, pos=pos):
                    tensor_of(out)[:, pos] = clean[layer, pos]

                hook = blocks[layer].register_forward_hook(overwrite)
                values[layer, pos] = difference(hf(corrupted, use_cache=False, **logits_to_keep).logits[0, -1])
                hook.remove()
        return values.numpy()

    def in_one_batch():
        clean, hooks = clean_vectors(), []
        for layer, b in enumerate(blocks):

            def overwrite(_module, _inputs, out, layer=layer):
                rows = torch.arange(layer * n_seq, (layer + 1) * n_seq)
                tensor_of(out)[rows, torch.arange(n_seq)] = clean[layer]

            hooks.append(b.register_forward_hook(overwrite))
        logits = hf(corrupted.repeat(n_layer * n_seq, 1), use_cache=False, logits_to_keep=1).logits[:, -1]
        for hook in hooks:
            hook.remove()
        return difference(logits.T).reshape(n_layer, n_seq).numpy()

    found = {
        "Hugging Face, a hook and a forward pass a patch": with_hooks,
        "the same, unembedding the last position only": lambda: with_hooks(logits_to_keep=1),
        "Hugging Face, all patches in one batch (last position only)": in_one_batch,
        "minigpt2, sweep_one_by_one": lambda: sweep_one_by_one(ours, PAIR).values,
    }
    try:
        return {"TransformerLens, get_act_patch_resid_pre": transformer_lens(hf), **found}
    except ImportError:
        print("TransformerLens is not installed here, and left out: pip install transformer-lens\n")
        return found


def tensor_of(out):
    return out[0] if isinstance(out, tuple) else out


def difference(logits):
    return logits[ANSWERS[1]] - logits[ANSWERS[0]]


def bridge(hf):
    """The same weights in TransformerLens."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    lens = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config).eval()
    lens.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    return lens


def transformer_lens(hf):
    import torch
    from transformer_lens import patching

    lens = bridge(hf)
    clean, corrupted = torch.tensor([seeded.PROMPT]), torch.tensor([seeded.CORRUPTED])

    def matrix():
        _, cache = lens.run_with_cache(clean)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return patching.get_act_patch_resid_pre(
                lens, corrupted, cache, lambda logits: difference(logits[0, -1])
            ).numpy()

    return matrix


def peers_table(folder, model):
    import torch

    contenders, ours = peers(folder, model), lambda: sweep(model, PAIR).values
    with torch.inference_mode():
        values = sweep(model, PAIR).values, sweep(model, PAIR, "resid_pre").values
        off = {name: min(abs(f() - v).max() for v in values) for name, f in contenders.items()}  # and a warm-up
        seconds = seeded.interleaved(3, warm_up=False, **contenders, ours=ours)
        quick = seeded.interleaved(15, ours=ours, floor=floor(model))
    print(
        f"the residual sweep of the example, 12 x 11 = 132 patches\n{'':60}{'seconds':>9}{'ratio':>8}  largest difference"
    )
    for name in contenders:
        print(f"{name:60}{seconds[name]:9.2f}{seconds[name] / seconds['ours']:8.1f}  {off[name]:.0e}")
    print(f"{'minigpt2, sweep':60}{seconds['ours']:9.2f}{1:8.1f}")
    print(
        f"\nthe floor, its matrix products with weights and nothing else, both base runs with them: {quick['floor']:.3f} s"
    )
    print(f"the whole sweep: {quick['ours']:.3f} s, {quick['ours'] / quick['floor']:.2f} times the floor (at most 1.4)")


# The arithmetic


def row_counts(n_seq, first_difference, n_heads=0, n_layer=12):
    """For each layer: how many rows go through its attention, through its MLP, and out of its attention.

    A patch of position p is carried as n_seq - p rows, from the layer above it on (a head's: from the MLP of its layer on).
    """
    rows = sum(n_seq - pos for pos in range(first_difference, n_seq))
    patches, counts = n_seq - first_difference, []
    for layer in range(n_layer):
        entered = layer * max(n_heads, 1)  # patches at each position before this layer
        last = layer == n_layer - 1
        attention, out = entered * rows, entered * (patches if last else rows)
        mlp = out + (n_heads * (1 if last else rows) if n_heads else 0)
        counts.append((attention, out, mlp))
    return counts


def gigaflops(counts, n_embd=768):
    """Of the matrix products with weights: 2 operations for each row and weight."""
    return sum(2 * n_embd**2 * (3 * attention + out + 8 * mlp) for attention, out, mlp in counts) / 1e9


N_SEQ = len(seeded.PROMPT)


def floor(model, n_seq=N_SEQ, counts=None):
    """A function that does nothing but multiply by the model's weight matrices, in the shapes that a sweep (the example's)
    cannot avoid: the two base runs, then each layer's rows of all patches."""
    n_seq = n_seq or len(seeded.PROMPT)
    n_embd, base = model.config.n_embd, 2 * n_seq
    counts = counts or row_counts(n_seq, first_difference=1)
    most = max(max(layer) for layer in counts)
    x = np.random.default_rng(0).standard_normal((most, 4 * n_embd), dtype=np.float32)
    out = np.empty(most * 4 * n_embd, np.float32)

    def multiply():
        for layers in ([(base, base, base)] * len(counts), counts):
            for h, (attention, after, mlp) in zip(model.weights.h, layers):
                for rows, linear in (
                    (attention, h.attn.c_attn), (after, h.attn.c_proj), (mlp, h.mlp.c_fc), (mlp, h.mlp.c_proj)
                ):  # fmt: skip
                    n_in, n_out = linear.weight.shape
                    inputs = x.reshape(-1)[: rows * n_in].reshape(rows, n_in)
                    np.matmul(inputs, linear.weight, out=out[: rows * n_out].reshape(rows, n_out))

    return multiply


def growth_table():
    """Sites and lengths: time and memory as the number of patches grows. In a process that has done nothing else."""
    model = GPT2.from_pretrained(seeded.folder())
    loaded = memory("VmRSS")
    long_text(model, loaded)
    print(f"\n{'site':>12}{'tokens':>8}{'patches':>9}{'GFLOP':>9}{'seconds':>9}{'GFLOP/s':>9}{'peak extra MiB':>16}")
    jobs = [("resid_post", n) for n in (11, 32, 64, 128)]
    jobs += [(site, 11) for site in ("z", "q", "k", "v", "pattern")] + [("z", 32)]
    for site, n_seq in jobs:
        pair = random_pair(n_seq)
        flops = gigaflops(row_counts(n_seq, 1, n_heads=0 if site == "resid_post" else 12)) + base_gigaflops(n_seq)
        sweep(model, pair, site, layers=[10])  # warm
        reset_peak()
        start = time.perf_counter()
        result = sweep(model, pair, site)
        seconds = time.perf_counter() - start
        extra = (memory("VmHWM") - loaded) / 1024
        print(
            f"{site:>12}{n_seq:8}{result.values.size:9}{flops:9.0f}{seconds:9.2f}{flops / seconds:9.0f}{extra:16.0f}",
            flush=True,
        )
    print("GFLOP: the matrix products with weights alone, so a steady rate means that nothing else grows.")
    print(
        "Extra: the peak above the loaded model (at most 512 MiB), what malloc holds back from earlier rows included."
    )


def base_gigaflops(n_seq):
    return gigaflops([(2 * n_seq,) * 3] * 12)


def random_pair(n_seq):
    """Two texts of n_seq tokens that differ in the second."""
    tokens = np.random.default_rng(n_seq).integers(0, 50257, n_seq).tolist()
    return PromptPair.from_tokens(tokens, [tokens[0], (tokens[1] + 1) % 50257, *tokens[2:]], ANSWERS)


def reset_peak():
    """Forget the largest memory so far (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def memory(which):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(which))


def long_text(model, loaded, n_seq=1024):
    """A text of n_ctx tokens, one position patched in every layer: the memory of two runs of it and of the pass."""
    reset_peak()
    start = time.perf_counter()
    sweep(model, random_pair(n_seq), positions=[n_seq - 64])
    seconds, extra = time.perf_counter() - start, (memory("VmHWM") - loaded) / 1024
    print(f"\n{n_seq} tokens, one position in 12 layers: {seconds:.1f} s, peak extra {extra:.0f} MiB")


# Cores


ON_CORES = """
import sys; sys.path.insert(0, sys.argv[1])
import seeded, sweep
model = sweep.GPT2.from_pretrained(seeded.folder())
t = seeded.interleaved(9, residual=lambda: sweep.sweep(model, sweep.PAIR), floor=sweep.floor(model))
h = seeded.interleaved(1, heads=lambda: sweep.sweep(model, sweep.PAIR, "z"))
print(t["residual"], t["floor"], h["heads"])
"""


def cores_table():
    """The same sweeps on one core and on two, each in a process of its own."""
    times = {}
    for n in (1, 2):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": str(n), "OMP_NUM_THREADS": str(n)}
        run = [sys.executable, "-c", ON_CORES, os.path.dirname(os.path.abspath(__file__))]
        done = subprocess.run(run, env=environment, check=True, capture_output=True, text=True)
        times[n] = list(map(float, done.stdout.split()))
    print(f"\n{'seconds':>24}{'1 thread':>10}{'2 threads':>11}{'ratio':>7}")
    for name, one, two in zip(("residual sweep", "its matrix products", "z sweep, 1,584 patches"), times[1], times[2]):
        print(f"{name:>24}{one:10.3f}{two:11.3f}{one / two:7.2f}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    if sys.argv[1:] == ["growth"]:
        growth_table()
        sys.exit()
    print(seeded.machine() + "\n")
    peers_table(seeded.folder(), GPT2.from_pretrained(seeded.folder()))
    subprocess.run([sys.executable, __file__, "growth"], check=True)
    cores_table()
