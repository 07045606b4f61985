"""One pass through the layers that carries many patched streams: what sweeps.sweep is made of.

A patch joins where its first write is made (join_of, entry), as the suffix of a stream from the first position that it
changes; `one_pass` then takes all of them through the layers together, by model.py's own halves of a block, and writes into
the arrays what the base run overwrites and what each patch has still to write. Streams keeps the rows in order.
"""

from itertools import groupby
from typing import NamedTuple

import numpy as np

from minigpt2 import model as m
from minigpt2.checks import check_finite, quiet
from minigpt2.overwrite import as_writes, put


class Arrival(NamedTuple):
    """A patch as it joins the pass: the changed stream from row `first` on, before block `layer` or in its middle, and
    what is still to be written into it on its way, by layer."""

    patch: tuple
    layer: int
    at: str  # "resid_pre" or "resid_mid"
    first: int
    rows: np.ndarray  # [n_seq - first, n_embd]
    writes: dict


def join_of(plan, patch):
    """The Arrival of a patch, or None where its value is the base run's because nothing that is read changes."""
    positions, read = patch.places[0].positions, patch.places[0].read
    masked = read is not None and read >= positions.stop  # an entry of a pattern, which is 0 in both runs
    if masked or max(each.positions.stop for each in patch.places) <= plan.first_change:
        return None
    return arrival_of(plan, patch, plan.first_row(patch), as_writes(plan.overwrites(patch)))


def arrival_of(plan, patch, first, writes):
    """The Arrival of what some writes change from position `first` on, or None where nothing that is read changes."""
    lowest = min(writes)
    with quiet():
        stream, layer, at = entry(plan.base, writes)  # [n_seq, n_embd]
    check_finite(stream, f"the patched stream overflowed {plan.model.dtype} in layer {lowest}")
    n_layer, n_seq = plan.model.config.n_layer, len(stream)
    if layer < n_layer - (at == "resid_mid"):
        return Arrival(patch, layer, at, first, stream[first:].copy(), writes)
    unpatched = plan.base.resid_post if layer == n_layer else plan.base.resid_mid
    if not writes and np.array_equal(stream[-1], unpatched[-1, -1]):
        return None
    # after the last attention layer only the last row matters
    return Arrival(patch, layer, at, n_seq - 1, stream[-1:].copy(), writes)


def entry(base, writes):
    """Where the stream of a patch joins the pass: (stream [n_seq, n_embd], layer, "resid_pre" or "resid_mid").

    In the lowest layer that it writes to nothing else has changed, and most of that layer need not be computed again: the
    writes made here are taken out of `writes`. Where the base run was overwritten in that layer, the pass computes all.
    """
    layer = min(writes)
    names = {write.name for write in writes[layer]}
    if layer in base.writes or names & {"resid_pre", "result"}:
        return base.resid_pre[layer], layer, "resid_pre"
    first_half = [write for write in writes[layer] if write.name not in ("mlp_out", "resid_post")]
    if not first_half:
        return after_mlp(base, layer, writes.pop(layer)), layer + 1, "resid_pre"
    writes[layer] = [write for write in writes[layer] if write.name in ("mlp_out", "resid_post")]
    if not writes[layer]:
        del writes[layer]
    return after_attention(base, layer, first_half), layer, "resid_mid"


def after_attention(base, layer, writes):
    """resid_mid after writes to q, k, v, pattern, z, attn_out and itself: a head writes to the stream through its rows of
    c_proj, and everything else in the sum is the base run's."""
    stream = base.resid_mid[layer].copy()
    of_heads = [write for write in writes if write.heads is not None]
    for head, some in groupby(sorted(of_heads, key=lambda write: write.heads[0]), key=lambda write: write.heads[0]):
        z, rows = head_z(base, layer, head, list(some))
        d_head = z.shape[-1]
        c_proj = base.model.weights.h[layer].attn.c_proj.weight[head * d_head : (head + 1) * d_head]  # [d_head, n_embd]
        stream[rows] += (z[rows] - base.z[layer, head, rows]) @ c_proj
    for write in writes:
        if write.name == "attn_out":
            stream[write.positions] = base.resid_pre[layer][write.positions] + write.value
        elif write.name == "resid_mid":
            write.into(stream)
    return stream


