"""The sweep: patch every place of a site, one patch at a time in meaning, and read the metric after each.

`sweep_one_by_one` does what the words say: overwrite the stream, resume the model, read the last position's logits.
`sweep` takes the same arguments and returns the same numbers from one pass through the layers that carries all patches
together. It is exact, because

  - a patch at (layer, position) changes no layer below it and no position before it: it is carried as the suffix of a
    stream that joins the pass at its layer, and reads the keys and values of earlier positions from the base run;
  - everything but attention treats positions separately, so the rows of all patches share each matrix product;
  - behind the last attention only the last position is read, and a logit difference needs two rows of wte;
  - up to the first differing token both runs are the same, and a patch there is the base run itself.

Read sites.py for what each patch overwrites, plan.py for the arguments, model.py for the arithmetic of both versions.
"""

from itertools import groupby
from typing import NamedTuple

import numpy as np

from minigpt2 import model as m
from minigpt2.gpt2 import check_finite, quiet

from .metrics import check_value
from .plan import Plan


def sweep_one_by_one(model, pair, site="resid_post", *, keep_logits=False, progress=None, **choices):
    """The plain sweep: each patch by itself, through all blocks above it and the whole unembedding."""
    plan = Plan(model, pair, site, **choices)
    result = plan.result(keep_logits)
    for done, patch in enumerate(plan.patches(), start=1):
        stream, layer, at = plan.overwrite(patch)  # [n_seq, n_embd]
        logits = model.resume(stream, layer, at)[-1]  # [n_vocab]
        record(result, patch, plan.metric, logits)
        if progress:
            progress(done, plan.n_patches)
    return result


def sweep(model, pair, site="resid_post", *, keep_logits=False, progress=None, **choices):
    """Patch every place of a site and read the metric after each, all patches in one pass through the layers.

    pair is a PromptPair. The choices are direction, metric, alpha, layers, heads and positions (see plan.Question). keep_logits
    keeps the last position's logits of every patch, n_vocab numbers each. progress(done, total) is called as it goes.
    Returns a Result. Raises ValueError, with the remedy, for anything that cannot be patched, and FloatingPointError
    for a patch that overflows, naming its layer.
    """
    plan = Plan(model, pair, site, **choices)
    result = plan.result(keep_logits)
    tokens = None if keep_logits else plan.metric.tokens
    done = 0
    for batch in batches(plan):
        arrivals = [arrival for patch in batch if (arrival := arrive(plan, patch))]
        with quiet():  # check_finite speaks instead
            carried = one_pass(model, plan.base, arrivals)
        for some, resid in in_groups(*carried):
            for arrival, logits in zip(some, plan.logits(resid, tokens)):
                record(result, arrival.patch, plan.metric, logits, tokens)
        done += len(batch)
        if progress:
            progress(done, plan.n_patches)
    return result


def record(result, patch, metric, logits, tokens=None):
    """Enter one patch's value; logits are those of `tokens`, or of the whole vocabulary."""
    value = metric.read(logits if tokens or not metric.tokens else logits[list(metric.tokens)])
    check_value(metric, value, result.values.dtype, lambda: f"after the patch at {place(result, patch)}")
    result.values[patch.index] = value
    if result.logits is not None:
        result.logits[patch.index] = logits


def place(result, patch):
    return ", ".join(f"{axis} {chosen[i]}" for (axis, chosen), i in zip(result.axes.items(), patch.index))


class Arrival(NamedTuple):
    """A patch as it joins the pass: the changed stream from row `first` on."""

    patch: tuple
    layer: int
    at: str
    first: int
    rows: np.ndarray  # [n_seq - first, n_embd]


def arrive(plan, patch):
    """The Arrival of a patch, or None where its value is the base run's because nothing that is read changes."""
    masked = patch.rest[1:] and patch.rest[1] >= patch.at.stop  # an entry of a pattern, which is 0 in both runs
    if masked or patch.at.stop <= plan.tokens.first_difference:
        return None
    stream, layer, at = plan.overwrite(patch)  # [n_seq, n_embd]
    n_layer, n_seq = plan.model.config.n_layer, len(stream)
    if layer < n_layer - (at == "resid_mid"):
        return Arrival(patch, layer, at, patch.first, stream[patch.first :].copy())
    unpatched = plan.base.resid_post if layer == n_layer else plan.base.resid_mid
    if np.array_equal(stream[-1], unpatched[-1, -1]):
        return None
    return Arrival(
        patch, layer, at, n_seq - 1, stream[-1:].copy()
    )  # behind the last attention only the last row is read


