"""All edges of the 11-token example at GPT-2 small's size: against the floor of its matrix products, against one Hugging Face
forward pass and one of TransformerLens's direct paths for each edge, path patching, memory, growth with the text's length.

    python benchmarks/edges.py            everything, some ten minutes
    python benchmarks/edges.py --quick    every third layer of readers

Speed does not depend on the weights' values: they are seeded. The floor is the same products with weights, in the same batches,
and nothing else.
"""

import subprocess
import sys
import time
from itertools import islice

import numpy as np
import seeded
from sweep import ANSWERS, memory, random_pair, reset_peak

from minigpt2 import GPT2
from patching import PromptPair
from patching.circuits import path_patch
from patching.circuits.edges import BUDGET, arrivals, carry, edges_of_part, in_batches, quietly
from patching.circuits.nodes import edge_mask
from patching.circuits.setting import Setting

PAIR = PromptPair.from_tokens(seeded.PROMPT, seeded.CORRUPTED, ANSWERS)


def rows_of_part(config, layer, n_rows, n_seq):
    """For one batch after another of the edges into a layer's heads and MLP: the rows through each later layer."""
    n_edges = 3 * config.n_head * (1 + layer * (config.n_head + 1))
    number = config.n_embd * 4
    a_batch = max(1, BUDGET // ((16 * n_rows + 2 * n_seq) * number))
    return [min(a_batch, n_edges - at) for at in range(0, n_edges, a_batch)]


def floor(model, layer, n_rows, n_seq):
    """Nothing but the products with weights that the edges into the heads of one layer need. Returns (function, FLOP)."""
    c, h = model.config, model.weights.h
    n_writers, batches, last = 1 + layer * (c.n_head + 1), rows_of_part(c, layer, n_rows, n_seq), c.n_layer - 1
    products = [(n_writers * n_rows, h[layer].attn.c_attn)]
    n_mlp = (n_writers + c.n_head) * (1 if layer == last else n_rows)
    products += [(n_mlp, h[layer].mlp.c_fc), (n_mlp, h[layer].mlp.c_proj)]
    for n in batches:
        for at in range(layer, c.n_layer):
            rows, after = n * n_rows, n * (1 if at == last else n_rows)
            if at > layer:
                products += [(rows, h[at].attn.c_attn), (after, h[at].attn.c_proj)]
            products += [(after, h[at].mlp.c_fc), (after, h[at].mlp.c_proj)]
    most = max(rows for rows, _ in products)
    x = np.random.default_rng(0).standard_normal((most, 4 * c.n_embd), dtype=np.float32).reshape(-1)
    out = np.empty(most * 4 * c.n_embd, np.float32)

    def multiply():
        for rows, linear in products:
            n_in, n_out = linear.weight.shape
            np.matmul(x[: rows * n_in].reshape(rows, n_in), linear.weight, out=out[: rows * n_out].reshape(rows, n_out))

    return multiply, sum(2 * rows * linear.weight.size for rows, linear in products)


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def all_edges(model, layers):
    """Each layer's edges and their floor, one after the other. Returns seconds for each edge."""
    setting, mask = Setting(model, PAIR), edge_mask(model.config)
    n_columns, n_rows = 3 * model.config.n_head + 1, setting.n_seq - setting.first
    print(f"{'readers of':>12}{'edges':>8}{'TFLOP':>8}{'seconds':>9}{'floor':>8}{'ratio':>7}")
    seconds = floors = n_edges = work = 0
    for layer in layers:
        columns = mask[:, layer * n_columns : (layer + 1) * n_columns]
        values = np.where(columns, np.float32(0), np.float32(np.nan))
        took = timed(lambda: edges_of_part(setting, layer, values))
        multiply, flop = floor(model, layer, n_rows, setting.n_seq)
        at_least = timed(multiply)
        print(
            f"{f'layer {layer}':>12}{columns.sum():8,}{flop / 1e12:8.2f}{took:9.2f}{at_least:8.2f}{took / at_least:7.2f}"
        )
        seconds, floors, n_edges, work = seconds + took, floors + at_least, n_edges + int(columns.sum()), work + flop
    ratio = seconds / floors
    print(f"{'together':>12}{n_edges:8,}{work / 1e12:8.2f}{seconds:9.2f}{floors:8.2f}{ratio:7.2f}  (at most 1.3)")
    return seconds / n_edges


def against_others(each):
    """One forward pass for each edge, by rate."""
    import torch
    import transformers

    hf = transformers.GPT2LMHeadModel.from_pretrained(seeded.folder()).eval()
    text = torch.tensor([seeded.PROMPT])
    with torch.inference_mode():
        hf(text)
        forward = min(timed(lambda: hf(text, use_cache=False)) for _ in range(7))
        print(f"\n{'seconds for each edge':46}{each:10.5f}")
        print(f"{'Hugging Face, one forward pass for each':46}{forward:10.5f}{forward / each:8.1f} x  (at least 15)")
        try:
            lens, n = transformer_lens_path(hf), 144 - 12
        except ImportError:
            print("TransformerLens is not installed here, and left out: pip install transformer-lens")
            return
        path = timed(lens) / n
        print(f"{'TransformerLens, direct paths of head 0.0':46}{path:10.5f}{path / each:8.1f} x")


def transformer_lens_path(hf):
    import torch
    from transformer_lens import patching
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    lens = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config).eval()
    lens.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    texts = [torch.tensor([text]) for text in (seeded.PROMPT, seeded.CORRUPTED)]
    caches = [lens.run_with_cache(text)[1] for text in texts]
    metric = lambda logits: logits[0, -1, ANSWERS[1]] - logits[0, -1, ANSWERS[0]]  # noqa: E731
    return lambda: patching.get_act_patch_direct_path(lens, texts[1], *caches, metric, 0, 0, verbose=False)


