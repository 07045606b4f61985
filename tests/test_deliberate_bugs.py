"""The tests tested: each of these mistakes, made on purpose, is caught by the test that is named beside it.

A row is (where, which name, the wrong code put in its place, the test that must fail, its arguments). The same test
with the same arguments passes on the unbroken code.
"""

import math
import tempfile
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_ablations
import test_backward
import test_bpe
import test_first_wrong_activation
import test_lens
import test_model
import test_overwrite
import test_parity
import test_patching
import test_sources
import test_sweep
import test_vocabulary
from models import random_model

from minigpt2 import GPT2, bpe, fast_bpe, generate, gpt2, lens, overwrite
from minigpt2 import backward as b
from minigpt2 import model as m
from minigpt2.tokenizer import Tokenizer
from patching import one_pass, plan, prompts, sites, sources, sweeps
from patching.ablations import parts

right = SimpleNamespace(
    **{name: getattr(m, name) for name in ("layer_norm", "split_qkv", "block", "attention_pattern")}
)


# The forward pass


def erf_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def eps_outside_the_root(x, weight, bias, eps):
    y = x - x.mean(axis=-1, keepdims=True)
    return y / (np.sqrt((y * y).mean(axis=-1, keepdims=True)) + eps) * weight + bias


def sample_variance(x, weight, bias, eps):
    y = x - x.mean(axis=-1, keepdims=True)
    return y / np.sqrt(y.var(axis=-1, ddof=1, keepdims=True) + eps) * weight + bias


