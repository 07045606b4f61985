"""What holds for the forward pass without any reference, and what it says to input that it cannot read."""

import math
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from models import ODD, cast, random_model, random_tokens, random_weights

from minigpt2 import GPT2
from minigpt2 import model as m
from minigpt2.errors import HubError, VocabularyError

# float64: two orders of the same few hundred additions differ by a few roundings of numbers of a few units.
ROUNDING = 1e-12
RUN_ARRAYS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern", "logits")
TOKENS = [3, 1, 4, 1, 5]


def sequence(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# What a run returns


@pytest.mark.parametrize("n_seq", [1, 2, 5, 13])
def test_every_array_has_its_documented_shape(model, n_seq):
    c, run = model.config, model.run(random_tokens(model.config, n_seq))
    for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
        assert getattr(run, name).shape == (c.n_layer, n_seq, c.n_embd), name
    for name in ("q", "k", "v", "z"):
        assert getattr(run, name).shape == (c.n_layer, c.n_head, n_seq, c.d_head), name
    assert run.pattern.shape == (c.n_layer, c.n_head, n_seq, n_seq)
    assert run.logits.shape == (n_seq, c.n_vocab)


def test_what_a_layer_writes_is_what_the_next_one_reads(model):
    run = model.run(TOKENS)
    assert np.shares_memory(run.resid_pre[1:], run.resid_post[:-1])
    np.testing.assert_array_equal(run.resid_post[:-1], run.resid_pre[1:])
    np.testing.assert_array_equal(run.resid_mid, run.resid_pre + run.attn_out)
    np.testing.assert_array_equal(run.resid_post, run.resid_mid + run.mlp_out)


def test_patterns_average_earlier_positions_only(model):
    run = model.run(TOKENS)
    assert (run.pattern[..., ~np.tri(5, dtype=bool)] == 0).all()
    np.testing.assert_allclose(run.pattern.sum(axis=-1), 1, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(run.pattern @ run.v, run.z, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", RUN_ARRAYS)
def test_run_arrays_are_read_only(model, name):
    array = getattr(model.run(TOKENS), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_runs_cannot_be_reassigned(model):
    with pytest.raises(AttributeError):
        model.run(TOKENS).resid_pre = None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_dtype_from_weights_to_logits(dtype):
    """A float64 scalar in the wrong place would make float64 of float32 (NEP 50), and twice the memory."""
    model = random_model(dtype=dtype)
    run = model.run(TOKENS)
    assert {name: getattr(run, name).dtype for name in RUN_ARRAYS} == dict.fromkeys(RUN_ARRAYS, np.dtype(dtype))
    assert model.resume(run.resid_pre[1], 1).dtype == model.resume(run.resid_mid[1], 1, at="resid_mid").dtype == dtype
    assert m.forward(np.array(TOKENS), model.weights, model.config).dtype == dtype


def test_forward_is_run_without_keeping_anything(model):
    logits = m.forward(np.array(TOKENS), model.weights, model.config)
    np.testing.assert_array_equal(logits, model.run(TOKENS).logits)


def test_a_run_changes_neither_its_tokens_nor_the_weights():
    weights = cast(random_weights(ODD), np.float64)  # writable copies
    kept = cast(weights, np.float64)
    tokens = np.array(TOKENS)
    resid = GPT2(ODD, weights).run(tokens).resid_pre[1].copy()
    before = resid.copy()
    GPT2(ODD, weights).resume(resid, 1)
    GPT2(ODD, weights).resume(resid, 1, at="resid_mid")
    np.testing.assert_array_equal(tokens, TOKENS)
    np.testing.assert_array_equal(resid, before)
    for (name, array), (_, old) in zip(named(weights), named(kept)):
        np.testing.assert_array_equal(array, old, err_msg=name)


def named(weights):
    from minigpt2.checkpoint.weights import flatten

    return flatten(weights).items()


def test_the_same_text_gives_the_same_bits():
    first, second = (random_model(dtype=np.float32).run(TOKENS) for _ in range(2))
    for name in RUN_ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def test_threads_that_share_a_model_get_the_bits_of_one():
    model, texts = random_model(dtype=np.float32), [random_tokens(ODD, n, seed=n) for n in range(2, 10)]
    alone, found = [model.run(text).logits for text in texts], [None] * len(texts)

    def work(i):
        for _ in range(20):
            found[i] = model.run(texts[i]).logits

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found):
        np.testing.assert_array_equal(one, other)


# Batches, leading axes, resuming


def test_a_batch_is_its_texts_run_one_by_one(model):
    texts = [random_tokens(ODD, 5, seed) for seed in range(4)]
    for text, run in zip(texts, model.run_batch(texts)):
        assert run.tokens == tuple(text)
        for name in RUN_ARRAYS:
            np.testing.assert_allclose(
                getattr(run, name), getattr(model.run(text), name), rtol=0, atol=ROUNDING, err_msg=name
            )


@pytest.mark.parametrize("n_seq", [1, 5, 13])
@pytest.mark.parametrize("at", ["resid_pre", "resid_mid"])
def test_resuming_an_unchanged_stream_gives_the_runs_logits(model, at, n_seq):
    run = model.run(random_tokens(ODD, n_seq))
    for layer in range(ODD.n_layer):
        logits = model.resume(getattr(run, at)[layer], layer, at)
        np.testing.assert_allclose(logits, run.logits, rtol=0, atol=ROUNDING, err_msg=f"layer {layer}")
    np.testing.assert_array_equal(model.resume(run.resid_post[-1], ODD.n_layer), run.logits)


def test_many_streams_resume_as_each_by_itself(model):
    streams = sequence(2, 3, 5, ODD.n_embd)
    logits = model.resume(streams, 1)
    assert logits.shape == (2, 3, 5, ODD.n_vocab)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(logits[i, j], model.resume(streams[i, j], 1), rtol=0, atol=ROUNDING)


def test_forward_takes_any_leading_axes(model):
    tokens = np.array([[random_tokens(ODD, 5, 3 * i + j) for j in range(3)] for i in range(2)])
    logits = m.forward(tokens, model.weights, ODD)
    assert logits.shape == (2, 3, 5, ODD.n_vocab)
    np.testing.assert_allclose(logits[1, 2], model.run(tokens[1, 2]).logits, rtol=0, atol=ROUNDING)


def test_positions_count_from_the_first_one_asked_for(model):
    tokens = np.array(TOKENS)
    whole = m.embed(tokens, model.weights.wte, model.weights.wpe)
    np.testing.assert_array_equal(whole[2:], m.embed(tokens[2:], model.weights.wte, model.weights.wpe, first_pos=2))


@pytest.mark.parametrize("n_seq", [2, 5, 13])
def test_a_later_token_changes_nothing_before_it(model, n_seq):
    tokens = random_tokens(ODD, n_seq)
    before = model.run(tokens)
    for pos in range(n_seq):
        after = model.run([*tokens[:pos], (tokens[pos] + 1) % ODD.n_vocab, *tokens[pos + 1 :]])
        for name in ("resid_post", "q", "k", "v", "z"):
            old, new = getattr(before, name), getattr(after, name)
            np.testing.assert_allclose(new[..., :pos, :], old[..., :pos, :], rtol=0, atol=ROUNDING, err_msg=name)
        assert abs(after.resid_post[-1, pos:] - before.resid_post[-1, pos:]).max(axis=-1).min() > 1e-6, (
            "it reaches the rest"
        )


# The functions of model.py


@pytest.mark.parametrize("n_q, n_k", [(1, 1), (5, 5), (1, 9), (4, 9), (127, 127), (128, 128), (129, 129), (130, 300)])
@pytest.mark.parametrize("block", [None, 1, 3, 128])
def test_attention_in_blocks_is_attention(n_q, n_k, block):
    q, k, v = sequence(2, 3, n_q, 7), sequence(2, 3, n_k, 7, seed=1), sequence(2, 3, n_k, 7, seed=2)
    np.testing.assert_allclose(m.attend_in_blocks(q, k, v, block), m.attend(q, k, v), rtol=0, atol=ROUNDING)


def test_the_last_queries_are_the_last_rows_of_all_queries():
    """A mask from the top left corner would be right for n_q = n_k only."""
    q, k, v = sequence(2, 9, 7), sequence(2, 9, 7, seed=1), sequence(2, 9, 7, seed=2)
    for n_q in range(1, 10):
        np.testing.assert_allclose(m.attend(q[:, -n_q:], k, v), m.attend(q, k, v)[:, -n_q:], rtol=0, atol=ROUNDING)


def test_the_mask_counts_from_the_lower_right_corner():
    np.testing.assert_array_equal(m.causal_mask(2, 4), [[True, True, True, False], [True, True, True, True]])
    np.testing.assert_array_equal(m.causal_mask(3, 3), np.tri(3, dtype=bool))


def test_attention_by_hand():
    """One token: its value. The first position: its own value. Two keys: a weight computed with math alone."""
    q, k, v = sequence(1, 4, seed=3), sequence(1, 4, seed=4), sequence(1, 4, seed=5)
    np.testing.assert_array_equal(m.attend(q, k, v), v)
    q, k, v = sequence(2, 4, seed=3), sequence(2, 4, seed=4), sequence(2, 4, seed=5)
    z = m.attend(q, k, v)
    np.testing.assert_array_equal(z[0], v[0])
    scores = [sum(a * b for a, b in zip(q[1], key)) / 2 for key in k]  # 1 / sqrt(4)
    weight = 1 / (1 + math.exp(scores[1] - scores[0]))
    np.testing.assert_allclose(z[1], weight * v[0] + (1 - weight) * v[1], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm_by_hand(eps):
    """eps 0.1 shows whether it stands inside the root, and three numbers whether the variance is divided by 3."""
    y = m.layer_norm(np.array([1.0, 2.0, 6.0]), np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -0.5]), eps)
    s = math.sqrt((4 + 1 + 9) / 3 + eps)
    np.testing.assert_allclose(y, [-2 / s + 0.5, -2 / s, 9 / s - 0.5], rtol=0, atol=ROUNDING)


def test_layer_norm_leaves_its_input_alone():
    x = sequence(3, 14)
    before = x.copy()
    m.layer_norm(x, np.ones(14), np.zeros(14), 1e-5)
    np.testing.assert_array_equal(x, before)


def test_gelu_is_the_tanh_form():
    """Against math's own tanh; and the erf form, which is not GPT-2's, is up to 4.7e-4 away."""
    x = np.linspace(-6, 6, 2401)
    tanh = [t / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))) for t in x]
    erf = [t / 2 * (1 + math.erf(t / math.sqrt(2))) for t in x]
    np.testing.assert_allclose(m.gelu(x), tanh, rtol=0, atol=ROUNDING)
    assert 4.6e-4 < abs(m.gelu(x) - erf).max() < 4.8e-4


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_gelu_in_pieces_is_gelu(size):
    x = sequence(1, size)
    expected = m.gelu(x)
    assert m.in_pieces(m.gelu, x, piece=4) is x
    np.testing.assert_array_equal(x, expected)