def after_mlp(base, layer, writes):
    """resid_post after writes to mlp_out and itself."""
    stream = base.resid_post[layer].copy()
    for write in writes:
        if write.name == "mlp_out":
            stream[write.positions] = base.resid_mid[layer][write.positions] + write.value
        else:
            write.into(stream)
    return stream


def head_z(base, layer, head, writes):
    """z [n_seq, d_head] of one head after writes to its q, k, v, pattern and z, and the rows in which it has changed."""
    made = {name: base.activation(name, layer, head).copy() for name in ("q", "k", "v", "z")}
    start, stop = min(write.positions[0] for write in writes), max(write.positions[-1] for write in writes) + 1
    names = {write.name for write in writes}
    for write in writes:
        if write.name in ("q", "k", "v"):
            made[write.name][write.positions] = write.value[0]
    if names - {"z"}:
        pattern = m.attention_pattern(made["q"], made["k"])
        for write in writes:
            if write.name == "pattern":
                pattern[write.positions] = write.value[0]  # later keys are 0 in it: see Plan.vectors
        made["z"] = pattern @ made["v"]
    for write in writes:
        if write.name == "z":
            made["z"][write.positions] = write.value[0]
    return made["z"], slice(start, None if names & {"k", "v"} else stop)  # all later queries read keys and values


def one_pass(model, base, arrivals):
    """Carry changed streams through the layers together, each from where it joins.

    base is the Run that was patched; what it overwrote is overwritten in them too. Returns the arrivals in a new order
    and, in the same order, their last rows after the last block, [n_patches, n_embd].
    """
    c, streams = model.config, Streams(len(base.tokens))
    for layer, h in enumerate(model.weights.h):
        if streams.join(a for a in arrivals if (a.layer, a.at) == (layer, "resid_pre")):
            # after the last attention layer only the last position matters
            last_only = layer == c.n_layer - 1
            attend = streams.attention(base.k[layer], base.v[layer], layer, base.writes.get(layer, ()))
            rows = streams.last_rows() if last_only else slice(None)
            z = None
            for name, array in m.attention_layer(streams.rows, h, c, attend, rows):
                if name == "z" and last_only:
                    streams.keep_last_rows()
                z = array if name == "z" else z
                streams.put(layer, base.writes.get(layer, ()), name, array, z, h)
            streams.rows = array
        if streams.join(a for a in arrivals if (a.layer, a.at) == (layer, "resid_mid")):
            for name, array in m.mlp_layer(streams.rows, h, c):
                streams.put(layer, base.writes.get(layer, ()), name, array, None, h)
            streams.rows = array
            check_finite(streams.rows, f"the residual stream overflowed {model.dtype} in layer {layer}")
    streams.join(a for a in arrivals if a.layer == c.n_layer)
    return streams.members, streams.rows


