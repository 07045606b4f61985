"""Ablations, interactions, Shapley values and causal traces are what runs with overwrites say, one by one."""

from itertools import permutations

import numpy as np
import pytest
from models import ODD, plain_forward, random_model, random_tokens

from minigpt2 import Overwrite
from minigpt2.lens import direct_logit_attribution
from patching import PromptPair
from patching.ablations import ablate, interactions, interactions_one_by_one, shapley, trace
from patching.ablations.interactions import kind_of_pair
from patching.sources import at, noise, steer, zero

CLEAN, CORRUPTED, ANSWERS = [3, 1, 4, 1, 5, 9, 2], [3, 1, 7, 1, 5, 9, 6], (2, 8)
PAIR = PromptPair.from_tokens(CLEAN, CORRUPTED, ANSWERS)
ROUNDING = 1e-12  # float64, three layers
ALL_HEADS = [(layer, head) for layer in range(ODD.n_layer) for head in range(ODD.n_head)]


def metric(logits):
    return logits[-1, ANSWERS[1]] - logits[-1, ANSWERS[0]]


def plainly(model, zeroed):
    """The metric of the clean text with z of these heads, or whole mlp_out and attn_out, set to 0: no line shared."""
    return metric(plain_forward(CLEAN, model.weights, ODD, zeroing(zeroed)))


def zeroing(zeroed):
    def overwrite(name, layer, x):
        x = x.copy()
        for part in zeroed:
            if name == "z" and part[0] == layer and isinstance(part[1], int):
                x[part[1]] = 0
            if part == (layer, name):
                x[:] = 0
        return x

    return overwrite


def test_each_part_alone_and_all_together(model):
    result = ablate(model, PAIR, ["0.1", (2, 0), "mlp 1", "attn 2"])
    parts = [(0, 1), (2, 0), (1, "mlp_out"), (2, "attn_out")]
    assert result.parts == ("0.1", "2.0", "mlp 1", "attn 2")
    np.testing.assert_allclose(result.alone, [plainly(model, [part]) for part in parts], rtol=0, atol=ROUNDING)
    assert result.together == pytest.approx(plainly(model, parts), abs=ROUNDING)
    assert result.intact == pytest.approx(plainly(model, []), abs=ROUNDING)
    assert (result.run.z[0, 1] == 0).all() and (result.run.attn_out[2] == 0).all()
    assert "zero" in repr(result) and "all together" in repr(result)


def test_the_corrupted_run_is_a_source_and_positions_are_chosen(model):
    """Every head at the last position from the corrupted run, by its definition."""
    other = model.run(CORRUPTED)
    result = ablate(model, PAIR, ALL_HEADS, source=None, positions=[-1])

    def overwrite(name, layer, x):
        x = x.copy()
        if name == "z":
            x[:, -1] = other.z[layer][:, -1]
        return x

    expected = metric(plain_forward(CLEAN, model.weights, ODD, overwrite))
    assert result.together == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("source", ["zero", None, "transformer_lens zero"])
