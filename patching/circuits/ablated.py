"""A model of which only a circuit is left: everything outside reads, or gives, what an ablated run has.

For a circuit of edges each reader has an input of its own: the ablated stream, plus for each edge that is in the difference
between what its writer gives here and what it gives in the ablated run. Heads are simpler: z is overwritten where it is not in
the circuit, and the model runs on.
"""

from typing import NamedTuple

import numpy as np

from minigpt2 import model as m
from minigpt2.checks import check_finite, quiet
from minigpt2.overwrite import Overwrite

ABLATIONS = ("other run", "mean", "zero")


class Ablated(NamedTuple):
    """What every writer gives, and the stream that is their sum, in the ablated run."""

    z: np.ndarray  # [n_layer, n_head, n_seq, d_head]
    mlp_out: np.ndarray  # [n_layer, n_seq, n_embd]
    resid_pre: np.ndarray  # [n_layer, n_seq, n_embd]
    resid_mid: np.ndarray  # [n_layer, n_seq, n_embd]
    resid_post: np.ndarray  # [n_layer, n_seq, n_embd]


def of_run(run):
    """Another text's run: resample ablation."""
    return Ablated(*(getattr(run, name) for name in Ablated._fields))


def of_mean(model, texts):
    """The mean over texts of one length, position by position."""
    if len(lengths := sorted({len(text) for text in texts})) > 1:
        raise ValueError(
            f"a mean at each position needs texts of equal length, got {' and '.join(map(str, lengths))} tokens"
        )
    total = None
    for text in texts:
        run = of_run(model.run(text, keep=["z", "mlp_out", "resid_mid"]))
        arrays = [array.astype(np.float64) for array in run]
        total = arrays if total is None else [a + b for a, b in zip(total, arrays)]
    return Ablated(*((array / len(texts)).astype(model.dtype) for array in total))


def of_zero(model, n_seq):
    """Nothing but the bias of each attention layer's c_proj, which is no head's."""
    c, dtype = model.config, model.dtype
    biases = np.cumsum([np.zeros(c.n_embd, dtype), *(h.attn.c_proj.bias for h in model.weights.h)], axis=0)
    stream = np.broadcast_to(biases[:, None], (c.n_layer + 1, n_seq, c.n_embd))
    z = np.zeros((c.n_layer, c.n_head, n_seq, c.d_head), dtype)
    return Ablated(z, np.zeros((c.n_layer, n_seq, c.n_embd), dtype), stream[:-1], stream[1:], stream[1:])


def run_edges(model, texts, ablated, mask):
    """The last row of the stream after the last block, [n_texts, n_embd], where a reader reads a writer as it is here if
    mask [n_writers, n_readers] says so, and as it is in the ablated run if not.

    texts [n_texts, n_seq]; ablated has arrays with the texts as an axis after the layer, or one for all.
    """
    c, weights, n_of_layer = model.config, model.weights, 3 * model.config.n_head + 1
    eps, row, mask = c.layer_norm_epsilon, 1, mask.astype(model.dtype)
    own = np.zeros((len(mask), *texts.shape, c.n_embd), model.dtype)  # what each writer gives here, less the ablated
    own[0] = m.embed(texts, weights.wte, weights.wpe) - ablated.resid_pre[0]
    for layer, h in enumerate(weights.h):
        inside = mask[:row, layer * n_of_layer : (layer + 1) * n_of_layer - 1]
        x = ablated.resid_pre[layer] + np.tensordot(inside.T, own[:row], 1)  # [3 * n_head, n_texts, n_seq, n_embd]
        q, k, v = read_by_heads(m.layer_norm(x, *h.ln_1, eps), h, c)
        z = m.attend_in_blocks(q, k, v)  # [n_texts, n_head, n_seq, d_head]
        own[row : row + c.n_head] = m.head_results(z - ablated.z[layer], h.attn.c_proj.weight).swapaxes(0, 1)
        row += c.n_head
        x = ablated.resid_mid[layer] + np.tensordot(mask[:row, (layer + 1) * n_of_layer - 1], own[:row], 1)
        own[row] = m.mlp(m.layer_norm(x, *h.ln_2, eps), *h.mlp) - ablated.mlp_out[layer]
        check_finite(own[row], f"the circuit's streams overflowed {model.dtype} in layer {layer}")
        row += 1
    return (ablated.resid_post[-1] + np.tensordot(mask[:, -1], own, 1))[..., -1, :]


def read_by_heads(x, h, config):
    """q, k and v, each head from its own input: x [3 * n_head, n_texts, n_seq, n_embd] -> 3 x [n_texts, n_head, n_seq,
    d_head]."""
    c, n = config, 3 * config.n_head
    weight = h.attn.c_attn.weight.reshape(c.n_embd, n, c.d_head).swapaxes(0, 1)  # [3 * n_head, n_embd, d_head]
    made = x @ weight[:, None] + h.attn.c_attn.bias.reshape(n, 1, 1, c.d_head)
    return (part.swapaxes(0, 1) for part in np.split(made, 3))


def run_heads(model, text, ablated, heads):
    """The same for a circuit of heads, {(layer, head): positions or None}; embedding and MLPs run on."""
    c, overwrites = model.config, []
    for layer in range(c.n_layer):
        for head in range(c.n_head):
            inside = heads.get((layer, head), ())
            outside = [] if inside is None else [p for p in range(len(text)) if p not in inside]
            if outside:
                value = ablated.z[layer, head, outside]
                overwrites.append(Overwrite(layer, "z", value, [head], outside))
    with quiet():
        return model.run(text, keep=[], overwrites=overwrites).resid_post[-1, -1]