def after(prefix, suffixes):
    """The same prefix [n_head, first, d_head] before each patch's suffix."""
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
            for group, at in self.groups():
                parts += zip(group, self.rows[at].reshape(len(group), -1, self.rows.shape[-1]))
            parts.sort(key=lambda part: part[0].first)
            self.members = [member for member, _ in parts]
            self.rows = np.concatenate([rows for _, rows in parts])
        return bool(self.members)

    def groups(self):
        """The members that begin together, each group with the slice of its rows."""
        start = 0
        for first, group in groupby(self.members, key=lambda member: member.first):
            group = list(group)
            stop = start + len(group) * (self.n_seq - first)
            yield group, slice(start, stop)
            start = stop

    def attention(self, base_k, base_v, layer, base_writes):
        """attend(q, k, v) for model.attention_layer: of all streams, each after the base run's keys and values of earlier
        positions, base_k and base_v [n_head, n_seq, d_head].

        q may hold each stream's last row alone. The queries are the last of n_seq positions, which is how
        model.causal_mask counts them.
        """

        def attend(q, k, v):
            n_head, n_rows, d_head = q.shape
            z = np.empty((n_rows, n_head, d_head), q.dtype)
            start, last_only = 0, n_rows < len(self.rows)
            for group, at in self.groups():
                first, n = group[0].first, 1 if last_only else self.n_seq - group[0].first
                cut = slice(start, start + len(group) * n)
                k_seen, v_seen = (
                    after(base[:, :first], by_patch(x[:, at], len(group))) for base, x in ((base_k, k), (base_v, v))
                )  # [n_patches, n_head, n_seq, d_head]
                writes = self.pattern_writes(group, layer, base_writes, n)
                made = self.attend_group(by_patch(q[:, cut], len(group)), k_seen, v_seen, *writes)
                z[cut] = m.merge_heads(made).reshape(-1, n_head, d_head)
                start = cut.stop
            return z.swapaxes(0, 1)  # [n_head, n_rows, d_head]

        return attend

    def attend_group(self, q, k, v, of_base, own):
        """Attention of a group, with what is written into its patterns: by the base run in all of them, and by each."""
        if not of_base and not any(own):
            return m.attend_in_blocks(q, k, v)  # [n_patches, n_head, n_q, d_head]
        pattern = m.attention_pattern(q, k)
        put(of_base, "pattern", pattern, None, None)
        for i, writes in enumerate(own):
            put(writes, "pattern", pattern[i], None, None)
        return pattern @ v

    def pattern_writes(self, group, layer, base_writes, n):
        """What is written into the patterns of the last n queries: (by the base run, [by each member])."""

        def cut(writes):
            patterns = [write for write in writes if write.name == "pattern"]
            return [some for write in patterns if (some := write.of_suffix(self.n_seq - n, n))]

        return cut(base_writes), [cut(member.writes.get(layer, ())) for member in group]

    def put(self, layer, base_writes, name, array, z, h):
        """Write into an activation of all streams what the base run overwrites, then what each patch does. Streams that join
        at resid_pre have the base run's writes to it already."""
        for write in base_writes:
            if write.name not in ("pattern", "resid_pre") and name == (
                "attn_out" if write.name == "result" else write.name
            ):
                rows, which = self.rows_of(write.positions)
                put([write.at_rows(rows, which)], name, array, z, h.attn.c_proj)
        start = 0
        for member in self.members:
            n = self.n_seq - member.first
            for write in member.writes.get(layer, ()):
                if write.name != "pattern" and (some := write.of_suffix(member.first, n)):
                    some = some._replace(positions=np.arange(n) if some.positions is None else some.positions)
                    put([some._replace(positions=some.positions + start)], name, array, z, h.attn.c_proj)
            start += n

    def rows_of(self, positions):
        """The rows at which these positions (all for None) stand in any stream, and which position each row is."""
        positions = np.arange(self.n_seq) if positions is None else positions
        firsts = np.array([member.first for member in self.members])
        starts = np.cumsum(self.n_seq - firsts) - (self.n_seq - firsts)
        there = positions >= firsts[:, None]  # [n_members, n_positions]
        rows = starts[:, None] + positions - firsts[:, None]
        return rows[there], np.broadcast_to(np.arange(len(positions)), there.shape)[there]

    def last_rows(self):
        return np.cumsum([self.n_seq - member.first for member in self.members]) - 1

    def keep_last_rows(self):
        """From here on each stream is its last row."""
        self.rows = self.rows[self.last_rows()]
        self.members = [member._replace(first=self.n_seq - 1) for member in self.members]


def by_patch(x, n_patches):
    """Rows of all heads [n_head, n_patches * n, d_head], cut into the patches [n_patches, n_head, n, d_head]."""
    return x.reshape(x.shape[0], n_patches, -1, x.shape[-1]).swapaxes(0, 1)
