"""Ablations, interactions, Shapley values and causal traces by their definitions: a run with overwrites for each value, with
models/plain_forward where the overwriting itself is the question, in float64."""

from itertools import combinations, permutations

import numpy as np
import pytest
from models import ODD, plain_forward, random_model, random_tokens

from minigpt2 import GPT2, Overwrite
from minigpt2 import model as m
from patching import PromptPair, sources, sweep
from patching.ablations import ablate, interactions, interactions_one_by_one, shapley, trace
from patching.ablations.interactions import Interactions

ROUNDING = 1e-11  # float64 through three blocks, on logits of a few units
CLEAN, CORRUPTED, ANSWERS = [3, 1, 4, 1, 5], [3, 1, 7, 1, 6], (2, 8)
PAIR, MODEL = PromptPair.from_tokens(CLEAN, CORRUPTED, ANSWERS), random_model()
TEXTS = [random_tokens(ODD, 5, seed) for seed in (1, 2, 3)]
HEADS = [(layer, head) for layer in range(3) for head in range(2)]
SOURCES = {
    "zero": "zero",
    "TransformerLens's zero": "transformer_lens zero",
    "other run": "other run",
    "mean": sources.mean(TEXTS),
    "noise": sources.noise(0.5, seed=3, n=2),
    "another place": sources.at(layer=0, position=1),
}


def zeroed(heads, tokens=CLEAN):
    """The logits [n_seq, n_vocab] of a text with z of some heads 0, by a forward pass that shares no line with minigpt2."""

    def overwrite(name, layer, x):
        if name == "z":
            for of_layer, head in heads:
                if of_layer == layer:
                    x[head] = 0
        return x

    return plain_forward(tokens, MODEL.weights, ODD, overwrite)


def difference(logits):
    return logits[-1, 8] - logits[-1, 2]


def loss_of(logits, tokens=CLEAN):
    return float(np.mean([-np.log(m.softmax(row)[token]) for row, token in zip(logits, tokens[1:])]))


# Ablations


def test_each_alone_and_all_together_by_definition():
    groups = [(0, 1), [(1, 0), (2, 1)], (2, 0)]
    found = ablate(MODEL, PAIR, groups)
    assert found.names == ("0.1", "1.0 + 2.1", "2.0")
    sets = [[(0, 1)], [(1, 0), (2, 1)], [(2, 0)]]
    expected = [difference(zeroed(heads)) for heads in [*sets, sum(sets, []), []]]
    np.testing.assert_allclose([*found.alone, found.together, found.intact], expected, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found.effects, found.alone - found.intact)
    assert found.effect_together == found.together - found.intact
    assert "without 0.1" in repr(found) and "written: zero" in repr(found) and "intact" in repr(found)


def test_a_text_has_its_loss_and_a_function_of_its_own():
    found = ablate(MODEL, CLEAN, HEADS[:3])
    expected = [loss_of(zeroed(heads)) for heads in ([HEADS[0]], [HEADS[1]], [HEADS[2]], HEADS[:3], [])]
    np.testing.assert_allclose([*found.alone, found.together, found.intact], expected, rtol=0, atol=ROUNDING)
    assert found.unit == "loss (nats per token)"
    own = ablate(MODEL, CLEAN, HEADS[:3], metric=lambda logits: logits[8] - logits[2])
    np.testing.assert_allclose(own.alone, ablate(MODEL, PAIR, HEADS[:3]).alone, rtol=0, atol=ROUNDING)
    assert ablate(MODEL, PAIR, HEADS[:3], metric="loss").together == found.together


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("site, places", [("z", [(0, 1), (2, 0, 3)]), ("mlp_out", [(0,), (1, 4)]), ("pattern", [(1, 1)])])
def test_single_ablations_are_the_sweeps(source, site, places):
    found = ablate(MODEL, PAIR, places, site, source=SOURCES[source], metric="clean_probability")
    swept = sweep(
        MODEL, PAIR, site, source=SOURCES[source], places=[[place] for place in places] + [places],
        metric="clean_probability",
    )  # fmt: skip
    np.testing.assert_allclose([*found.alone, found.together], swept.values, rtol=0, atol=ROUNDING)
    assert abs(found.intact - swept.clean_value) < ROUNDING and found.source == swept.source