def test_interactions_in_passes_equal_those_of_single_runs(model, source, direction):
    fast = interactions(model, PAIR, source=source, direction=direction)
    slow = interactions_one_by_one(model, PAIR, source=source, direction=direction)
    np.testing.assert_allclose(fast.together, slow.together, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(fast.values, slow.values, rtol=0, atol=4 * ROUNDING)
    assert (fast.values == fast.values.T).all() and np.abs(fast.values).max() > 1e-6
    first, second, value = fast.strongest(1)[0]
    assert value == fast.values[fast.parts.index(first), fast.parts.index(second)]
    assert abs(value) == np.abs(fast.values).max()


def test_interactions_by_a_forward_pass_that_shares_no_line(model):
    found = interactions(model, PAIR, [(0, 1), (1, 0), (2, 1)])
    for i, a in enumerate([(0, 1), (1, 0), (2, 1)]):
        for j, b in enumerate([(0, 1), (1, 0), (2, 1)]):
            if i != j:
                joint = plainly(model, [a, b]) - plainly(model, [a]) - plainly(model, [b]) + plainly(model, [])
                assert found.values[i, j] == pytest.approx(joint, abs=ROUNDING)


def test_interactions_of_other_parts_and_sources_by_their_definition(model):
    """Where what is written depends on the run (noise, steering), it is the intact run's in both; a metric with a scale has
    the intact runs' scale."""
    parts = ["mlp 2", "0.1", "attn 1", "2.0", "mlp 0", "1.0"]
    vector = np.linspace(-1, 1, 14)
    for source in (noise(0.5, seed=3, n=2), at(layer=0, position=1), "zero"):
        fast, slow = (
            f(model, PAIR, parts, source, metric="normalised") for f in (interactions, interactions_one_by_one)
        )
        np.testing.assert_allclose(fast.together, slow.together, rtol=0, atol=10 * ROUNDING)
        assert fast.parts == slow.parts == ("0.1", "mlp 0", "1.0", "attn 1", "2.0", "mlp 2") and fast.none == 1
    fast, slow = (
        f(model, PAIR, parts[:1] + parts[4:5], steer(vector)) for f in (interactions, interactions_one_by_one)
    )
    np.testing.assert_allclose(fast.together, slow.together, rtol=0, atol=10 * ROUNDING)


def test_several_draws_are_means_over_draws(model):
    source = noise(0.5, seed=3, n=3)
    for f in (interactions, ablate):
        both, each = (
            f(model, PAIR, ["0.1", "2.0"], source),
            [f(model, PAIR, ["0.1", "2.0"], one) for one in source.draws],
        )
        np.testing.assert_allclose(both.alone, np.mean([one.alone for one in each], axis=0), rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(
            both.together, np.mean([one.together for one in each], axis=0), rtol=0, atol=ROUNDING
        )
        assert np.ptp([one.alone for one in each], axis=0).min() > 1e-6


def test_a_text_by_itself_has_its_loss(model):
    def of(zeroed):
        logits = plain_forward(CLEAN, model.weights, ODD, zeroing(zeroed))
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return -np.mean([np.log(row[token]) for row, token in zip(p, CLEAN[1:])])

    result = ablate(model, CLEAN, ["0.1", "mlp 1"])
    expected = [of([(0, 1)]), of([(1, "mlp_out")]), of([(0, 1), (1, "mlp_out")]), of([])]
    np.testing.assert_allclose([*result.alone, result.together, result.intact], expected, rtol=0, atol=ROUNDING)
    assert "loss" in result.unit and ablate(model, PAIR, ["0.1"], metric="loss").alone[0] == result.alone[0]
    own = ablate(model, CLEAN, ["0.1"], metric=lambda logits: logits[8] - logits[2])
    np.testing.assert_allclose(own.alone, ablate(model, PAIR, ["0.1"]).alone, rtol=0, atol=ROUNDING)
    with pytest.raises(ValueError, match="no answers to attribute"):
        result.direct_attributions()


@pytest.mark.parametrize(
    ("a", "b", "both", "word"),
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
        (0.0, 0.0, 0.0, "independent"),
    ],
)
def test_the_words_for_a_pair(a, b, both, word):
    for sign in (1, -1):
        assert kind_of_pair(sign * a, sign * b, sign * both) == kind_of_pair(sign * b, sign * a, sign * both) == word


def test_the_picture_has_every_pair_once_and_names_the_strongest(model):
    from patching.draw.interactions import figure

    found = interactions(model, PAIR)
    fig, lower = figure(found, strongest=3), np.tril_indices(6, -1)
    shown = np.ma.filled(fig.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown[lower], found.values[lower])
    assert np.isnan(shown[np.triu_indices(6)]).all()
    text = fig.axes[0].get_xlabel()
    assert all(found.describe(a, b) in text for a, b, _ in found.strongest(3)) and text.count("\n") == 2
    assert len(fig.axes[0].patches) == 3


def test_shapley_values_are_means_over_all_orders_and_sum_to_the_whole(model):
    groups = {"early": [(0, 0), (0, 1)], "middle": ["1.1"], "late": [(2, 0)], "rest": [(1, 0), (2, 1)]}
    result = shapley(model, PAIR, groups)
    assert result.values.sum() == pytest.approx(result.all_groups - result.none, abs=ROUNDING)
    heads = {
        name: [tuple(map(int, h.split("."))) if isinstance(h, str) else h for h in some]
        for name, some in groups.items()
    }
    gains = {name: [] for name in groups}
    for order in permutations(groups):
        zeroed, before = [], plainly(model, [])
        for name in order:
            zeroed += heads[name]
            gains[name].append(plainly(model, zeroed) - before)
            before += gains[name][-1]
    np.testing.assert_allclose(result.values, [np.mean(some) for some in gains.values()], rtol=0, atol=ROUNDING)


def test_a_trace_by_its_definition(model):
    text, subject, answer, scale = random_tokens(ODD, 6), [1, 2], 4, 0.3
    result = trace(model, text, subject, answer, noise=scale, n=3, seed=5, window=2)
    clean = model.run(text)
    softmax = lambda logits: np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()  # noqa: E731
    expected = {"stream": np.zeros((3, 6)), "mlp": np.zeros((3, 6)), "attention": np.zeros((3, 6))}
    low = []
    for draw in range(3):
        vectors = scale * np.random.default_rng([5, draw]).standard_normal((2, ODD.n_embd))
        noise = Overwrite(0, "resid_pre", vectors, positions=subject, add=True)
        low.append(softmax(model.run(text, overwrites=[noise]).logits[-1])[answer])
        for name, site, window in (("stream", "resid_post", 1), ("mlp", "mlp_out", 2), ("attention", "attn_out", 2)):
            for layer in range(3):
                for pos in range(6):
                    layers = range(max(0, layer - window // 2), min(3, layer - window // 2 + window))
                    restored = [Overwrite(i, site, clean, positions=[pos]) for i in layers]
                    run = model.run(text, overwrites=[noise, *restored])
                    expected[name][layer, pos] += softmax(run.logits[-1])[answer] / 3
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(result, name).values, values, rtol=0, atol=ROUNDING)
    assert result.low == pytest.approx(np.mean(low), abs=ROUNDING)
    assert result.high == pytest.approx(softmax(clean.logits[-1])[answer], abs=ROUNDING)
    assert (result.stream.spread >= 0).all() and result.stream.spread.max() > 0
    assert result.stream.at(layer=2, position=5) == pytest.approx(result.high, abs=ROUNDING)


def test_the_terms_of_an_overwritten_run_sum_to_its_logit_difference(model):
    some = [
        Overwrite(1, "z", 0.0, heads=[1]),
        Overwrite(2, "resid_mid", 0.3, positions=[-1]),
        Overwrite(0, "result", 0.1, heads=[0]),
    ]
    run = model.run(CLEAN, overwrites=some)
    found = direct_logit_attribution(run, 8, 2)
    assert sum(value for _, value in found.terms) == pytest.approx(metric(run.logits), abs=ROUNDING)
    assert found.heads[1, 1] == 0 and abs(found.overwritten) > 1e-3
    only_z = direct_logit_attribution(model.run(CLEAN, overwrites=some[:1]), 8, 2)
    assert abs(only_z.overwritten) < ROUNDING


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: ablate(m, PAIR, []), "no part to ablate"),
        (lambda m: ablate(m, PAIR, "9.6"), "parts must be a list"),
        (lambda m: ablate(m, PAIR, ["9.6"]), "layer 9 is out of range: .* 3 layers"),
        (lambda m: ablate(m, PAIR, ["1.5"]), "head 5 is out of range: .* 2 heads"),
        (lambda m: ablate(m, PAIR, ["head 1"]), "a part is"),
        (lambda m: ablate(m, PAIR, ["1.1", (1, 1)]), "part 1.1 is given twice"),
        (lambda m: ablate(m, PAIR, ["1.1"], source="nought"), "unknown source 'nought'"),
        (lambda m: interactions(m, PAIR, ["1.1"]), "at least two parts"),
        (lambda m: ablate(m, CLEAN, ["1.1"], source=None), "no other run to take vectors from"),
        (lambda m: ablate(m, CLEAN, ["1.1"], metric="normalised"), "a text by itself has no answers"),
        (lambda m: ablate(m, [3], ["1.1"]), "at least two tokens"),
        (lambda m: shapley(m, PAIR, {}), "1 to 10 lists"),
        (lambda m: shapley(m, PAIR, {"a": ["1.1"], "b": [(1, 1)]}), "part 1.1 is given twice"),
        (lambda m: trace(m, CLEAN, [9], 2), "position 9 is out of range: the text has 7 tokens"),
        (lambda m: trace(m, CLEAN, [1], 2, noise=-1), "noise must be a standard deviation above 0"),
        (lambda m: trace(m, CLEAN, [1], 2, n=0), "n, the number of draws"),
        (lambda m: trace(m, CLEAN, [1], 99), "token id 99 is not in the vocabulary"),
    ],
)
def test_what_cannot_be_asked_gets_one_sentence(model, call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_a_source_object_serves_as_its_name_does(model):
    np.testing.assert_array_equal(
        ablate(model, PAIR, ["1.1"], source=zero()).alone, ablate(model, PAIR, ["1.1"], source="zero").alone
    )


def test_the_subject_is_found_in_the_text():
    from minigpt2 import GPT2
    from patching.ablations.trace import subject_positions

    bundled = GPT2.from_pretrained("bundled")
    tokens = bundled.encode("Michelle Jones was a top-notch student. Michelle")
    assert subject_positions(bundled, tokens, "Jones") == [1]
    with pytest.raises(ValueError, match="more than once"):
        subject_positions(bundled, tokens, "Michelle")
    with pytest.raises(ValueError, match="is not in the text"):
        subject_positions(bundled, tokens, "Smith")
    assert random_model().config == ODD
