"""GPT-2's forward pass: from token ids to logits, in the order in which the numbers flow.

Plain functions on arrays; no file, no URL, no tokenizer, no state. Weights keep the names of the checkpoint
(wte, wpe, ln_1, attn.c_attn, ...) and activations those of TransformerLens (resid_pre, q, pattern, z, ...).
Every function takes any number of leading axes, so one text and a sweep of many patched texts share this code.

    n_layer  blocks                 n_seq   tokens in the text      n_head  attention heads
    n_vocab  tokens that exist      n_embd  width of the stream     d_head  n_embd / n_head
    n_ctx    positions that exist   d_mlp   width inside the MLP    n_q, n_k  queries and keys, n_q <= n_k

Read next: gpt2.py (the model as a user holds it), then backward.py (this file's mirror image).
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; openai/gpt-2 src/model.py.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Config:
    """The sizes of one GPT-2, from its config.json."""

    n_layer: int
    n_head: int
    n_embd: int
    n_ctx: int
    n_vocab: int
    d_mlp: int
    layer_norm_epsilon: float = 1e-5

    @property
    def d_head(self):
        return self.n_embd // self.n_head


class Affine(NamedTuple):
    """A linear layer, weight [n_in, n_out] and bias [n_out], or a layer norm, both [n_embd]."""

    weight: np.ndarray
    bias: np.ndarray


class Attn(NamedTuple):
    c_attn: Affine  # [n_embd, 3 * n_embd]: queries, keys and values of all heads in one
    c_proj: Affine  # [n_embd, n_embd]


class MLP(NamedTuple):
    c_fc: Affine  # [n_embd, d_mlp]
    c_proj: Affine  # [d_mlp, n_embd]


class Block(NamedTuple):
    ln_1: Affine
    attn: Attn
    ln_2: Affine
    mlp: MLP


class Weights(NamedTuple):
    """All weights under their checkpoint names: h.3.attn.c_attn.weight is weights.h[3].attn.c_attn.weight."""

    wte: np.ndarray  # [n_vocab, n_embd]
    wpe: np.ndarray  # [n_ctx, n_embd]
    h: tuple  # n_layer of Block
    ln_f: Affine


def embed(tokens, wte, wpe, first_pos=0):
    """Start the residual stream: the token's row of wte plus its position's row of wpe."""
    n_seq = tokens.shape[-1]
    return wte[tokens] + wpe[first_pos : first_pos + n_seq]  # [..., n_seq, n_embd]


def layer_norm(x, weight, bias, eps):
    """Normalise each position by itself to mean 0 and variance 1, then scale and shift (Ba et al. 2016).

    The variance is the population's (divided by n_embd), and eps stands inside the root.
    """
    y = x - x.mean(axis=-1, keepdims=True)
    variance = np.vecdot(y, y)[..., None] / x.shape[-1]  # [..., n_seq, 1]
    y /= np.sqrt(variance + eps)
    y *= weight
    y += bias
    return y


def linear(x, weight, bias=None):
    """x W + b. The checkpoint stores W as [n_in, n_out] (OpenAI's conv1d), so nothing is transposed."""
    y = x.reshape(-1, x.shape[-1]) @ weight  # one matrix product, whatever the leading axes
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[1])  # [..., n_seq, n_out]


def split_heads(x, n_head):
    """Cut the last axis into heads: head h is columns h * d_head to (h + 1) * d_head."""
    x = x.reshape(*x.shape[:-1], n_head, x.shape[-1] // n_head)
    return x.swapaxes(-2, -3)  # [..., n_head, n_seq, d_head]


def merge_heads(x):
    """Lay the heads side by side again: the inverse of split_heads."""
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)  # [..., n_seq, n_embd]


def head_results(z, c_proj):
    """What each head adds to attn_out: z [..., n_head, n_seq, d_head] through its own rows of c_proj's weight. Their sum
    and c_proj's bias are attn_out."""
    return z @ c_proj.reshape(z.shape[-3], z.shape[-1], -1)  # [..., n_head, n_seq, n_embd]


def split_qkv(x, n_head):
    """The columns of c_attn's output are the queries of all heads, then the keys, then the values."""
    n = x.shape[-1] // 3
    q, k, v = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]  # [..., n_seq, n_embd]
    return split_heads(q, n_head), split_heads(k, n_head), split_heads(v, n_head)  # [..., n_head, n_seq, d_head]


def causal_mask(n_q, n_k):
    """Which key each query may read. The queries are the last n_q of n_k positions, so the diagonal ends in the
    lower right corner (openai/gpt-2 src/model.py, attention_mask): query i reads keys 0 to i + n_k - n_q."""
    return np.tri(n_q, n_k, n_k - n_q, dtype=bool)  # [n_q, n_k]