def no_mean(x, weight, bias, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight + bias


def unscaled(q, k):
    return right.attention_pattern(q * math.sqrt(q.shape[-1]), k)


def scaled_by_the_width(q, k):
    return right.attention_pattern(q / math.sqrt(2), k)  # sqrt(n_embd) for sqrt(d_head), with two heads


def float64_scale(q, k):
    scores = q / np.sqrt(q.shape[-1]) @ k.swapaxes(-1, -2)
    return m.softmax(np.where(m.causal_mask(*scores.shape[-2:]), scores, -np.inf))


def top_left_mask(n_q, n_k):
    return np.tri(n_q, n_k, dtype=bool)


def no_mask(n_q, n_k):
    return np.ones((n_q, n_k), bool)


def strict_mask(n_q, n_k):
    mask = np.tri(n_q, n_k, n_k - n_q - 1, dtype=bool)
    mask[:, 0] = True
    return mask


def swapped_q_and_k(x, n_head):
    q, k, v = right.split_qkv(x, n_head)
    return k, q, v


def interleaved_heads(x, n_head):
    return x.reshape(*x.shape[:-1], x.shape[-1] // n_head, n_head).swapaxes(-1, -2).swapaxes(-2, -3)


def post_layer_norm(resid_pre, h, config, attend=m.attend_in_blocks):
    return right.block(m.layer_norm(resid_pre, *h.ln_1, config.layer_norm_epsilon), h, config, attend)


def mlp_beside_attention(resid_pre, h, config, attend=m.attend_in_blocks):
    """GPT-J's block: both halves read the same stream."""
    for name, array in m.attention_layer(resid_pre, h, config, attend):
        yield name, array
    mlp_out = m.mlp(m.layer_norm(resid_pre, *h.ln_2, config.layer_norm_epsilon), *h.mlp)
    yield from (("mlp_out", mlp_out), ("resid_post", array + mlp_out))


def unembed_without_ln_f(resid, ln_f, wte, eps):
    return m.linear(resid, wte.T)


def untied_unembedding(resid, ln_f, wte, eps):
    return m.linear(m.layer_norm(resid, *ln_f, eps), np.roll(wte, 1, axis=0).T)


def positions_from_1(tokens, wte, wpe, first_pos=0):
    return wte[tokens] + np.roll(wpe, -1, axis=0)[first_pos : first_pos + tokens.shape[-1]]


def no_positions(tokens, wte, wpe, first_pos=0):
    return wte[tokens]


def in_place_layer_norm(x, weight, bias, eps):
    x[...] = right.layer_norm(x, weight, bias, eps)
    return x


def swapped_layers(config, weights):
    return GPT2(config, weights._replace(h=(weights.h[1], weights.h[0], *weights.h[2:])))


ODD_CASE = "odd, plain, 5 tokens"
PARITY = test_parity.test_float64_is_hugging_faces_golden_result

FORWARD = {
    "the erf form of GELU": (m, "gelu", erf_gelu, PARITY, (ODD_CASE,)),
    "the erf form of GELU, by hand": (m, "gelu", erf_gelu, test_model.test_gelu_is_the_tanh_form, ()),
    "eps outside the root": (m, "layer_norm", eps_outside_the_root, PARITY, (ODD_CASE,)),
    "eps outside the root, by hand": (
        m,
        "layer_norm",
        eps_outside_the_root,
        test_model.test_layer_norm_by_hand,
        (0.1,),
    ),
    "ddof=1": (m, "layer_norm", sample_variance, PARITY, (ODD_CASE,)),
    "ddof=1, by hand": (m, "layer_norm", sample_variance, test_model.test_layer_norm_by_hand, (1e-5,)),
    "a layer norm without the mean": (m, "layer_norm", no_mean, PARITY, (ODD_CASE,)),
    "no 1/sqrt(d)": (m, "attention_pattern", unscaled, PARITY, (ODD_CASE,)),
    "no 1/sqrt(d), by hand": (m, "attention_pattern", unscaled, test_model.test_attention_by_hand, ()),
    "1/sqrt(n_embd)": (m, "attention_pattern", scaled_by_the_width, PARITY, (ODD_CASE,)),
    "a mask from the top left": (
        m,
        "causal_mask",
        top_left_mask,
        test_model.test_the_last_queries_are_the_last_rows_of_all_queries,
        (),
    ),
    "a mask from the top left, in blocks": (
        m,
        "causal_mask",
        top_left_mask,
        test_model.test_attention_in_blocks_is_attention,
        (5, 5, 3),
    ),
    "no mask": (m, "causal_mask", no_mask, PARITY, (ODD_CASE,)),
    "no mask, as an invariant": (
        m,
        "causal_mask",
        no_mask,
        test_model.test_a_later_token_changes_nothing_before_it,
        ("model", 5),
    ),
    "a mask without the diagonal": (m, "causal_mask", strict_mask, PARITY, (ODD_CASE,)),
    "q and k swapped": (m, "split_qkv", swapped_q_and_k, PARITY, (ODD_CASE,)),
    "heads interleaved": (m, "split_heads", interleaved_heads, PARITY, (ODD_CASE,)),
    "heads interleaved, by hand": (m, "split_heads", interleaved_heads, test_model.test_heads_are_columns_in_order, ()),
    "a float64 scalar": (
        m,
        "attention_pattern",
        float64_scale,
        test_model.test_one_dtype_from_weights_to_logits,
        (np.float32,),
    ),
    "swapped layers": (test_parity, "GPT2", swapped_layers, PARITY, (ODD_CASE,)),
    "layer norm on the stream itself": (m, "block", post_layer_norm, PARITY, (ODD_CASE,)),
    "the MLP reads the block's input": (m, "block", mlp_beside_attention, PARITY, (ODD_CASE,)),
    "no final layer norm": (m, "unembed", unembed_without_ln_f, PARITY, (ODD_CASE,)),
    "an unembedding of its own": (m, "unembed", untied_unembedding, PARITY, (ODD_CASE,)),
    "positions from 1": (m, "embed", positions_from_1, PARITY, (ODD_CASE,)),
    "no position embedding": (
        m,
        "embed",
        no_positions,
        test_first_wrong_activation.test_every_activation_in_the_order_of_the_data_flow,
        ("model", 5),
    ),
    "a layer norm in place": (
        m,
        "layer_norm",
        in_place_layer_norm,
        test_model.test_layer_norm_leaves_its_input_alone,
        (),
    ),
}


# The sweep

join_of, after, after_attention, head_z, blended = (
    one_pass.join_of, one_pass.after, one_pass.after_attention, one_pass.head_z, plan.blended,
)  # fmt: skip
attention, tokens_of = one_pass.Streams.attention, prompts.PromptPair.tokens


def one_row_late(plan, patch):
    arrival = join_of(plan, patch)
    if arrival is None or len(arrival.rows) == 1:
        return arrival
    return arrival._replace(first=arrival.first + 1, rows=arrival.rows[1:])


def one_position_early(plan, patch):
    """The rows are the right ones, and are said to begin one position earlier than they do."""
    arrival = join_of(plan, patch)
    if arrival is None or arrival.first == 0 or len(arrival.rows) == 1:
        return arrival
    rows = np.concatenate([arrival.rows[:1], arrival.rows[:-1], arrival.rows[-1:]])
    return arrival._replace(first=arrival.first - 1, rows=rows)


def forgotten_prefix(prefix, suffixes):
    return suffixes


def prefix_of_zeros(prefix, suffixes):
    return after(np.zeros_like(prefix), suffixes)


def shifted_values(self, base_k, base_v, layer, base_writes):
    return attention(self, base_k, np.roll(base_v, 1, axis=-2), layer, base_writes)


def next_heads_slice(base, layer, writes):
    """What a head adds is read through the next head's rows of c_proj."""
    h = base.model.weights.h[layer]
    weight = np.roll(h.attn.c_proj.weight, -base.z.shape[-1], axis=0)
    moved = h._replace(attn=h.attn._replace(c_proj=h.attn.c_proj._replace(weight=weight)))
    weights = base.model.weights._replace(h=(*base.model.weights.h[:layer], moved, *base.model.weights.h[layer + 1 :]))
    return after_attention(replace(base, model=GPT2(base.model.config, weights)), layer, writes)


def one_row_of_a_key(base, layer, head, writes):
    """Later queries forget the changed key."""
    z, rows = head_z(base, layer, head, writes)
    if rows.start is not None and rows.stop is None:
        rows = slice(rows.start, rows.start + 1)
    return z, rows


def a_layer_early(base, layer, writes):
    return one_pass_after_mlp(base, layer - 1 if layer else layer, writes)


one_pass_after_mlp = one_pass.after_mlp


def skipped_column(self, model, may_be_equal=False):
    return LatePair(*tokens_of(self, model, may_be_equal))


class LatePair(prompts.PairTokens):
    first_difference = property(lambda self: self.differing[0] + 1)


def alpha_the_wrong_way(old, new, positions, alpha):
    return blended(old, new, positions, 1 - alpha)


def never_written(old, new, positions, alpha):
    """A silent no-op of nnsight's kind (its issue 502)."""
    return old[positions]


ONE_PASS = test_sweep.test_one_pass_is_one_by_one_on_every_pair
SITE = test_patching.test_every_site_is_what_an_independent_forward_pass_gives
PATTERN_SITE = sites.SITES["pattern"]
ONE_DIFFERS, SEVERAL_DIFFER = ("model", "resid_post", "one token differs"), ("model", "resid_post", "several differ")

ENGINE = {
    "a mask from the top left": (m, "causal_mask", top_left_mask, ONE_PASS, SEVERAL_DIFFER),
    "a suffix that starts one row late": (sweeps, "join_of", one_row_late, ONE_PASS, ONE_DIFFERS),
    "a suffix that starts one position early": (sweeps, "join_of", one_position_early, ONE_PASS, SEVERAL_DIFFER),
    "a forgotten prefix": (one_pass, "after", forgotten_prefix, ONE_PASS, ONE_DIFFERS),
    "an empty prefix": (one_pass, "after", prefix_of_zeros, ONE_PASS, ONE_DIFFERS),
    "a prefix with shifted values": (one_pass.Streams, "attention", shifted_values, ONE_PASS, ("model", "z", "several differ")),
    "another head's slice of c_proj": (one_pass, "after_attention", next_heads_slice, SITE, ("model", "z", {})),
    "a key that later queries do not read": (one_pass, "head_z", one_row_of_a_key, SITE, ("model", "k", {})),
    "resid_post of another layer": (one_pass, "after_mlp", a_layer_early, SITE, ("model", "mlp_out", {})),
    "another activation": (sites.SITES, "k", PATTERN_SITE, SITE, ("model", "k", {})),
    "a skipped column that matters": (prompts.PromptPair, "tokens", skipped_column, ONE_PASS, ONE_DIFFERS),
    "a skipped column that matters, first of all": (
        prompts.PromptPair, "tokens", skipped_column, ONE_PASS, ("model", "z", "the first differs"),
    ),
    "alpha the wrong way": (plan, "blended", alpha_the_wrong_way, SITE, ("model", "mlp_out", {"alpha": 0.3})),
    "a patch that is never written": (plan, "blended", never_written, SITE, ("model", "attn_out", {})),
    "a patch that is never written, as an invariant": (
        plan, "blended", never_written,
        test_patching.test_all_positions_of_the_stream_are_the_other_run, ("model", "resid_mid", "denoising"),
    ),
}  # fmt: skip


# Overwrites and sources

of_suffix, step, mean_activation = overwrite.Write.of_suffix, generate.step, sources.mean_activation


def written_after_it_was_read(resid_pre, h, config, writes, attend=None):
    late = lambda: None  # noqa: E731
    for name, array in m.block(resid_pre, h, config, attend or overwrite.attend_with(writes)):
        late()
        late = partial(overwrite.put, [w for w in writes if w.name != "result"], name, array, None, None)
        yield name, array
    late()


def wrong_row(self, first, n):
    write = of_suffix(self, first, n)
    if write is None or write.positions is None:
        return write
    return write._replace(positions=(write.positions + 1) % n)


def skipped_although_it_matters(plan, patch):
    stop = max(place.positions.stop for place in patch.places)
    return None if stop <= plan.tokens.first_difference else join_of(plan, patch)


def unpatched_cache(tokens, cache, weights, config, writes=None):
    """The given text is read without the overwrites, and only new tokens with them."""
    return step(tokens, cache, weights, config, writes if cache.length else None)


def mean_of_heads(model, texts, name, per_position=True):
    mean = mean_activation(model, texts, name, per_position)
    return np.broadcast_to(mean.mean(axis=1, keepdims=True), mean.shape)


def added_twice(base, own):
    """The stream that a patch sets out from has had its resid_pre written."""
    every = {layer: [*base.get(layer, ()), *own.get(layer, ())] for layer in {*base, *own}}
    return {layer: sorted(some, key=lambda write: overwrite.ORDER.index(write.name)) for layer, some in every.items()}


def looks_ahead(writes, name, array, z, c_proj):
    for write in (write for write in writes if write.name == name):
        write.into(array)


RUN = test_overwrite.test_a_run_under_overwrites_is_the_plain_forward_pass_with_them
INSIDE = test_sources.test_a_sweep_inside_an_overwritten_model
SOURCE = test_sources.test_every_source_writes_what_it_says

OVERWRITES = {
    "written after it was read": (gpt2, "overwritten_block", written_after_it_was_read, RUN, ("model", 0)),
    "a pattern that looks ahead": (overwrite, "put", looks_ahead, RUN, ("model", 2)),
    "the wrong row of a suffix": (overwrite.Write, "of_suffix", wrong_row, INSIDE, ("resid_post", 0)),
    "an addition made twice": (
        sweeps, "merged", added_twice, test_sources.test_a_window_is_its_layers_patched_together, ("z", 2),
    ),
    "a skipped patch that mattered": (
        sweeps, "join_of", skipped_although_it_matters,
        test_sources.test_before_the_first_difference_a_zero_changes_something, ("resid_post",),
    ),
    "the unpatched cache": (
        generate, "step", unpatched_cache, test_overwrite.test_generation_reads_what_the_whole_text_gives, ("model", "patterns"),
    ),
    "a gradient that flows on": (
        b, "stop_gradients", lambda writes, name, gradient: None,
        test_overwrite.test_gradients_under_overwrites_are_central_differences, ("model", "resid_pre", 0),
    ),
    "a mean over the wrong axis": (sources, "mean_activation", mean_of_heads, SOURCE, ("v", "mean")),
    "folded for raw": (
        sources.SOURCES, "zero", partial(sources.zero, "transformer_lens"), SOURCE, ("z", "zero"),
    ),
}  # fmt: skip


# The backward pass

layer_norm_backward, attend_backward, embed_backward = b.layer_norm_backward, b.attend_backward, b.embed_backward


def without_the_variances_term(dy, x, weight, eps, into=None):
    layer_norm_backward(dy, x, weight, eps, into)
    s = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    dn = dy * weight
    return (dn - dn.mean(axis=-1, keepdims=True)) / s


def without_the_means_term(dy, x, weight, eps, into=None):
    dn = dy * weight
    s = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return layer_norm_backward(dy, x, weight, eps, into) + dn.mean(axis=-1, keepdims=True) / s


def backward_without_mask(dz, q, k, v):
    scores = q / math.sqrt(q.shape[-1]) @ k.swapaxes(-1, -2)
    pattern, dpattern = m.softmax(scores), dz @ v.swapaxes(-1, -2)
    dscores = b.softmax_backward(dpattern, pattern) / math.sqrt(q.shape[-1])
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, pattern.swapaxes(-1, -2) @ dz


block_backward_without_mask = partial(b.block_backward, attend_backward=backward_without_mask)


def backward_without_scale(dz, q, k, v):
    dq, dk, dv = attend_backward(dz, q, k, v)
    return dq * math.sqrt(q.shape[-1]), dk * math.sqrt(q.shape[-1]), dv


def untied_embedding(dx, tokens, into):
    into.wpe[: tokens.shape[-1]] += dx.sum(axis=0)


def one_place_per_token(dx, tokens, into):
    into.wte[tokens] += dx  # NumPy adds once for a token that stands twice
    into.wpe[: tokens.shape[-1]] += dx.sum(axis=0)


def erf_slope(x):
    phi = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) + x * phi


def unnormalised_softmax(dy, y):
    return y * dy


WEIGHT, ACTIVATION = (
    test_backward.test_every_weights_gradient_is_a_central_difference,
    test_backward.test_every_activations_gradient_is_a_central_difference,
)

BACKWARD = {
    "a dropped layer-norm term": (
        b,
        "layer_norm_backward",
        without_the_variances_term,
        WEIGHT,
        ("h.0.mlp.c_fc.weight",),
    ),
    "the other layer-norm term dropped": (b, "layer_norm_backward", without_the_means_term, WEIGHT, ("wpe.weight",)),
    "a dropped layer-norm term, activations": (
        b,
        "layer_norm_backward",
        without_the_variances_term,
        ACTIVATION,
        ("resid_pre", 4),
    ),
    "a missing mask": (b, "block_backward", block_backward_without_mask, WEIGHT, ("h.1.attn.c_attn.weight",)),
    "a missing mask, activations": (b, "attend_backward", backward_without_mask, ACTIVATION, ("v", 4)),
    "a missing 1/sqrt(d)": (b, "attend_backward", backward_without_scale, ACTIVATION, ("q", 4)),
    "an untied embedding": (b, "embed_backward", untied_embedding, WEIGHT, ("wte.weight",)),
    "a repeated token counted once": (b, "embed_backward", one_place_per_token, WEIGHT, ("wte.weight",)),
    "the erf form's slope": (b, "gelu_slope", erf_slope, WEIGHT, ("h.2.mlp.c_fc.bias",)),
    "a softmax without its sum": (b, "softmax_backward", unnormalised_softmax, ACTIVATION, ("k", 4)),
}

# The tokens


def highest_rank_first(symbols, ranks):
    return join(symbols, {pair: -rank for pair, rank in ranks.items()})


def rightmost_first(symbols, ranks):
    mirrored = {(b[::-1], a[::-1]): rank for (a, b), rank in ranks.items()}
    return [symbol[::-1] for symbol in join(symbols[::-1], mirrored)[::-1]]


def any_neighbours_that_make_a_token(symbols, ranks):
    """tiktoken's rule, with the merges' order."""
    made = {a + b: rank for (a, b), rank in ranks.items()}
    halves = {(t[:i], t[i:]): rank for t, rank in made.items() for i in range(1, len(t))}
    return join(symbols, halves)


def never_joined_before(a, b, limit, parts, made):
    return False


def without_prefix_space(self, text, allow_special, prefix_space):
    return encode_piecewise(self, text, allow_special, False)


join, encode_piecewise = bpe.join, Tokenizer._encode
BY_RANK = test_bpe.test_the_pair_of_the_lowest_rank_is_joined_first_and_of_equal_ones_the_leftmost
OWN_PAIR = test_bpe.test_a_token_is_not_joined_from_whatever_makes_its_bytes

TOKENS = {
    "the highest rank first": (bpe, "join", highest_rank_first, BY_RANK, ()),
    "the rightmost pair first": (bpe, "join", rightmost_first, BY_RANK, ()),
    "joined like tiktoken": (bpe, "join", any_neighbours_that_make_a_token, OWN_PAIR, ()),
    "tiktoken unproven": (fast_bpe, "joined_before", never_joined_before, OWN_PAIR, ()),
    "prefix space ignored": (
        Tokenizer,
        "_encode",
        without_prefix_space,
        test_vocabulary.test_values_by_hand,
        ("folder", "add_prefix_space", "Hello world", [18435, 995]),
    ),
    "answers encoded as texts": (
        Tokenizer,
        "continuation",
        Tokenizer.encode,
        test_vocabulary.test_the_answers_ids_by_hand,
        ("folder",),
    ),
}


# Ablations


def partners_measured_inside(plan, overwrite, partners, written):
    """The metric, and what partners write, as if the overwritten run were the intact one."""
    inner = right_ablations.inside(plan, overwrite, partners, written)
    inner.runs = plan.runs._replace(base=plan.model.run(plan.base.tokens, overwrites=[overwrite]))
    inner.overwrites = lambda patch: [
        parts.overwrite_of(partners[patch.index[0]], inner.runs, plan.source, range(len(plan.base.tokens)))
    ]
    return inner


def partners_of_the_intact_run(plan, overwrite, partners, written):
    inner = right_ablations.inside(plan, overwrite, partners, written)
    inner.base = plan.base
    return inner


def all_orders_alike(name, names, of_sets):
    return np.mean([of_sets[some] - of_sets[tuple(n for n in some if n != name)] for some in of_sets if name in some])


interactions, shapley = (import_module(f"patching.ablations.{name}") for name in ("interactions", "shapley"))
right_ablations = SimpleNamespace(inside=interactions.inside)
ABLATIONS = {
    "what partners write is taken from the overwritten run": (
        interactions, "inside", partners_measured_inside,
        test_ablations.test_interactions_of_other_parts_and_sources_by_their_definition, ["model"],
    ),
    "partners are swept in the intact run": (
        interactions, "inside", partners_of_the_intact_run,
        test_ablations.test_interactions_by_a_forward_pass_that_shares_no_line, ["model"],
    ),
    "every set weighs the same in a Shapley value": (
        shapley, "shapley_value", all_orders_alike,
        test_ablations.test_shapley_values_are_means_over_all_orders_and_sum_to_the_whole, ["model"],
    ),
    "attribution leaves out what was written over the stream": (
        lens, "written_over", lambda run, position: 0 * run.resid_post[-1, position],
        test_lens.test_the_terms_of_a_run_with_overwrites_sum_to_its_logit_difference, [3],
    ),
}  # fmt: skip

BUGS = {
    f"{part}: {name}": row
    for part, rows in {
        "forward": FORWARD,
        "sweep": ENGINE,
        "overwrites": OVERWRITES,
        "ablations": ABLATIONS,
        "backward": BACKWARD,
        "tokens": TOKENS,
    }.items()
    for name, row in rows.items()
}


def run_test(test, arguments):
    test_backward.weight_gradients.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        given = {"model": random_model, "folder": lambda: Path(folder)}
        test(*(given[argument]() if str(argument) in given else argument for argument in arguments))


@pytest.mark.parametrize("owner, name, wrong, test, arguments", BUGS.values(), ids=BUGS)
def test_the_named_test_catches_the_mistake(monkeypatch, owner, name, wrong, test, arguments):
    run_test(test, arguments)
    if isinstance(owner, dict):
        monkeypatch.setitem(owner, name, wrong)
    else:
        monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        run_test(test, arguments)
    test_backward.weight_gradients.cache_clear()