@pytest.mark.parametrize(
    "texts, places, options, message",
    [
        (PAIR, [(0, 5)], {}, r"head 5 is out of range: seeded has 2 heads \(0 to 1\)"),
        (PAIR, [(0, 1), [(1, 1), (0, 1, 2)]], {}, r"a set of places contains \(0, 1, 2\) twice"),
        (PAIR, "9.9", {}, r"places must be a list, e.g. \[\(9, 9\), \(9, 6\)\], got '9.9'"),
        (PAIR, [], {}, r"places must be a list"),
        (PAIR, [(0, 1)], {"source": "nought"}, "unknown source 'nought'"),
        (CLEAN, [(0, 1)], {"source": "other run"}, "one text has no other run"),
        (CLEAN, [(0, 1)], {"metric": "logit_difference"}, "one text has no two answers to compare"),
        ([3], [(0, 1)], {}, "the loss of a text needs at least two tokens"),
    ],
)
def test_what_cannot_be_ablated_is_refused(texts, places, options, message):
    with pytest.raises(ValueError, match=message):
        ablate(MODEL, texts, places, **options)


# Interactions


@pytest.mark.parametrize("source", [*SOURCES, None])
def test_interactions_are_those_one_by_one(source):
    places = [(2, 1), (0, 0), [(1, 1), (0, 1)], (1, 0), (2, 0)]  # in no order, with a group across layers
    chosen = {"source": SOURCES.get(source), "metric": "normalised"}
    fast, slow = (f(MODEL, PAIR, places, **chosen) for f in (interactions, interactions_one_by_one))
    np.testing.assert_allclose(fast.values, slow.values, rtol=0, atol=ROUNDING)
    assert fast.intact == slow.intact and fast.names == slow.names == ("2.1", "0.0", "1.1 + 0.1", "1.0", "2.0")
    assert np.array_equal(fast.values, fast.values.T)


@pytest.mark.parametrize(
    "site, places",
    [("mlp_out", [(0,), (2, 4), (1, 1), (1, 3)]), ("k", [(0, 1, 2), (0, 1, 3), (2, 0), (1, 1)]), ("resid_post", [(0, 2), (1, 3)])],
)
def test_interactions_of_other_sites_are_those_one_by_one(site, places):
    for source in ("zero", None):
        fast, slow = (f(MODEL, PAIR, places, site, source=source) for f in (interactions, interactions_one_by_one))
        np.testing.assert_allclose(fast.values, slow.values, rtol=0, atol=ROUNDING)


def test_an_interaction_is_what_both_do_less_what_each_does():
    found = interactions(MODEL, PAIR, HEADS)
    f = lambda *heads: difference(zeroed(heads))  # noqa: E731
    for i, j in combinations(range(len(HEADS)), 2):
        expected = f(HEADS[i], HEADS[j]) - f(HEADS[i]) - f(HEADS[j]) + f()
        assert abs(found.matrix[i, j] - expected) < 4 * ROUNDING and found.matrix[i, j] == found.matrix[j, i]
    np.testing.assert_allclose(found.effects, [f(head) - f() for head in HEADS], rtol=0, atol=ROUNDING)
    assert np.isnan(np.diagonal(found.matrix)).all()
    first, second = found.strongest(2)
    assert np.abs(found.matrix[first]) == np.nanmax(np.abs(found.matrix)) >= np.abs(found.matrix[second])
    assert found.names[first[0]] in repr(found)


def test_heads_of_the_last_layer_add_up_to_the_last_layer_norm():
    """z of two heads of one layer are summands of one stream: with a metric that is linear in it they do not interact. The
    layer norm is not linear; in a model whose stream is far larger than what the heads add, it nearly is."""
    weights = MODEL.weights._replace(wte=MODEL.weights.wte * 1000)
    large = GPT2(ODD, weights, name="large")
    found = interactions(large, PAIR, [(2, 0), (2, 1)])
    assert np.abs(found.effects).min() > 0 and abs(found.matrix[0, 1]) < 1e-2 * np.abs(found.effects).max()


def test_interactions_of_noise_are_means_over_draws():
    both = [interactions(MODEL, PAIR, HEADS[:3], source=draw) for draw in sources.noise(0.5, n=2).draws]
    mean = interactions(MODEL, PAIR, HEADS[:3], source=sources.noise(0.5, n=2))
    np.testing.assert_allclose(mean.values, (both[0].values + both[1].values) / 2, rtol=0, atol=ROUNDING)
    assert np.abs(both[0].values - both[1].values).max() > 1e-6