def one_pass(model, base, arrivals):
    """Carry changed streams through the layers together, each from where it joins.

    base is the Run that was patched. Returns the arrivals in a new order and, in the same order, their last rows behind
    the last block, [n_patches, n_embd].
    """
    c, eps, streams = model.config, model.config.layer_norm_epsilon, Streams(len(base.tokens))
    for layer, h in enumerate(model.weights.h):
        if streams.join(a for a in arrivals if (a.layer, a.at) == (layer, "resid_pre")):
            last_only = layer == c.n_layer - 1  # behind the last attention only the last position is read
            x = m.linear(m.layer_norm(streams.rows, *h.ln_1, eps), *h.attn.c_attn)  # [n_rows, 3 * n_embd]
            z = [
                attend_behind(group[0].first, part, base.k[layer], base.v[layer], last_only)
                for group, part in streams.split(x)
            ]
            if last_only:
                streams.keep_last_row()
            streams.rows += m.linear(np.concatenate(z), *h.attn.c_proj)
        if streams.join(a for a in arrivals if (a.layer, a.at) == (layer, "resid_mid")):
            streams.rows += m.mlp(m.layer_norm(streams.rows, *h.ln_2, eps), *h.mlp)
            check_finite(streams.rows, f"the residual stream overflowed {model.dtype} in layer {layer}")
    streams.join(a for a in arrivals if a.layer == c.n_layer)
    return streams.members, streams.rows


def attend_behind(first, qkv, base_k, base_v, last_only):
    """Attention of changed suffixes that begin at position `first`, behind the base run's keys and values of the others.

    qkv [n_patches, n_seq - first, 3 * n_embd]; base_k, base_v [n_head, n_seq, d_head]. The queries are the last of n_seq
    positions, which is how model.causal_mask counts them. Returns z as rows, [n_patches * n_queries, n_embd].
    """
    q, k, v = m.split_qkv(qkv, len(base_k))  # [n_patches, n_head, n_seq - first, d_head]
    k, v = behind(base_k[:, :first], k), behind(base_v[:, :first], v)  # [n_patches, n_head, n_seq, d_head]
    z = m.merge_heads(m.attend_in_blocks(q[..., -1:, :] if last_only else q, k, v))
    return z.reshape(-1, z.shape[-1])


def behind(prefix, suffixes):
    """The same prefix [n_head, first, d_head] in front of each patch's suffix."""
    first = prefix.shape[-2]
    whole = np.empty((*suffixes.shape[:-2], first + suffixes.shape[-2], suffixes.shape[-1]), suffixes.dtype)
    whole[..., :first, :], whole[..., first:, :] = prefix, suffixes
    return whole


class Streams:
    """The changed streams under way, as one matrix `rows` [n_rows, n_embd].

    `members` are their arrivals in the order of the rows: sorted by the position they begin at, so that those that begin
    together lie together and their attention is one call.
    """

    def __init__(self, n_seq):
        self.n_seq, self.members, self.rows = n_seq, [], None

    def join(self, arrivals):
        """Let in those that enter here. Returns whether any stream is under way."""
        arrivals = list(arrivals)
        if arrivals:
            parts = [(member, member.rows) for member in arrivals]
            for group, part in self.split(self.rows):
                parts += zip(group, part)
            parts.sort(key=lambda part: part[0].first)
            self.members = [member for member, _ in parts]
            self.rows = np.concatenate([rows for _, rows in parts])
        return bool(self.members)

    def split(self, rows):
        """Cut a matrix with a row for each of self.rows into the groups of members that begin together, each with its
        part of the matrix, [n_patches, n_seq - first, n]."""
        start = 0
        for first, group in groupby(self.members, key=lambda member: member.first):
            group = list(group)
            stop = start + len(group) * (self.n_seq - first)
            yield group, rows[start:stop].reshape(len(group), self.n_seq - first, -1)
            start = stop

    def keep_last_row(self):
        """Drop all rows but each stream's last."""
        ends = np.cumsum([self.n_seq - member.first for member in self.members])
        self.rows = self.rows[ends - 1]
        self.members = [member._replace(first=self.n_seq - 1) for member in self.members]


def in_groups(members, rows, n=128):
    """Pieces of at most n patches, so that reading a metric off the whole vocabulary stays small."""
    for start in range(0, len(members), n):
        yield members[start : start + n], rows[start : start + n]


def batches(plan, budget=96 << 20):
    """The patches in batches whose streams fit the budget (bytes), those of one position together, as is their attention.

    A row has its stream, the norm of it, q, k, v, z, and the MLP's 4 to 8 n_embd; a patch has k and v for all positions.
    """
    n_seq = len(plan.tokens.clean)
    number = plan.model.config.n_embd * np.dtype(plan.model.dtype).itemsize
    batch, size = [], 0
    for patch in plan.patches("position"):
        needs = (16 * (n_seq - patch.first) + 2 * n_seq) * number
        if batch and size + needs > budget:
            yield batch
            batch, size = [], 0
        batch.append(patch)
        size += needs
    if batch:
        yield batch
