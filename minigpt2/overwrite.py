"""An intervention, as data: Overwrite(3, "z", value, heads=[1], positions=[4]) is `z[3][1, 4] = value`, done while the
model runs, at the moment when z of layer 3 is there and before anything reads it.

model.block hands out each array as soon as it is made; overwritten_block is that loop with the writing in it. A run, the
resumed rest of a run, generation and the one-pass sweep all write here, and nowhere else. Read model.py first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import model as m
from .checks import indices, is_number

STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")  # [n_seq, n_embd]
BY_HEAD = ("q", "k", "v", "pattern", "z", "result")  # [n_head, n_seq, d_head], of pattern n_seq and of result n_embd
ORDER = ("resid_pre", "q", "k", "v", "pattern", "z", "result", "attn_out", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True, eq=False)
class Overwrite:
    """Write `value` over one activation of one layer, at some heads and positions (all by default).

    name is resid_pre, q, k, v, pattern (the rows of the positions that look; later keys stay 0), z, result (what each head adds to
    attn_out, [n_head, n_seq, n_embd]), attn_out, resid_mid, mlp_out or resid_post. value is a number, an array that
    broadcasts to [n_heads, n_positions, size] (or to [n_positions, n_embd]), or a Run, of which the same activation is
    taken. With add=True the value is added to what is there (steering) instead of replacing it.
    """

    layer: int
    name: str
    value: Any
    heads: Sequence[int] | None = None
    positions: Sequence[int] | None = None
    add: bool = False


class Write(NamedTuple):
    """An Overwrite, checked against a model and a text's length, and ready to be made."""

    name: str
    heads: np.ndarray | None  # None: all
    positions: np.ndarray | None
    value: np.ndarray  # broadcasts to [n_heads, n_positions, size], or to [n_positions, n_embd]
    add: bool

    def into(self, array):
        """Write into an activation of one layer, [..., n_head, n_seq, size] or [..., n_seq, n_embd]."""
        heads, positions = (slice(None) if at is None else at for at in (self.heads, self.positions))
        if self.name not in BY_HEAD:
            at = (..., positions, slice(None))
        elif self.heads is None or self.positions is None:
            at = (..., heads, positions, slice(None))
        else:
            at = (..., heads[:, None], positions, slice(None))
        if self.add:
            array[at] += self.value
        else:
            array[at] = self.value

    def into_sum(self, attn_out, z, c_proj):
        """Write over what single heads add to attn_out [..., n_seq, n_embd], of which they are summands."""
        d_head, positions = z.shape[-1], slice(None) if self.positions is None else self.positions
        for i, head in enumerate(range(z.shape[-3]) if self.heads is None else self.heads):
            value = self.value[i if len(self.value) > 1 else 0]  # broadcasts to [n_positions, n_embd]
            if not self.add:
                value = value - z[..., head, positions, :] @ c_proj.weight[head * d_head : (head + 1) * d_head]
            attn_out[..., positions, :] += value

    def at_rows(self, rows, which):
        """The same for an array whose rows are other ones: row rows[i] is the position with the index which[i]."""
        value = self.value if self.value.shape[-2] == 1 else self.value[..., which, :]
        return self._replace(positions=rows, value=value)

    def of_suffix(self, first, n):
        """The same for an array that holds the positions first to first + n - 1 only; None where none is among them."""
        if self.positions is None and self.value.shape[-2] == 1:
            return self
        positions = np.arange(first + n) if self.positions is None else self.positions
        which = np.flatnonzero((positions >= first) & (positions < first + n))
        return self.at_rows(positions[which] - first, which) if which.size else None


def as_writes(overwrites):
    """Overwrites that are known to be right, each value an array with all its axes: {layer: [Write]}."""
    writes = {}
    for o in sorted(overwrites, key=lambda o: ORDER.index(o.name)):
        heads, positions = (None if at is None else np.array(at) for at in (o.heads, o.positions))
        value = o.value[None] if o.name in BY_HEAD else o.value
        writes.setdefault(o.layer, []).append(Write(o.name, heads, positions, value, o.add))
    return writes


def at_resid_post(writes):
    """The same with every write to a resid_pre made to the resid_post of the layer before, which in a Run is the same array;
    layer 0 keeps its own."""
    moved = {}
    for layer, some in writes.items():
        for write in some:
            before = write.name == "resid_pre" and layer > 0
            moved.setdefault(layer - before, []).append(write._replace(name="resid_post") if before else write)
    return {layer: sorted(some, key=lambda write: ORDER.index(write.name)) for layer, some in moved.items()}


def put(writes, name, array, z, c_proj):
    """Write into an activation that a block has just handed out. z and c_proj are what `result` is a product of."""
    for write in writes:
        if write.name == name:
            write.into(array)
        elif write.name == "result" and name == "attn_out":
            write.into_sum(array, z, c_proj)
    if name == "pattern":  # whatever is written, no query reads a later key
        np.copyto(array, 0, where=~m.causal_mask(*array.shape[-2:]))


def attend_with(writes, attend=m.attend_in_blocks):
    """model.attend, with what is written into the pattern."""
    if not any(write.name == "pattern" for write in writes):
        return attend

    def attend_overwritten(q, k, v):
        pattern = m.attention_pattern(q, k)
        put(writes, "pattern", pattern, None, None)
        return pattern @ v

    return attend_overwritten


def overwritten_block(resid_pre, h, config, writes, attend=None):
    """model.block with what is written into it; resid_pre itself is written to where it is overwritten."""
    z = None
    for name, array in m.block(resid_pre, h, config, attend or attend_with(writes)):
        put(writes, name, array, z, h.attn.c_proj)
        z = array if name == "z" else z
        yield name, array