def test_softmax_of_large_numbers_does_not_overflow():
    np.testing.assert_allclose(
        m.softmax(np.array([1e4, 1e4 - 1])), [1 / (1 + 1 / math.e), 1 / (1 + math.e)], rtol=1e-12
    )


def test_heads_are_columns_in_order():
    x = sequence(2, 5, 14)
    np.testing.assert_array_equal(m.split_heads(x, 2)[1, 1], x[1, :, 7:])
    np.testing.assert_array_equal(m.merge_heads(m.split_heads(x, 2)), x)


# What it refuses

BAD_TOKENS = {
    "beyond the vocabulary": ([1, 11], "token id 11 .* ids 0 to 10"),
    "negative": ([1, -1], "token id -1 .* ids 0 to 10"),
    "empty": ([], "no tokens"),
    "floats": ([1.0, 2.0], "integers, got float64"),
    "booleans": ([True, False], "integers, got bool"),
    "nested": ([[1, 2]], r"flat list.*\[1, 2\]"),
    "a single id": (3, "flat list"),
    "ragged": ([[1, 2], [3]], "flat list|integers"),
    "text": ("hello", "model.encode"),
    "a list of texts": (["1", "2"], "integers"),
    "too long": (list(range(11)) + [0, 1, 2], "14 tokens .* n_ctx = 13"),
    "None": (None, "flat list|integers"),
    "far beyond any integer": ([10**30], "token id|integers"),
}


