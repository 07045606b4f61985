"""What can be patched. Every site is an overwrite of the residual stream, and each function here says which one.

base is the run that is patched, source the run that the vectors come from, `at` the positions (a slice: one, or all).
A site returns the changed residual stream [n_seq, n_embd] and where it enters the model again: a layer, and "resid_pre"
(before that block's attention) or "resid_mid" (between its attention and its MLP). Entering at resid_pre of the layer
above is resid_post. alpha blends: 1 writes the source's vector, 0 the base's own.

To add a site: write its function, add its line to SITES; sweeps, pictures and words know it from there. It may change the
rows from `at` on, never earlier ones: the one pass carries a patch as the suffix that begins there.

At alpha 1 some maps are the same by construction: resid_pre of a layer is resid_post of the one below, and resid_mid gives
what resid_post gives, since the MLP between them treats every position by itself.
"""

from collections.abc import Callable
from typing import NamedTuple

from minigpt2 import model as m


def overwritten(old, new, at, alpha):
    """A copy of old with (1 - alpha) old + alpha new written over the rows `at`."""
    written = old.copy()
    written[at] = (1 - alpha) * old[at] + alpha * new[at]
    return written


def resid_pre(base, source, alpha, layer, at):
    return overwritten(base.resid_pre[layer], source.resid_pre[layer], at, alpha), layer, "resid_pre"


def resid_mid(base, source, alpha, layer, at):
    return overwritten(base.resid_mid[layer], source.resid_mid[layer], at, alpha), layer, "resid_mid"


def resid_post(base, source, alpha, layer, at):
    return overwritten(base.resid_post[layer], source.resid_post[layer], at, alpha), layer + 1, "resid_pre"


def attn_out(base, source, alpha, layer, at):
    attn_out = overwritten(base.attn_out[layer], source.attn_out[layer], at, alpha)
    return base.resid_pre[layer] + attn_out, layer, "resid_mid"


def mlp_out(base, source, alpha, layer, at):
    mlp_out = overwritten(base.mlp_out[layer], source.mlp_out[layer], at, alpha)
    return base.resid_mid[layer] + mlp_out, layer + 1, "resid_pre"


def z(base, source, alpha, layer, at, head):
    z = overwritten(base.z[layer, head], source.z[layer, head], at, alpha)
    return head_writes(base, layer, head, z, at), layer, "resid_mid"


def q(base, source, alpha, layer, at, head):
    q = overwritten(base.q[layer, head], source.q[layer, head], at, alpha)
    z = m.attend(q, base.k[layer, head], base.v[layer, head])
    return head_writes(base, layer, head, z, at), layer, "resid_mid"


def k(base, source, alpha, layer, at, head):
    k = overwritten(base.k[layer, head], source.k[layer, head], at, alpha)
    z = m.attend(base.q[layer, head], k, base.v[layer, head])
    return head_writes(base, layer, head, z, slice(at.start, None)), layer, "resid_mid"  # all later queries read it


def v(base, source, alpha, layer, at, head):
    v = overwritten(base.v[layer, head], source.v[layer, head], at, alpha)
    z = m.attend(base.q[layer, head], base.k[layer, head], v)
    return head_writes(base, layer, head, z, slice(at.start, None)), layer, "resid_mid"


def pattern(base, source, alpha, layer, at, head):
    """The row of a destination: where that position looks, its values being the base's."""
    pattern = overwritten(pattern_of(base, layer, head), pattern_of(source, layer, head), at, alpha)
    return head_writes(base, layer, head, pattern @ base.v[layer, head], at), layer, "resid_mid"


def pattern_entry(base, source, alpha, layer, at, head, read):
    """One entry: how much the destination `at` takes from the position `read`. The row need not sum to 1 afterwards."""
    pattern = pattern_of(base, layer, head)
    pattern[at] = overwritten(pattern.T, pattern_of(source, layer, head).T, read, alpha).T[at]
    return head_writes(base, layer, head, pattern @ base.v[layer, head], at), layer, "resid_mid"


def pattern_of(run, layer, head):
    return m.attention_pattern(run.q[layer, head], run.k[layer, head])  # [n_seq, n_seq]


def head_writes(base, layer, head, z, rows):
    """resid_mid after one head's z has changed in some rows: a head writes to the stream through its slice of c_proj."""
    d_head = z.shape[-1]
    c_proj = base.model.weights.h[layer].attn.c_proj.weight[head * d_head : (head + 1) * d_head]  # [d_head, n_embd]
    stream = base.resid_mid[layer].copy()
    stream[rows] += (z[rows] - base.z[layer, head, rows]) @ c_proj
    return stream


class Site(NamedTuple):
    overwrite: Callable
    axes: tuple  # of values, in order
    activation: str = None  # the one of a Run that it blends, for attribution; None where it is more than one
    words: str = "what {} patch overwrites"  # in "each" layer or head, or "a" certain one
    cell: str = "layer {layer}"  # where one patch is made


BY_POSITION, BY_HEAD = ("layer", "position"), ("layer", "head", "position")

SITES = {
    "resid_pre": Site(
        resid_pre, BY_POSITION, "resid_pre", "the residual stream in front of {} layer", "in front of layer {layer}"
    ),
    "resid_mid": Site(
        resid_mid, BY_POSITION, "resid_mid", "the residual stream between attention and MLP of {} layer",
        "in the middle of layer {layer}",
    ),
    "resid_post": Site(
        resid_post, BY_POSITION, "resid_post", "the residual stream behind {} layer", "behind layer {layer}"
    ),
    "attn_out": Site(
        attn_out, BY_POSITION, "attn_out", "what the attention of {} layer adds", "the attention of layer {layer}"
    ),
    "mlp_out": Site(mlp_out, BY_POSITION, "mlp_out", "what the MLP of {} layer adds", "the MLP of layer {layer}"),
    "z": Site(z, BY_HEAD, "z", "what {} head has read", "head {layer}.{head}"),
    "q": Site(q, BY_HEAD, "q", "the queries of {} head", "the query of head {layer}.{head}"),
    "k": Site(k, BY_HEAD, "k", "the keys of {} head", "the key of head {layer}.{head}"),
    "v": Site(v, BY_HEAD, "v", "the values of {} head", "the value of head {layer}.{head}"),
    "pattern": Site(
        pattern, BY_HEAD, "pattern", "where {} head looks", "the attention pattern of head {layer}.{head}"
    ),
    "pattern_entry": Site(
        pattern_entry, (*BY_HEAD, "source"), "pattern", "where {} head looks, one source at a time",
        "the attention of head {layer}.{head}",
    ),
}  # fmt: skip
