"""Every edge exactly: the metric when one reader reads one writer's output of the other run, and everything else follows.

An edge u -> q, k or v of a head: its input is LN(resid_pre + difference of u) for that one reader; its z is made again, and the
changed stream joins at resid_mid of its layer. u -> MLP: mlp_out is made again from resid_mid + difference; the stream joins
before the next layer. u -> logits: no pass at all. So edges are arrivals of one_pass.py, and all of them are one pass through
the layers; `edges_one_by_one` makes a run of the model for each, which is what the words say. A test holds both equal.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minigpt2 import GPT2
from minigpt2 import model as m
from minigpt2.checks import quiet
from minigpt2.overwrite import Overwrite

from ..one_pass import Arrival, after, one_pass
from ..prompts import PromptPair
from .nodes import edge_mask, readers, writers
from .result import EdgeResult, Moments, result_of
from .resume import Kept
from .setting import Setting, as_direction, as_metrics, as_pairs

BUDGET = 96 << 20  # bytes of the streams of one batch


def edges(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    *,
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
    alpha: float = 1.0,
    keep_in: Any = None,
    progress: Callable[[int, int], Any] | None = None,
) -> EdgeResult:
    """The exact value of every edge, of one pair or as the mean over several (of any lengths), with standard errors.

    direction "noising" sends the corrupted run's output along the edge in the clean run, "denoising" the other way round.
    metric is as in sweep, or a list with one for each pair. alpha is how much of the difference is sent. keep_in is a folder
    that keeps what is finished, so that a call that was interrupted goes on where it was. progress(done, total) counts edges.
    Raises ValueError for what cannot be asked, and for a folder that keeps the edges of another question.
    """
    return all_pairs(model, pairs, direction, metric, alpha, keep_in, progress, edges_of_part)


def edges_one_by_one(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    *,
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
    alpha: float = 1.0,
    keep_in: Any = None,
    progress: Callable[[int, int], Any] | None = None,
) -> EdgeResult:
    """The same, plainly: a whole run of the model for each edge, with what its reader computes overwritten."""
    return all_pairs(model, pairs, direction, metric, alpha, keep_in, progress, part_one_by_one)


def all_pairs(model, pairs, direction, metric, alpha, keep_in, progress, of_part):
    """The result over all pairs; of_part fills the columns of one layer's readers (n_layer: the logits)."""
    pairs, settings, moments, done = as_pairs(pairs), [], Moments(), 0
    metrics, mask = as_metrics(metric, len(pairs)), edge_mask(model.config)
    n_readers_of_layer = 3 * model.config.n_head + 1
    total = int(mask.sum()) * len(pairs)
    for i, (pair, one_metric) in enumerate(zip(pairs, metrics)):
        setting = Setting(model, pair, as_direction(direction), one_metric, alpha)
        kept = Kept(keep_in, i, setting, np.where(mask, setting.base_value, np.nan).astype(model.dtype))
        for layer in range(model.config.n_layer + 1):
            columns = slice(layer * n_readers_of_layer, (layer + 1) * n_readers_of_layer)
            n_edges = int(mask[:, columns].sum())
            if layer not in kept.done:
                report = progress and (lambda n: progress(done + n, total))
                of_part(setting, layer, kept.values[:, columns], report)
                kept.finish(layer)
            done += n_edges
            if progress:
                progress(done, total)
        settings.append(summary(setting))
        moments.add(kept.values, setting.base_value)
    return result_of(model, settings, moments, "edges")


def summary(setting):
    """What a result keeps of a pair, without its runs."""
    return {
        "clean_value": setting.clean_value, "corrupted_value": setting.corrupted_value, "direction": setting.direction,
        "metric": setting.metric.name, "unit": setting.metric.unit, "alpha": setting.alpha, "tokens": setting.tokens,
    }  # fmt: skip


# All edges into the readers of one layer


def edges_of_part(setting, layer, values, progress=None):
    """Fill values [n_writers, n_readers of this layer], which hold the base value already."""
    done = 0
    for batch in quietly(in_batches(arrivals(setting, layer), setting.n_seq, setting.model)):
        carry(setting, batch, values)
        done += len(batch)
        if progress:
            progress(done)


def carry(setting, batch, values):
    """One pass with a batch of arrivals; each one's value is entered at its place."""
    with quiet():  # one_pass reports what overflows
        members, rows = one_pass(setting.model, setting.base, batch)
    for at in range(0, len(members), 128):  # a metric may read the whole vocabulary
        for member, value in zip(members[at : at + 128], setting.read(rows[at : at + 128])):
            values[member.patch] = value


def quietly(made):
    """The same, each made without NumPy's warnings: the pass reports what overflows."""
    while True:
        with quiet():
            one = next(made, None)
        if one is None:
            return
        yield one


def in_batches(some, n_seq, model):
    """Arrivals in batches whose streams fit the budget; see sweeps.batches for what a row takes."""
    number = model.config.n_embd * model.dtype.itemsize
    batch, size = [], 0
    for arrival in some:
        needs = (16 * len(arrival.rows) + 2 * n_seq) * number
        if batch and size + needs > BUDGET:
            yield batch
            batch, size = [], 0
        batch.append(arrival)
        size += needs
    if batch:
        yield batch