@pytest.mark.parametrize("tokens, message", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_bad_tokens_are_refused_in_one_sentence(model, tokens, message):
    with pytest.raises(ValueError, match=message) as refusal:
        model.run(tokens)
    assert "\n" not in str(refusal.value)


def test_tokens_may_be_any_integers_in_any_sequence(model):
    logits = model.run(TOKENS).logits
    for tokens in (
        tuple(TOKENS),
        np.array(TOKENS, np.uint8),
        np.array(TOKENS, np.int32),
        [np.int64(t) for t in TOKENS],
    ):
        np.testing.assert_array_equal(model.run(tokens).logits, logits)


def test_a_batch_of_different_lengths_or_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="length"):
        model.run_batch([[1, 2], [1, 2, 3]])
    with pytest.raises(ValueError, match="text"):
        model.run_batch([])


def test_a_run_keeps_what_it_is_asked_to_and_says_so_of_the_rest(model):
    everything, some = model.run(TOKENS), model.run(TOKENS, keep=["q", "k"])
    for name in ("resid_pre", "resid_post", "q", "k", "pattern", "logits"):
        np.testing.assert_array_equal(getattr(some, name), getattr(everything, name))
    for name in ("resid_mid", "attn_out", "mlp_out", "v", "z"):
        with pytest.raises(AttributeError, match=f"did not keep {name}: run the text again with it in keep"):
            getattr(some, name)
    with pytest.raises(AttributeError, match="did not keep q: run the text again with it in keep"):
        model.run(TOKENS, keep=[]).pattern
    with pytest.raises(AttributeError, match="'Run' object has no attribute 'resid'"):
        some.resid
    with pytest.raises(ValueError, match="unknown activation 'patern' to keep; choose from resid_pre, .*, z"):
        model.run(TOKENS, keep=["patern"])