@pytest.mark.parametrize(
    "a, b, both, kind",
    [
        (-1, -2, -3, "independent"),
        (-0.1, -0.2, -1.5, "redundant"),
        (0.0, 0.0, 3.0, "redundant"),
        (-1, 0.1, -1.8, "backing up"),
        (1, 0.9, 1.02, "serial"),
        (-3, -1, -3, "serial"),
        (-3, -2, -4, "overlapping"),
        (3, -1, 2.8, "opposed"),
        (8, 0.2, 1, "undoing"),
        (8, 0.2, -7, "undoing"),
    ],
)
def test_the_kinds_are_what_the_numbers_show(a, b, both, kind):
    for sign in (1, -1):
        values = 5 + sign * np.array([[a, both], [both, b]], float)
        found = Interactions(("x", "y"), values, 5.0, "unit", "zero", "model")
        assert found.kind(0, 1) == found.kind(1, 0) == kind
        assert f"x and y, {kind}" in found.words(0, 1)


def test_places_that_overlap_and_progress():
    for f in (interactions, interactions_one_by_one, shapley):
        with pytest.raises(ValueError, match=r"the sets must not overlap, and they contain \(0, 1, 2\) twice"):
            f(MODEL, PAIR, [(0, 1), [(0, 1, 2), (1, 1)]])
    seen = []
    interactions(MODEL, PAIR, HEADS[:3], progress=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert interactions(MODEL, PAIR, HEADS[:1]).values.shape == (1, 1)


# Shapley values


def test_shapley_values_by_all_orders():
    groups = {"early": [(0, 0), (0, 1)], "1.1": [(1, 1)], "2.0": [(2, 0)], "two": [(1, 0), (2, 1)]}
    found = shapley(MODEL, PAIR, groups)
    sets, values, orders = list(groups.values()), np.zeros(4), list(permutations(range(4)))
    f = {some: difference(zeroed(sum((sets[i] for i in some), []))) for some in subsets(4)}
    for order in orders:
        for at, i in enumerate(order):
            values[i] += f[tuple(sorted(order[: at + 1]))] - f[tuple(sorted(order[:at]))]
    np.testing.assert_allclose(found.values, values / len(orders), rtol=0, atol=ROUNDING)
    assert found.names == tuple(groups) and "early" in repr(found)
    for bits, value in enumerate(found.metric):
        assert abs(value - f[tuple(i for i in range(4) if bits >> i & 1)]) < ROUNDING


def subsets(n):
    return [some for size in range(n + 1) for some in combinations(range(n), size)]


@pytest.mark.parametrize("source", [*SOURCES, None])
def test_shapley_values_sum_to_the_whole_effect(source):
    places = [*HEADS[:4], [(2, 0), (2, 1, 4)]]
    found = shapley(MODEL, PAIR, places, source=SOURCES.get(source), metric="clean_log_probability")
    everything = sweep(
        MODEL, PAIR, "z", source=SOURCES.get(source), metric="clean_log_probability",
        places=[[*HEADS[:4], (2, 0), (2, 1, 4)]],
    )  # fmt: skip
    assert abs(found.values.sum() - (everything.values[0] - everything.base_value)) < ROUNDING
    assert np.abs(found.values).min() > 0


def test_a_group_that_changes_nothing_has_no_share_and_equal_groups_have_equal_ones():
    found = shapley(MODEL, PAIR, [(2, 0, 1), (2, 1), (0, 1)])  # of the last layer only the last position is read
    assert abs(found.values[0]) < ROUNDING < np.abs(found.values[1:]).min()


def test_more_than_ten_groups_are_refused():
    with pytest.raises(ValueError, match="11 groups have 2,048 sets: exact Shapley values take at most 10 groups"):
        shapley(MODEL, PAIR, [(0, 0, 1)] * 11)


# Causal traces


def noisy(added, at, restore=()):
    """p(answer 2) of the clean text with noise on the stream before layer 0 at some positions, with clean vectors restored
    at (name, layer, position)."""
    clean = {}

    def seen(name, layer, x):
        clean[name, layer] = x.copy()
        return x

    plain_forward(CLEAN, MODEL.weights, ODD, seen)

    def overwrite(name, layer, x):
        if (name, layer) == ("resid_pre", 0):
            x = x.copy()
            x[at] += added
        for what, of_layer, position in restore:
            if (what, of_layer) == (name, layer):
                x = x.copy()
                x[position] = clean[name, layer][position]
        return x

    return m.softmax(plain_forward(CLEAN, MODEL.weights, ODD, overwrite)[-1])[2]


def test_a_trace_is_the_definition_of_its_paper():
    at, window = [1, 2], 2
    found = trace(MODEL, CLEAN, at, 2, noise=0.7, n=2, seed=5, window=window)
    drawn = [0.7 * np.random.default_rng([5, i]).standard_normal((2, ODD.n_embd)) for i in range(2)]
    mean = lambda restore=(): np.mean([noisy(added, at, restore) for added in drawn])  # noqa: E731
    assert abs(found.low - mean()) < ROUNDING and abs(found.high - noisy(0, at)) < ROUNDING
    for layer in range(3):
        some = range(max(0, layer - window // 2), min(3, layer - (-window // 2)))  # the original's own formula
        for position in range(5):
            for name, layers, part in (
                ("resid_post", [layer], found.stream), ("mlp_out", some, found.mlp), ("attn_out", some, found.attention)
            ):  # fmt: skip
                expected = mean([(name, each, position) for each in layers])
                assert abs(part.values[layer, position] - expected) < ROUNDING
    assert (found.stream.values[:, 0] == pytest.approx(found.low)) and np.ptp(found.stream.values) > 1e-4
    assert found.stream.spread.shape == (3, 5) and found.stream.tokens.differing == (1, 2)
    assert "mean of 2" in repr(found) and "noise of 0.7 on positions 1, 2" in found.mlp.source


def test_three_sigma_is_three_standard_deviations_of_the_embeddings():
    found = trace(MODEL, CLEAN, [1], 2, n=1)
    assert found.noise == pytest.approx(3 * np.std(MODEL.weights.wte)) and found.stream.spread is None
    again, other = (trace(MODEL, CLEAN, [1], 2, n=1, seed=seed) for seed in (0, 1))
    assert np.array_equal(found.mlp.values, again.mlp.values) and found.low != other.low


def test_a_subject_is_found_by_its_text():
    bundled = GPT2.from_pretrained("bundled")
    text = "Michelle Jones was a top-notch student. Michelle"
    found = trace(bundled, text, "Michelle Jones", " Jones", n=1, window=3)
    assert found.subject == (0, 1) and found.stream.corrupted_labels[:3] == ("noise", "noise", "␣was")
    assert found.stream.answer_labels[0] == "␣Jones" and found.stream.unit == "p(␣Jones)"
    assert trace(bundled, text, "nes was", " Jones", n=1).subject == (1, 2)
    for subject, message in (("Peter", "the subject 'Peter' is not in the text"), ([11], "position 11 is out of range")):
        with pytest.raises(ValueError, match=message):
            trace(bundled, text, subject, " Jones")
    with pytest.raises(ValueError, match="noise must be a number above 0"):
        trace(bundled, text, [1], " Jones", noise=-1)


# The picture


def test_the_picture_has_every_pair_once_and_names_the_strongest():
    from patching.draw.interactions import figure

    found = interactions(MODEL, PAIR, HEADS)
    fig = figure(found, strongest=3)
    shown = fig.axes[0].images[0].get_array()
    lower = np.tril_indices(6, -1)
    np.testing.assert_array_equal(shown[lower], found.matrix[lower])
    assert np.isnan(np.asarray(shown)[np.triu_indices(6)]).all()
    text = fig.axes[0].get_xlabel()
    assert all(found.words(i, j) in text for i, j in found.strongest(3)) and text.count("\n") == 2
    with pytest.raises(ValueError, match="one place has no partner"):
        figure(interactions(MODEL, PAIR, HEADS[:1]))


def test_overwrites_and_ablations_agree():
    """ablate is run(overwrites=...) with the source's vectors."""
    run = MODEL.run(CLEAN, overwrites=[Overwrite(1, "z", 0, heads=[1]), Overwrite(2, "z", 0, heads=[0])])
    assert abs(ablate(MODEL, PAIR, [(1, 1), (2, 0)]).together - difference(run.logits)) < ROUNDING
