"""GPT-2's backward pass by hand: model.py in a mirror. Read the two side by side, this one from the bottom up.

For each function y = f(x, ...) of model.py there is one f_backward(dy, x, ...) with the same inputs after the gradient
that comes in, and it returns the gradient that goes out. dx always means d(loss) / dx and has the shape of x. Where f has
weights, `into` names the arrays that receive their gradients; None skips them, for those who ask about activations only.

What a forward function made on the way (a pattern, an MLP's inside) is made again instead of being kept: it costs about
a third of a forward pass and saves the memory. No tape, no autograd: the chain rule, read from right to left.

Two entry points: loss_and_gradients (training, all weights) and activation_gradients (interpretability, all activations).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from . import model as m
from .gpt2 import Run
from .model import MLP, Attn, Block, Config, Weights
from .overwrite import put


def rows(x):
    """x [..., n] as a matrix, one row a position."""
    return x.reshape(-1, x.shape[-1])


def embed_backward(dx, tokens, into):
    """A row of wte gathers the gradients of every place where its token stands; a row of wpe, of its position."""
    np.add.at(into.wte, tokens, dx)
    into.wpe[: tokens.shape[-1]] += dx.reshape(-1, *dx.shape[-2:]).sum(axis=0)


def layer_norm_backward(dy, x, weight, eps, into=None):
    """y = weight * n + bias with n = (x - mean) / s. Mean and s read x too; what flows back through them is the part of
    dn along the constant vector and along n itself:  dx = (dn - mean(dn) - n * mean(dn * n)) / s,
    where dn = dy * weight."""
    n = x - x.mean(axis=-1, keepdims=True)
    s = np.sqrt(np.vecdot(n, n)[..., None] / x.shape[-1] + eps)  # [..., n_seq, 1]
    n /= s
    if into is not None:
        np.sum(rows(dy * n), axis=0, out=into.weight)
        np.sum(rows(dy), axis=0, out=into.bias)
    dx = dy * weight
    along_n = np.vecdot(dx, n)[..., None] / x.shape[-1]  # [..., n_seq, 1]
    dx -= dx.mean(axis=-1, keepdims=True)
    dx -= n * along_n
    dx /= s
    return dx


def linear_backward(dy, x, weight, into=None):
    """y = x W + b:  dx = dy W^T,  dW = x^T dy,  db = sum of dy over all positions."""
    if into is not None:
        np.matmul(rows(x).T, rows(dy), out=into.weight)
        np.sum(rows(dy), axis=0, out=into.bias)
    return (rows(dy) @ weight.T).reshape(x.shape)


def softmax_backward(dy, y):
    """y = softmax(x), from its output:  dx = y * (dy - sum(y * dy)), since dy_i/dx_j = y_i (delta_ij - y_j)."""
    dx = dy - np.vecdot(y, dy)[..., None]
    dx *= y
    return dx


def attend_backward(dz, q, k, v, size=None):
    """z = P v with P = softmax(q k^T / sqrt(d_head)). A masked entry of P is 0, so no gradient passes it.

    A block of queries at a time, as model.attend_in_blocks. Returns dq, dk, dv [..., n_head, n_seq, d_head].
    """
    dq, dk, dv, root = np.empty_like(q), np.zeros_like(k), np.zeros_like(v), math.sqrt(q.shape[-1])
    for at, seen in m.query_blocks(q.shape[-2], k.shape[-2], size):
        pattern = m.attention_pattern(q[..., at, :], k[..., seen, :])  # [..., n_head, n_q, n_k]
        dv[..., seen, :] += pattern.swapaxes(-1, -2) @ dz[..., at, :]
        dscores = softmax_backward(
            pattern_backward(dz[..., at, :], v[..., seen, :]), pattern
        )  # [..., n_head, n_q, n_k]
        dq[..., at, :] = dscores @ (k[..., seen, :] / root)
        dk[..., seen, :] += dscores.swapaxes(-1, -2) @ (q[..., at, :] / root)
    return dq, dk, dv


def attend_backward_with(writes):
    """attend_backward where rows of the pattern were overwritten: they still weigh the values, but no query or key
    made them."""
    if not any(write.name == "pattern" for write in writes):
        return attend_backward

    def attend_overwritten_backward(dz, q, k, v):
        root, pattern = math.sqrt(q.shape[-1]), m.attention_pattern(q, k)
        computed = pattern.copy()
        put(writes, "pattern", pattern, None, None)
        dpattern = pattern_backward(dz, v)
        stop_gradients(writes, "pattern", dpattern)
        dscores = softmax_backward(dpattern, computed)  # [..., n_head, n_q, n_k]
        return dscores @ (k / root), dscores.swapaxes(-1, -2) @ (q / root), pattern.swapaxes(-1, -2) @ dz

    return attend_overwritten_backward


def stop_gradients(writes, name, gradient):
    """What was overwritten was not made by what comes before it: no gradient passes. What was added to lets it pass."""
    for write in writes:
        if write.name == name and not write.add:
            write._replace(value=0).into(gradient)


def pattern_backward(dz, v):
    """z = P v:  dP = dz v^T, for masked entries too, whatever would be written there."""
    return dz @ v.swapaxes(-1, -2)  # [..., n_head, n_q, n_k]


def split_qkv_backward(dq, dk, dv):
    """The three gradients side by side again."""
    return np.concatenate(
        [m.merge_heads(dq), m.merge_heads(dk), m.merge_heads(dv)], axis=-1
    )  # [..., n_seq, 3 * n_embd]


def gelu_slope(x):
    """The derivative of y = x/2 (1 + t), t = tanh(u), u = s (x + 0.044715 x^3):  (1 + t)/2 + x/2 (1 - t^2) du/dx."""
    t = np.tanh(m.GELU_SCALE * (x + 0.044715 * (x * x * x)))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (m.GELU_SCALE * (1 + 3 * 0.044715 * (x * x)))


NO_MLP = MLP(None, None)  # type: ignore[arg-type]  # no arrays to fill


def mlp_backward(dy, x, c_fc, c_proj, into=NO_MLP):
    """Back through c_proj, GELU and c_fc."""
    before = m.linear(x, *c_fc)  # [..., n_seq, d_mlp]
    after = (
        m.in_pieces(m.gelu, before.copy()) if into.c_proj is not None else before
    )  # only c_proj's own gradient reads it
    dx = linear_backward(dy, after, c_proj.weight, into.c_proj)
    dx *= m.in_pieces(gelu_slope, before)
    return linear_backward(dx, x, c_fc.weight, into.c_fc)


NOTHING = Block(None, Attn(None, None), None, NO_MLP)  # type: ignore[arg-type]


def block_backward(d_resid_post, resid_pre, made, h, config, into=NOTHING, attend_backward=attend_backward):
    """One block, last step first. The stream's own gradient passes every `+` unchanged; each layer adds to it what flows
    back through its reading of the stream.

    made holds what model.block handed out for resid_pre. Hands out (name, gradient) for each activation as soon as it is
    made, and what is written into it there is what flows on: zero stops it. The last one is resid_pre's.
    """
    eps = config.layer_norm_epsilon
    yield "resid_post", d_resid_post
    d_mlp_out = d_resid_post.copy()
    yield "mlp_out", d_mlp_out
    dx = mlp_backward(d_mlp_out, m.layer_norm(made["resid_mid"], *h.ln_2, eps), *h.mlp, into.mlp)
    d_resid_mid = d_resid_post + layer_norm_backward(dx, made["resid_mid"], h.ln_2.weight, eps, into.ln_2)
    yield "resid_mid", d_resid_mid

    d_attn_out = d_resid_mid.copy()
    yield "attn_out", d_attn_out
    dz = linear_backward(d_attn_out, m.merge_heads(made["z"]), h.attn.c_proj.weight, into.attn.c_proj)
    dz = m.split_heads(dz, config.n_head)
    yield "z", dz
    dq, dk, dv = attend_backward(dz, made["q"], made["k"], made["v"])
    yield from (("v", dv), ("k", dk), ("q", dq))
    dqkv = split_qkv_backward(dq, dk, dv)
    dx = linear_backward(dqkv, m.layer_norm(resid_pre, *h.ln_1, eps), h.attn.c_attn.weight, into.attn.c_attn)
    yield "resid_pre", d_resid_mid + layer_norm_backward(dx, resid_pre, h.ln_1.weight, eps, into.ln_1)


def unembed_backward(dlogits, resid, ln_f, wte, eps, into=None):
    """logits = ln_f(resid) wte^T:  dx = dlogits wte,  dwte = dlogits^T x (embed_backward adds the other half)."""
    if into is not None:
        np.matmul(rows(dlogits).T, rows(m.layer_norm(resid, *ln_f, eps)), out=into.wte)
    dx = (rows(dlogits) @ wte).reshape(resid.shape)
    return layer_norm_backward(dx, resid, ln_f.weight, eps, into and into.ln_f)


def cross_entropy(logits, targets, weight):
    """The mean of -log softmax(logits)[target], weighted; returns it with its gradient, weight * (softmax - one-hot),
    which is written over the logits: of a long batch they are the largest array there is."""
    at, weight = targets[..., None], weight / weight.sum()
    logits -= logits.max(axis=-1, keepdims=True)
    of_targets = np.take_along_axis(logits, at, axis=-1)[..., 0]  # [..., n_seq]
    p = np.exp(logits, out=logits)
    total = p.sum(axis=-1)
    losses = np.log(total) - of_targets  # [..., n_seq], nats
    p *= (weight / total)[..., None]
    np.put_along_axis(p, at, np.take_along_axis(p, at, axis=-1) - weight[..., None], axis=-1)
    return float((losses * weight).sum()), p


def loss_and_gradients(
    tokens: np.ndarray, weights: Weights, config: Config, mask: np.ndarray | None = None, into: Weights | None = None
) -> tuple[float, Weights]:
    """The language-modelling loss of a batch and its gradient by every weight.

    tokens [n_batch, n_seq], integers; each position but the last predicts the next one. mask [n_batch, n_seq - 1] weighs
    the predictions (all alike by default). into is a Weights of arrays to fill (zeros_like(weights) by default). Returns
    (mean loss in nats, into). Raises ValueError for tokens or a mask that cannot be used.
    """
    tokens = check_training_batch(tokens, mask, config)
    into = zeros_like(weights) if into is None else into
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    mask = np.ones(targets.shape, weights.wte.dtype) if mask is None else np.asarray(mask, weights.wte.dtype)
    stream, made, logits = forward_keeping(inputs, weights, config)
    loss, dlogits = cross_entropy(logits, targets, mask)
    weight_gradients(dlogits, inputs, stream, made, weights, config, into)
    return loss, into


def check_training_batch(tokens, mask, config):
    """tokens as an array, or a ValueError."""
    tokens = np.asarray(tokens)
    n_seq = tokens.shape[1] - 1 if tokens.ndim == 2 else 0
    if tokens.dtype.kind not in "iu" or not 1 <= n_seq <= config.n_ctx or not len(tokens):
        raise ValueError(
            f"a batch must be integers [n_batch, n_seq] with n_seq from 2 to {config.n_ctx + 1}, got "
            f"{tokens.dtype} {list(tokens.shape)}"
        )
    if tokens.min() < 0 or tokens.max() >= config.n_vocab:
        raise ValueError(
            f"the batch has token ids {tokens.min()} to {tokens.max()}, and the model 0 to {config.n_vocab - 1}"
        )
    if mask is not None and (np.shape(mask) != (len(tokens), n_seq) or not np.sum(mask) > 0):
        raise ValueError(
            f"the mask must weigh {[len(tokens), n_seq]} predictions with a sum above 0, got {list(np.shape(mask))} with "
            f"{np.sum(mask):.4g}"
        )
    return tokens


def forward_keeping(tokens, weights, config):
    """model.forward with all that the way back reads: every resid_pre and the last resid_post, what each block made,
    and the logits."""
    stream, made = [m.embed(tokens, weights.wte, weights.wpe)], []
    for h in weights.h:
        made.append(dict(m.block(stream[-1], h, config)))
        stream.append(made[-1]["resid_post"])
    return stream, made, m.unembed(stream[-1], weights.ln_f, weights.wte, config.layer_norm_epsilon)


def weight_gradients(dlogits, tokens, stream, made, weights, config, into):
    """The whole way back, from the logits to the embeddings; fills into."""
    d_resid = unembed_backward(dlogits, stream[-1], weights.ln_f, weights.wte, config.layer_norm_epsilon, into)
    for h, h_into, resid_pre, activations in reversed(list(zip(weights.h, into.h, stream, made))):
        for _, d_resid in block_backward(d_resid, resid_pre, activations, h, config, h_into):
            pass
    into.wpe[:] = 0
    embed_backward(d_resid, tokens, into)  # adds to what unembed_backward left in wte: the weights are tied


def activation_gradients(run: Run, dlogits: np.ndarray, keep: Iterable[str] | None = None) -> "Gradients":
    """The gradient of a metric by every activation of a run, for a metric that reads the last position's logits.

    dlogits [n_vocab] is d(metric) / d(run.logits[-1]). keep names the gradients to hold, all by default (at n_ctx tokens
    pattern alone takes 600 MB in GPT-2 small). attn_out's gradient is resid_mid's, and mlp_out's is resid_post's:
    what is added to the stream moves the metric as the stream does. Raises ValueError for another shape or name.
    """
    names = [field.name for field in fields(Gradients)]
    keep = names if keep is None else list(keep)
    if unknown := [name for name in keep if name not in names]:
        raise ValueError(f"there is no gradient {unknown[0]!r} to keep: they are {', '.join(names)}")
    kept = {}
    for layer, gradients in layer_gradients(run, dlogits, pattern="pattern" in keep):
        for name in keep:
            if name not in kept:
                kept[name] = np.empty((run.model.config.n_layer, *gradients[name].shape), gradients[name].dtype)
            kept[name][layer] = gradients[name]
    return Gradients(**kept)


def layer_gradients(
    run: Run, dlogits: np.ndarray, pattern: bool = False
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The same, a layer at a time from the last one down: yields (layer, {name: gradient}), pattern's only if asked for.

    Where a run was made under overwrites, each gradient is that of the value which stood there, and nothing flows on from
    it to what came before.
    """
    model, config = run.model, run.model.config
    dlogits = np.asarray(dlogits, model.dtype)
    if dlogits.shape != (config.n_vocab,):
        raise ValueError(
            f"dlogits must have the shape of one position's logits, [{config.n_vocab}], got {list(dlogits.shape)}"
        )
    d_resid = np.zeros_like(run.resid_post[-1])  # [n_seq, n_embd]
    d_resid[-1:] = unembed_backward(
        dlogits[None], run.resid_post[-1][-1:], model.weights.ln_f, model.weights.wte, config.layer_norm_epsilon
    )
    for layer in reversed(range(config.n_layer)):
        made = {name: getattr(run, name)[layer] for name in ("q", "k", "v", "z", "resid_mid")}
        writes, h, gradients = run.writes.get(layer, ()), model.weights.h[layer], {}
        d_resid = d_resid.copy() if writes else d_resid
        back = block_backward(d_resid, run.resid_pre[layer], made, h, config, NOTHING, attend_backward_with(writes))
        for name, d_resid in back:
            if name == "z":
                stop_gradients(writes, "result", d_resid)  # what a head adds was overwritten: its z has no effect
            gradients[name] = d_resid.copy() if writes else d_resid
            stop_gradients(writes, name, d_resid)
            if name == "z" and pattern:
                gradients["pattern"] = pattern_backward(d_resid, run.v[layer])
        yield layer, gradients


@dataclass(frozen=True, eq=False, repr=False)
class Gradients:
    """d(metric) / d(activation) under the names and with the shapes of Run; None for what was not kept."""

    resid_pre: np.ndarray | None = None
    resid_mid: np.ndarray | None = None
    resid_post: np.ndarray | None = None
    attn_out: np.ndarray | None = None
    mlp_out: np.ndarray | None = None
    q: np.ndarray | None = None
    k: np.ndarray | None = None
    v: np.ndarray | None = None
    pattern: np.ndarray | None = None
    z: np.ndarray | None = None


def zeros_like(weights: Any) -> Any:
    """Arrays of the same shapes under the same names, for gradients."""
    if isinstance(weights, np.ndarray):
        return np.zeros_like(weights)
    parts = [zeros_like(part) for part in weights]
    return type(weights)(*parts) if hasattr(weights, "_fields") else tuple(parts)