BAD_RESUMES = {
    "one vector": (np.zeros(14), 0, "resid_pre", r"\[\.\.\., n_seq, 14\].*got \[14\]"),
    "another width": (np.zeros((5, 15)), 0, "resid_pre", r"got \[5, 15\]"),
    "no position": (np.zeros((0, 14)), 0, "resid_pre", r"n_seq from 1 to 13, got \[0, 14\]"),
    "too many positions": (np.zeros((14, 14)), 0, "resid_pre", r"n_seq from 1 to 13, got \[14, 14\]"),
    "a layer too high": (
        np.zeros((5, 14)),
        4,
        "resid_pre",
        "layer 4 is out of range: .* 0 to 2, and 3 is the final layer norm",
    ),
    "a negative layer": (np.zeros((5, 14)), -1, "resid_pre", "layer -1 is out of range"),
    "no middle of the final layer norm": (np.zeros((5, 14)), 3, "resid_mid", "layer 3 is out of range: .* 0 to 2$"),
    "an unknown place": (np.zeros((5, 14)), 1, "resid_post", "got 'resid_post'"),
    "half a layer": (np.zeros((5, 14)), 1.5, "resid_pre", "layer"),
    "a layer by name": (np.zeros((5, 14)), "1", "resid_pre", "layer"),
    "words": (["a", "b"], 0, "resid_pre", "resume needs"),
    "not finite": (np.full((5, 14), np.nan), 3, "resid_pre", "finite|NaN|nan"),
}


@pytest.mark.parametrize("resid, layer, at, message", BAD_RESUMES.values(), ids=BAD_RESUMES)
def test_a_bad_resume_is_refused_in_one_sentence(model, resid, layer, at, message):
    with pytest.raises((ValueError, FloatingPointError), match=message) as refusal:
        model.resume(resid, layer, at)
    assert "\n" not in str(refusal.value)


def test_text_needs_a_vocabulary(model):
    with pytest.raises(ValueError, match="without a vocabulary.*token ids"):
        model.encode("text")


@pytest.mark.parametrize("kind", [VocabularyError, HubError])
def test_labels_are_the_ids_where_the_vocabulary_cannot_be_had(kind):
    def tokenizer():
        raise kind("no vocabulary")

    without = GPT2(ODD, random_weights(ODD), tokenizer)
    assert without.labels([3, 1]) == ["3", "1"]
    with pytest.raises(kind, match="no vocabulary"):
        without.encode("text")


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_overflow_names_the_layer(layer):
    weights = random_weights(ODD, np.float32)
    blocks = list(weights.h)
    large = np.sign(blocks[layer].mlp.c_proj.weight) * np.float32(3e38)  # any two added up are beyond float32
    blocks[layer] = blocks[layer]._replace(mlp=blocks[layer].mlp._replace(c_proj=m.Affine(large, large[0])))
    broken = GPT2(ODD, weights._replace(h=tuple(blocks)))
    with pytest.raises(FloatingPointError, match=f"overflowed float32 in layer {layer}.*float64"):
        broken.run(TOKENS)


def test_what_is_given_to_resume_and_is_no_number_is_not_the_weights_fault(model):
    with pytest.raises(FloatingPointError, match="contains NaN, or infinity in float64") as refusal:
        model.resume(np.full((5, 14), np.nan), 3)
    assert "try dtype" not in str(refusal.value) and "weights" not in str(refusal.value)


@pytest.mark.parametrize("keep", ["z", 5, ["mlp_pre"], [None]])
def test_what_cannot_be_kept_is_refused(model, keep):
    with pytest.raises(ValueError, match="keep"):
        model.run(TOKENS, keep=keep)


def test_overflow_after_a_patch_names_the_layer():
    model = random_model(dtype=np.float32)
    resid = model.run(TOKENS).resid_pre[1].copy()
    resid[2, 3] = np.inf
    with pytest.raises(FloatingPointError, match="layer 1"):
        model.resume(resid, 1)


@pytest.mark.parametrize("change", [dict(n_layer=1), dict(n_head=1), dict(n_head=14), dict(d_mlp=5), dict(n_ctx=1)])
def test_no_size_is_wired_in(change):
    config = replace(ODD, **change)
    model = random_model(config)
    n_seq = min(5, config.n_ctx)
    run = model.run(random_tokens(config, n_seq))
    assert run.logits.shape == (n_seq, 11) and run.q.shape == (config.n_layer, config.n_head, n_seq, config.d_head)
    assert re.search(f"{config.n_layer} layers, {config.n_head} heads", repr(model))