# What a user gives


def prepare(overwrites, model, n_seq=None):
    """Check a list of Overwrite for a text of n_seq tokens: {layer: [Write, in the order of the forward pass]}.

    n_seq None is a text that grows: an overwrite of all its positions cannot then differ from one to the next, and no
    position counts from its end. Raises ValueError for what cannot be written, and where two overwrites would write to one place.
    """
    if isinstance(overwrites, Overwrite) or not isinstance(overwrites, Sequence):
        raise ValueError(f"overwrites must be a list of Overwrite, got {type(overwrites).__name__}")
    writes, taken = {}, {}
    for overwrite in overwrites:
        write = prepare_one(overwrite, model, n_seq)
        writes.setdefault(overwrite.layer % model.config.n_layer, []).append(write)
        check_free(overwrite, write, taken, model.config, n_seq or model.config.n_ctx)
    return {layer: sorted(some, key=lambda write: ORDER.index(write.name)) for layer, some in writes.items()}


def prepare_one(overwrite, model, n_seq):
    if not isinstance(overwrite, Overwrite):
        raise ValueError(f"overwrites must be a list of Overwrite, got {type(overwrite).__name__} in it")
    c, (layer, name) = model.config, (overwrite.layer, overwrite.name)
    if not isinstance(name, str) or name not in ORDER:
        raise ValueError(f"unknown activation {name!r:.60} to overwrite; choose from {', '.join(ORDER)}")
    indices("layer", [layer], c.n_layer, f"{model.name} has {c.n_layer} layers")
    if overwrite.heads is not None and name not in BY_HEAD:
        raise ValueError(f"{name} has no heads: leave out heads, or overwrite {', '.join(BY_HEAD)}")
    n_positions = n_seq or c.n_ctx
    text = f"the text has {n_seq} tokens" if n_seq else f"{model.name} has {c.n_ctx} positions"
    heads, positions = (
        None if chosen is None else np.array(indices(what, [chosen] if is_number(chosen) else chosen, n, those))
        for what, chosen, n, those in (
            ("head", overwrite.heads, c.n_head, f"{model.name} has {c.n_head} heads"),
            ("position", overwrite.positions, n_positions, text),
        )
    )
    if n_seq is None and positions is not None and np.min(overwrite.positions) < 0:
        raise ValueError(
            f"position {np.min(overwrite.positions)} has no meaning in a text that grows: count from its start"
        )
    value = written_value(overwrite, heads, positions, n_seq)
    shape = written_shape(overwrite, heads, positions, c, n_seq)
    return Write(name, heads, positions, checked_value(overwrite, value, shape, model.dtype), bool(overwrite.add))


def written_value(overwrite, heads, positions, n_seq):
    """The value itself; of a Run, what stands there in it."""
    run = overwrite.value
    if not hasattr(run, "activation"):
        return overwrite.value
    if n_seq is not None and len(run.tokens) != n_seq:
        raise ValueError(f"the run to take {overwrite.name} from has {len(run.tokens)} tokens, this text {n_seq}")
    array = run.activation(overwrite.name, overwrite.layer)
    array = array if heads is None else array[heads]
    return array if positions is None else array[..., positions, :]


def written_shape(overwrite, heads, positions, config, n_seq):
    """The shape that the value must broadcast to."""
    size = {"pattern": n_seq or 1, "result": config.n_embd}.get(overwrite.name)
    n_positions = (n_seq or 1) if positions is None else len(positions)
    if overwrite.name not in BY_HEAD:
        return n_positions, config.n_embd
    return config.n_head if heads is None else len(heads), n_positions, size or config.d_head


def checked_value(overwrite, value, shape, dtype):
    """The value as a finite array of `dtype` with as many axes as `shape`."""
    what = f"the value for {overwrite.name} of layer {overwrite.layer}"
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value).astype(dtype, casting="same_kind")
        np.broadcast_to(array, shape)
    except (TypeError, ValueError):
        got = list(np.shape(value)) if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(
            f"{what} must be a number, a Run, or an array that broadcasts to {list(shape)}, got {got}"
        ) from None
    if not np.isfinite(array).all():
        raise ValueError(f"{what} contains NaN, or infinity in {np.dtype(dtype)}; check the values written into it")
    return array.reshape((1,) * (len(shape) - array.ndim) + array.shape)


def check_free(overwrite, write, taken, config, n_seq):
    """Refuse an overwrite of a place that an earlier one has taken; resid_post of a layer is resid_pre of the next."""
    layer, name = overwrite.layer % config.n_layer, overwrite.name
    key = (layer + 1, "resid_pre") if name == "resid_post" else (layer, name)
    place = np.zeros((config.n_head, n_seq) if name in BY_HEAD else (1, n_seq), bool)
    heads, positions = (np.arange(n) if at is None else at for at, n in zip(write[1:3], place.shape))
    place[np.ix_(heads, positions)] = True
    both = place & taken.get(key, False)
    if both.any():
        head, position = np.argwhere(both)[0]
        where = f"head {head}, position {position}" if name in BY_HEAD else f"position {position}"
        raise ValueError(f"two overwrites write to {name} of layer {layer} at {where}: leave out one of them")
    taken[key] = place | taken.get(key, False)


def check_ahead(writes, layer, at):
    """Refuse an overwrite that a stream has passed which enters block `layer` at resid_pre or resid_mid."""
    for written, some in writes.items():
        for write in some:
            if (written, ORDER.index(write.name)) < (layer, ORDER.index(at)):
                raise ValueError(
                    f"{write.name} of layer {written} is not on the way of a stream that enters layer {layer} at {at}"
                )