def paths_table(model):
    forward = min(timed(lambda: model.run(seeded.PROMPT).logits) for _ in range(7))
    heads = [f"a{layer}.h{head}" for layer in range(12) for head in range(12)]
    print(f"\npath patching, 144 heads into one set of receivers; one forward pass takes {forward:.3f} s")
    for receivers in (
        ["logits"],
        ["a9.h9<q>", "a9.h6<q>", "a10.h0<q>"],
        ["a7.h3<v>", "a7.h9<v>", "a8.h6<v>", "a8.h10<v>"],
    ):
        ask = lambda receivers=receivers: path_patch(model, PAIR, receivers, heads)  # noqa: E731
        took = min(timed(ask) for _ in range(2))
        print(f"{', '.join(receivers):46}{took:10.3f} s{took / forward:8.1f} forward passes")


def growth_table(n_batches=4):
    """Memory and time of some batches of edges into layer 6, by length. In a process that has done nothing else."""
    model = GPT2.from_pretrained(seeded.folder())
    loaded = memory("VmRSS")
    print(
        f"\n{'tokens':>8}{'edges':>8}{'seconds':>9}{'ms an edge':>12}{'peak extra MiB':>16}  (into layer 6; at most 512)"
    )
    for n_seq in (11, 44, 176):
        reset_peak()
        setting = Setting(model, random_pair(n_seq))
        values = np.zeros((157, 37), np.float32)
        start, n = time.perf_counter(), 0
        for batch in islice(quietly(in_batches(arrivals(setting, 6), n_seq, model)), n_batches):
            carry(setting, batch, values)
            n += len(batch)
        took, extra = time.perf_counter() - start, (memory("VmHWM") - loaded) / 1024
        print(f"{n_seq:8}{n:8,}{took:9.2f}{1000 * took / n:12.2f}{extra:16.0f}", flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    if sys.argv[1:] == ["growth"]:
        growth_table()
        sys.exit()
    print(seeded.machine() + "\n")
    model = GPT2.from_pretrained(seeded.folder())
    each = all_edges(model, range(2, 12, 3) if sys.argv[1:] == ["--quick"] else range(12))
    against_others(each)
    paths_table(model)
    subprocess.run([sys.executable, __file__, "growth"], check=True)