def arrivals(setting, layer):
    """The changed stream of every edge into this layer's readers; arrival.patch is its (row, column) in the layer's values.
    None is made where nothing that is read can change."""
    c, row = setting.model.config, 0
    if layer == c.n_layer:
        yield from into_logits(setting)
        return
    mlp_column = 3 * c.n_head
    for below in range(-1, layer):
        differences = setting.differences(below)
        yield from into_heads(setting, layer, differences, row)
        yield from into_mlp(setting, layer, differences, row, mlp_column)
        row += len(differences)
    heads = setting.differences(layer)[: c.n_head]
    yield from into_mlp(setting, layer, heads, row, mlp_column)


def into_heads(setting, layer, differences, row):
    """u -> q, k and v of every head of a layer, for some writers u, differences [n_writers, n_rows, n_embd]."""
    c, base, h = setting.model.config, setting.base, setting.model.weights.h[layer]
    last_layer = layer == c.n_layer - 1
    read = slice(setting.n_seq - 1 if last_layer else setting.first, None)  # the rows whose change goes on
    for i, difference in enumerate(differences):
        if not difference.any():
            continue
        z = {kind: z - base.z[layer][:, read] for kind, z in new_z(setting, layer, h, difference, read)}
        for k, kind in enumerate("qkv"):
            if kind == "q" and last_layer and not difference[-1].any():
                continue  # only the last query is read, and it is the base run's
            streams = base.resid_mid[layer, read] + m.head_results(z[kind], h.attn.c_proj.weight)
            for head, stream in enumerate(streams):
                yield Arrival((row + i, k * c.n_head + head), layer, "resid_mid", read.start, stream, {})


def new_z(setting, layer, h, difference, read):
    """z of all heads, each with its q, its k or its v made from the changed stream: yields ("q", [n_head, n_read, d_head]),
    and so on."""
    c, base, first = setting.model.config, setting.base, setting.first
    x = m.layer_norm(base.resid_pre[layer, first:] + difference, *h.ln_1, c.layer_norm_epsilon)
    new_q, new_k, new_v = m.split_qkv(m.linear(x, *h.attn.c_attn), c.n_head)  # [n_head, n_rows, d_head]
    q, k, v = base.q[layer][:, read], base.k[layer], base.v[layer]
    yield "q", m.attend_in_blocks(new_q[:, read.start - first :], k, v)
    yield "k", m.attend_in_blocks(q, after(k[:, :first], new_k), v)
    yield "v", m.attend_in_blocks(q, k, after(v[:, :first], new_v))


def into_mlp(setting, layer, differences, row, column):
    """u -> the MLP of a layer: the stream that it then adds to is unchanged."""
    c, base, h = setting.model.config, setting.base, setting.model.weights.h[layer]
    last_layer = layer == c.n_layer - 1
    read = slice(setting.n_seq - 1 if last_layer else setting.first, None)
    changed = differences[:, read.start - setting.first :]
    some = [i for i, difference in enumerate(changed) if difference.any()]
    if not some:
        return
    x = m.layer_norm(base.resid_mid[layer, read] + changed[some], *h.ln_2, c.layer_norm_epsilon)
    streams = base.resid_mid[layer, read] + m.mlp(x, *h.mlp)
    for i, stream in zip(some, streams):
        yield Arrival((row + i, column), layer + 1, "resid_pre", read.start, stream, {})


def into_logits(setting):
    """u -> the final layer norm, of which only the last row is read."""
    n_layer, n_seq, row = setting.model.config.n_layer, setting.n_seq, 0
    for layer in range(-1, n_layer):
        for difference in setting.differences(layer)[:, -1:]:
            if difference.any():
                stream = setting.base.resid_post[-1, -1:] + difference
                yield Arrival((row, 0), n_layer, "resid_pre", n_seq - 1, stream, {})
            row += 1


# One run for each


def part_one_by_one(setting, layer, values, progress=None):
    """The same, each edge by itself."""
    c, model, done = setting.model.config, setting.model, 0
    columns = [reader for reader in readers(c) if reader.layer == layer]
    by_layer = {below: setting.differences(below) for below in range(-1, min(layer, c.n_layer - 1) + 1)}
    for row, writer in enumerate(writers(c)):
        for column, reader in enumerate(columns):
            if np.isnan(values[row, column]):
                continue
            difference = by_layer[writer.layer][{"input": 0, "head": writer.head, "mlp": -1}[writer.kind]]
            run = model.run(setting.base.tokens, keep=[], overwrites=[read_with(setting, reader, difference)])
            values[row, column] = setting.read(run.resid_post[-1, -1:])[0]
            done += 1
            if progress:
                progress(done)


def read_with(setting, reader, difference):
    """What a reader computes from a stream with the difference [n_rows, n_embd] added to it, as an Overwrite."""
    c, base, layer = setting.model.config, setting.base, reader.layer
    whole = np.zeros_like(base.resid_pre[0])
    whole[setting.first :] = difference
    if reader.kind == "logits":
        return Overwrite(c.n_layer - 1, "resid_post", base.resid_post[-1] + whole)
    h = setting.model.weights.h[layer]
    if reader.kind == "mlp":
        x = m.layer_norm(base.resid_mid[layer] + whole, *h.ln_2, c.layer_norm_epsilon)
        return Overwrite(layer, "mlp_out", m.mlp(x, *h.mlp))
    x = m.layer_norm(base.resid_pre[layer] + whole, *h.ln_1, c.layer_norm_epsilon)
    qkv = dict(zip("qkv", m.split_qkv(m.linear(x, *h.attn.c_attn), c.n_head)))
    return Overwrite(layer, reader.kind, qkv[reader.kind][reader.head], heads=[reader.head])