def softmax(x, out=None):
    """exp(x) / sum(exp(x)) along the last axis; the maximum is taken off first so that exp cannot overflow."""
    y = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def attention_pattern(q, k):
    """How much each query takes from each key: softmax(q k / sqrt(d_head)), with minus infinity for later keys."""
    scores = q / math.sqrt(q.shape[-1]) @ k.swapaxes(-1, -2)  # [..., n_head, n_q, n_k]
    np.copyto(scores, -math.inf, where=~causal_mask(*scores.shape[-2:]))
    return softmax(scores, out=scores)


def attend(q, k, v):
    """Every query's average of the values, weighted by its pattern. The only step that mixes positions."""
    return attention_pattern(q, k) @ v  # [..., n_head, n_q, d_head]


def attend_in_blocks(q, k, v, size=None):
    """attend, a block of queries at a time: near half of a long text's pattern is not computed, and no more than a
    block of it is ever held."""
    z = np.empty(q.shape, q.dtype)
    for at, seen in query_blocks(q.shape[-2], k.shape[-2], size):
        z[..., at, :] = attend(q[..., at, :], k[..., seen, :], v[..., seen, :])
    return z  # [..., n_head, n_q, d_head]


def query_blocks(n_q, n_k, size=None):
    """Cut the queries into blocks, each with the keys it reads: those up to its last query, and none after."""
    size = size or min(max(n_q // 4, 32), 128)  # large enough for a fast matrix product
    for start in range(0, n_q, size):
        stop = min(start + size, n_q)
        yield slice(start, stop), slice(0, stop + n_k - n_q)


GELU_SCALE = math.sqrt(2 / math.pi)


def gelu(x):
    """GELU in its tanh form (Hendrycks and Gimpel 2016, section 2). The weights were trained with this one; the
    erf form differs by up to 4.7e-4."""
    return 0.5 * x * (1 + np.tanh(GELU_SCALE * (x + 0.044715 * (x * x * x))))


def in_pieces(f, x, piece=1 << 16):
    """Overwrite x (contiguous) with f(x), a piece at a time: f's temporaries then stay in the processor's cache."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, piece):
        flat[start : start + piece] = f(flat[start : start + piece])
    return x


def mlp(x, c_fc, c_proj):
    """Widen to d_mlp, GELU, narrow back: each position by itself."""
    return linear(in_pieces(gelu, linear(x, *c_fc)), *c_proj)  # [..., n_seq, n_embd]


def block(resid_pre, h, config, attend=attend_in_blocks):
    """One transformer block: attention, then MLP, each reading a layer norm of the residual stream and adding to it.

    Hands out (name, array) for each activation as soon as it is made, under its TransformerLens name. What is written
    into an array there is what everything after it reads: that is an intervention. The last array, resid_post, is what
    the next block reads.
    """
    for name, array in attention_layer(resid_pre, h, config, attend):
        yield name, array
    yield from mlp_layer(array, h, config)


def attention_layer(resid_pre, h, config, attend=attend_in_blocks, rows=slice(None)):
    """The first half of a block. `rows` are the positions whose output is wanted, all by default: the others are read
    as keys and values only. attend(q, k, v) may bring keys and values from elsewhere, such as a cache."""
    yield "resid_pre", resid_pre
    x = layer_norm(resid_pre, *h.ln_1, config.layer_norm_epsilon)
    q, k, v = split_qkv(linear(x, *h.attn.c_attn), config.n_head)
    yield from (("q", q), ("k", k), ("v", v))
    z = attend(q[..., rows, :], k, v)
    yield "z", z
    attn_out = linear(merge_heads(z), *h.attn.c_proj)
    yield "attn_out", attn_out
    yield "resid_mid", resid_pre[..., rows, :] + attn_out


def mlp_layer(resid_mid, h, config):
    """The second half of a block."""
    mlp_out = mlp(layer_norm(resid_mid, *h.ln_2, config.layer_norm_epsilon), *h.mlp)
    yield "mlp_out", mlp_out
    yield "resid_post", resid_mid + mlp_out


def unembed(resid, ln_f, wte, eps):
    """The final layer norm, then each token's logit: the product with its own embedding row (tied weights)."""
    return linear(layer_norm(resid, *ln_f, eps), wte.T)  # [..., n_seq, n_vocab]


def forward(tokens, weights, config):
    """The whole of GPT-2. tokens [..., n_seq] -> logits [..., n_seq, n_vocab]."""
    resid = embed(tokens, weights.wte, weights.wpe)
    for h in weights.h:
        for _, resid in block(resid, h, config):  # the last array that a block hands out is what the next one reads
            pass
    return unembed(resid, weights.ln_f, weights.wte, config.layer_norm_epsilon)
