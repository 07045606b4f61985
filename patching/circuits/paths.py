"""Path patching: what a sender does to the metric along the paths to some receivers, and nowhere else (Wang et al. 2211.00593).

The four steps: run both texts; in the base run write the sender's output of the other run with all attention frozen, MLPs made
again or frozen too; note what the receivers then read; run the base text with exactly these inputs. With attention frozen no
row reads another, so step two carries only the rows that changed, of all senders together, and only through MLPs. The last step
is one pass of the engine for all senders, with what the receivers compute overwritten.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from minigpt2 import GPT2
from minigpt2 import model as m
from minigpt2.checks import indices, quiet
from minigpt2.overwrite import Overwrite, as_writes

from ..one_pass import arrival_of
from ..prompts import PromptPair
from .edges import BUDGET, carry, in_batches, summary
from .nodes import reader_named, writer_named, writers
from .result import EdgeResult, Moments, result_of
from .setting import Setting, as_direction, as_metrics, as_pairs


def path_patch(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    receivers: str | Sequence[str],
    senders: Sequence[str] | None = None,
    *,
    through: str = "mlps",
    positions: Sequence[int] | None = None,
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
) -> EdgeResult:
    """The value of each sender's paths to the receivers, which are patched together: a result with one reader, their names.

    receivers are named "a9.h9<q>", "m5" or "logits" (which stands alone: nothing is read after it); senders "input", "a3.h7",
    "m5", all by default. positions are the senders' positions, all by default. through="mlps" makes the MLPs between sender
    and receiver again (Redwood, ARENA); "direct" freezes them: one receiver's value is then that of the edge. A sender with
    no path to a receiver has the base value. Result.by_head() is [n_layer, n_head]. Raises ValueError for other names.
    """
    if through not in ("mlps", "direct"):
        raise ValueError(f'through must be "mlps" or "direct", got {through!r:.60}')
    pairs, names = as_pairs(pairs), [receivers] if isinstance(receivers, str) else list(receivers)
    found = checked_receivers(names, model.config)
    chosen = [str(writer_named(name, model.config)) for name in senders] if senders is not None else None
    moments, settings = Moments(), []
    for pair, one_metric in zip(pairs, as_metrics(metric, len(pairs))):
        setting = Setting(model, pair, as_direction(direction), one_metric)
        moments.add(paths_of_pair(setting, found, chosen, through, positions), setting.base_value)
        settings.append(summary(setting))
    result = result_of(
        model, settings, moments, "path patching, " + ("through MLPs" if through == "mlps" else "direct")
    )
    return EdgeResult(**{**vars(result), "readers": (", ".join(map(str, found)),)})


def checked_receivers(names, config):
    found = [reader_named(name, config) for name in names]
    if not found:
        raise ValueError("path patching needs at least one receiver")
    if len(set(found)) < len(found):
        raise ValueError(f"a receiver is named twice in {', '.join(names):.100}")
    if len(found) > 1 and any(reader.kind == "logits" for reader in found):
        raise ValueError("logits must be the only receiver: with its input given, what others compute is not read")
    return found


def paths_of_pair(setting, receivers, chosen, through, positions):
    """The metric for each sender, [n_writers, 1]; NaN for those that are not chosen."""
    c = setting.model.config
    everyone = writers(c)
    values = np.full((len(everyone), 1), setting.base_value, setting.model.dtype)
    if chosen is not None:
        values[[str(writer) not in chosen for writer in everyone]] = np.nan
    positions = indices("position", positions, setting.n_seq, "the prompts have")
    last_only = receivers[0].kind == "logits"
    rows = [p for p in sorted(positions) if p >= setting.first and (p == setting.n_seq - 1 or not last_only)]
    for some in sender_groups(setting, [i for i, value in enumerate(values[:, 0]) if not np.isnan(value)], rows):
        with quiet():
            noted = noted_inputs(setting, receivers, some, rows, through == "mlps")
        second_pass(setting, noted, values)
    return values


def sender_groups(setting, chosen, rows):
    """The senders in groups whose rows fit the budget, the MLP's inside counted."""
    each = max(1, len(rows)) * 16 * setting.model.config.n_embd * setting.model.dtype.itemsize
    n = max(1, BUDGET // each)
    for at in range(0, len(chosen) if rows else 0, n):
        yield set(chosen[at : at + n])


def noted_inputs(setting, receivers, senders, rows, through_mlps):
    """What the receivers compute from the inputs that some senders give them: {sender: [Overwrite]}."""
    c, carried, noted = setting.model.config, Carried(setting, rows), {sender: [] for sender in senders}
    carried.join(-1, 0, senders, slice(0, 1))
    for layer in range(min(c.n_layer, 1 + max(reader.layer for reader in receivers))):
        of_layer = [reader for reader in receivers if reader.layer == layer]
        row = 1 + layer * (c.n_head + 1)
        note_heads(carried, [reader for reader in of_layer if reader.kind in "qkv"], layer, noted)
        carried.join(layer, row, senders, slice(0, c.n_head))
        if through_mlps or any(reader.kind == "mlp" for reader in of_layer):
            mlp_out = carried.mlp_out(layer)
            if any(reader.kind == "mlp" for reader in of_layer):
                carried.note(Overwrite(layer, "mlp_out", None), mlp_out, noted)
            if through_mlps:
                carried.rows += mlp_out - setting.base.mlp_out[layer, carried.positions]
        carried.join(layer, row, senders, slice(c.n_head, None))
    if receivers[0].kind == "logits":
        after = setting.base.resid_post[-1, carried.positions] + carried.rows
        carried.note(Overwrite(c.n_layer - 1, "resid_post", None), after, noted)
    return noted


def note_heads(carried, receivers, layer, noted):
    """The queries, keys or values of the receiving heads of a layer."""
    if not receivers or not carried.owners.size:
        return
    c, h = carried.setting.model.config, carried.setting.model.weights.h[layer]
    stream = carried.setting.base.resid_pre[layer, carried.positions] + carried.rows
    x = m.layer_norm(stream, *h.ln_1, c.layer_norm_epsilon)
    for reader in receivers:
        start = "qkv".index(reader.kind) * c.n_embd + reader.head * c.d_head
        columns = slice(start, start + c.d_head)
        value = m.linear(x, h.attn.c_attn.weight[:, columns], h.attn.c_attn.bias[columns])
        carried.note(Overwrite(layer, reader.kind, None, heads=[reader.head]), value, noted)


class Carried:
    """The differences that travel with attention frozen: rows [n, n_embd], each with its sender and its position."""

    def __init__(self, setting, positions):
        self.setting, self.all_positions = setting, np.array(positions)
        self.rows = np.zeros((0, setting.model.config.n_embd), setting.model.dtype)
        self.owners = self.positions = np.zeros(0, int)

    def join(self, layer, row, senders, which):
        """Let the writers of a layer in, of which the first is number `row`; which is a slice of its heads and its MLP."""
        numbers = range(row, row + self.setting.model.config.n_head + 1)[which]
        if not senders.intersection(numbers):
            return
        differences = self.setting.differences(layer)[which][:, self.all_positions - self.setting.first]
        for number, difference in zip(numbers, differences):
            if number in senders:
                some = difference.any(axis=-1)  # a row that does not change stays the base run's
                self.rows = np.concatenate([self.rows, difference[some]])
                self.owners = np.concatenate([self.owners, np.full(some.sum(), number)])
                self.positions = np.concatenate([self.positions, self.all_positions[some]])

    def mlp_out(self, layer):
        h, config = self.setting.model.weights.h[layer], self.setting.model.config
        stream = self.setting.base.resid_mid[layer, self.positions] + self.rows
        return m.mlp(m.layer_norm(stream, *h.ln_2, config.layer_norm_epsilon), *h.mlp)

    def note(self, where, values, noted):
        """Note what a receiver computes for each sender that reaches it, from the first row that changes on: in rows that
        do not change it is the base run's, whatever earlier receivers do."""
        base, n_seq = self.setting.base, self.setting.n_seq
        own = base.activation(where.name, where.layer, where.heads and where.heads[0])
        for sender in np.unique(self.owners):
            some = self.owners == sender
            first = int(self.positions[some][0])
            value = own[first:].copy()
            value[self.positions[some] - first] = values[some]
            noted[int(sender)].append(Overwrite(where.layer, where.name, value, where.heads, range(first, n_seq)))


def second_pass(setting, noted, values):
    """The base run with exactly these inputs, for all senders in one pass."""

    def all_arrivals():
        for sender, overwrites in noted.items():
            if overwrites:
                first = min(overwrite.positions[0] for overwrite in overwrites)
                if arrival := arrival_of(setting, (sender, 0), first, as_writes(overwrites)):
                    yield arrival

    for batch in in_batches(all_arrivals(), setting.n_seq, setting.model):
        carry(setting, batch, values)
