"""Models to test with: seeded weights, and a second GPT-2, written without looking at minigpt2.

The seeded weights come out the same, to the bit, with any NumPy on any machine: golden files are made from them, and
hold only what a model computed. They are float32 numbers even where the arrays are float64, so that both widths are the
same model and their difference is rounding alone.
"""

import zlib

import numpy as np

from minigpt2 import GPT2, Config
from minigpt2.checkpoint.weights import expected_shapes, flatten, nest

SMALL = Config(n_layer=12, n_head=12, n_embd=768, n_ctx=1024, n_vocab=50257, d_mlp=3072)  # GPT-2 small
ODD = Config(n_layer=3, n_head=2, n_embd=14, n_ctx=13, n_vocab=11, d_mlp=56)  # d_head 7; no two sizes are the same


def uniform(seed, name, shape):
    """Numbers of mean 0 and variance 1, evenly spread: PCG64's bits are fixed for good, NumPy's normals are not."""
    generator, x = np.random.PCG64([seed, zlib.crc32(name.encode())]), np.empty(int(np.prod(shape)))
    for start in range(0, x.size, 1 << 18):
        piece = x[start : start + (1 << 18)]
        piece[:] = ((generator.random_raw(piece.size) >> np.uint64(11)) * 2.0**-53 - 0.5) * 12**0.5
    return x.reshape(shape)


def outlier_dimensions(config):
    """The columns that "trained-like" weights make large: one in 256, as GPT-2 small has 138, 378 and 447."""
    n = max(1, config.n_embd // 256)
    return [(138 + 120 * i) % config.n_embd for i in range(n)]


def random_weights(config, dtype=np.float64, seed=0, kind="plain"):
    """Weights with activations of ordinary size: scores, GELU inputs and logits of a few units, no bias 0, no gain 1.

    kind "trained-like" has what training made of the real GPT-2 and what costs precision: layer-norm gains from 0.1 to
    10, and a few dimensions of the stream a hundred times larger than the rest (with the small gains that read them).
    """
    outliers, flat = outlier_dimensions(config), {}
    for name, shape in expected_shapes(config).items():
        x = uniform(seed, name, shape)
        if "ln_" in name:
            x = 1 + 0.2 * x if name.endswith("weight") else 0.1 * x
            if kind == "trained-like" and name.endswith("weight"):
                x = 10 ** (uniform(seed, f"{name} gain", shape) / 12**0.5 * 2)  # 0.1 to 10
                x[outliers] *= 0.05
        elif name.endswith("bias"):
            x *= 0.1
        elif name in ("wte.weight", "wpe.weight"):
            x *= 0.1
        else:
            x /= shape[0] ** 0.5
        if kind == "trained-like" and (name == "wte.weight" or "c_proj.weight" in name):
            x[:, outliers] *= 100
        x = x.astype(np.float32).astype(dtype)
        x.flags.writeable = False
        flat[name] = x
    return nest(flat)


def cast(weights, dtype):
    """The same weights in another width."""
    if isinstance(weights, np.ndarray):
        return weights.astype(dtype)
    parts = [cast(part, dtype) for part in weights]
    return type(weights)(*parts) if hasattr(weights, "_fields") else tuple(parts)


def random_model(config=ODD, dtype=np.float64, seed=0, kind="plain"):
    return GPT2(config, random_weights(config, dtype, seed, kind), name="seeded")


def random_tokens(config, n_seq, seed=0):
    raw = np.random.PCG64([seed, n_seq]).random_raw(n_seq)
    return [int(token) for token in raw % np.uint64(config.n_vocab)]


def plain_forward(tokens, weights, config, overwrite=lambda name, layer, x: x):
    """GPT-2 for one text, one head at a time, with loops where minigpt2 has reshapes. Returns logits [n_seq, n_vocab].

    overwrite(name, layer, x) sees every activation at the moment at which it is computed and returns what takes its
    place: x [n_seq, n_embd] for the stream and what is added to it; [n_head, n_seq, d_head] for q, k, v and z;
    [n_head, n_seq, n_seq] for pattern; [n_head, n_seq, n_embd] for result, what each head adds to attn_out.
    """
    n_seq, d_head, eps = len(tokens), config.n_embd // config.n_head, config.layer_norm_epsilon

    def norm(x, ln):
        out = np.empty_like(x)
        for i, row in enumerate(x):
            out[i] = (row - np.mean(row)) / (np.var(row) + eps) ** 0.5 * ln.weight + ln.bias
        return out

    x = np.array([weights.wte[token] + weights.wpe[pos] for pos, token in enumerate(tokens)])
    for layer, h in enumerate(weights.h):
        x = overwrite("resid_pre", layer, x)
        qkv = norm(x, h.ln_1) @ h.attn.c_attn.weight + h.attn.c_attn.bias
        heads = {}
        for i, name in enumerate("qkv"):
            start = i * config.n_embd
            columns = [qkv[:, start + j * d_head : start + (j + 1) * d_head] for j in range(config.n_head)]
            heads[name] = overwrite(name, layer, np.array(columns))
        pattern = np.zeros((config.n_head, n_seq, n_seq))
        for head in range(config.n_head):
            for i in range(n_seq):
                scores = np.array([heads["q"][head, i] @ heads["k"][head, j] / d_head**0.5 for j in range(i + 1)])
                pattern[head, i, : i + 1] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        pattern = overwrite("pattern", layer, pattern)
        z = overwrite("z", layer, np.array([pattern[head] @ heads["v"][head] for head in range(config.n_head)]))
        rows = [h.attn.c_proj.weight[head * d_head : (head + 1) * d_head] for head in range(config.n_head)]
        result = overwrite("result", layer, np.array([z[head] @ rows[head] for head in range(config.n_head)]))
        attn_out = overwrite("attn_out", layer, sum(result) + h.attn.c_proj.bias)
        x = overwrite("resid_mid", layer, x + attn_out)
        a = norm(x, h.ln_2) @ h.mlp.c_fc.weight + h.mlp.c_fc.bias
        a = a / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (a + 0.044715 * a**3)))
        x = x + overwrite("mlp_out", layer, a @ h.mlp.c_proj.weight + h.mlp.c_proj.bias)
        x = overwrite("resid_post", layer, x)
    return norm(x, weights.ln_f) @ weights.wte.T


def checksum(weights):
    """One number for all weights, to tell another model from another result."""
    return zlib.crc32(b"".join(array.astype("<f4").tobytes() for _, array in sorted(flatten(weights).items())))
