"""Ablations, interactions, Shapley values and causal traces are what runs with overwrites say, one by one."""

from itertools import permutations

import numpy as np
import pytest
from models import ODD, plain_forward, random_model, random_tokens

from minigpt2 import Overwrite
from minigpt2.lens import direct_logit_attribution
from patching import PromptPair
from patching.ablations import ablate, interactions, interactions_one_by_one, shapley, trace
from patching.sources import zero

CLEAN, CORRUPTED, ANSWERS = [3, 1, 4, 1, 5, 9, 2], [3, 1, 7, 1, 5, 9, 6], (2, 8)
PAIR = PromptPair.from_tokens(CLEAN, CORRUPTED, ANSWERS)
ROUNDING = 1e-12  # float64, three layers
ALL_HEADS = [(layer, head) for layer in range(ODD.n_layer) for head in range(ODD.n_head)]


def metric(logits):
    return logits[-1, ANSWERS[1]] - logits[-1, ANSWERS[0]]


def plainly(model, zeroed):
    """The metric of the clean text with z of these heads, or whole mlp_out and attn_out, set to 0: no line shared."""

    def overwrite(name, layer, x):
        x = x.copy()
        for part in zeroed:
            if name == "z" and part[0] == layer and isinstance(part[1], int):
                x[part[1]] = 0
            if part == (layer, name):
                x[:] = 0
        return x

    return metric(plain_forward(CLEAN, model.weights, ODD, overwrite))


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
    assert value == fast.values[fast.heads.index(first), fast.heads.index(second)]
    assert abs(value) == np.abs(fast.values).max()


def test_interactions_by_a_forward_pass_that_shares_no_line(model):
    found = interactions(model, PAIR, [(0, 1), (1, 0), (2, 1)])
    for i, a in enumerate([(0, 1), (1, 0), (2, 1)]):
        for j, b in enumerate([(0, 1), (1, 0), (2, 1)]):
            if i != j:
                joint = plainly(model, [a, b]) - plainly(model, [a]) - plainly(model, [b]) + plainly(model, [])
                assert found.values[i, j] == pytest.approx(joint, abs=ROUNDING)


@pytest.mark.parametrize(
    ("a", "b", "both", "word"),
    [
        (-1, -2, -3, "independent"),
        (-0.1, -0.1, -2, "backing each other up"),
        (-1, -1, -1, "redundant: one loss holds the other"),
        (1, -1, 1, "not additive"),
    ],
)
def test_the_words_for_a_pair(a, b, both, word):
    from patching.ablations.interactions import kind_of_pair

    found = kind_of_pair(a, b, both)
    assert found == word or word == "not additive" and found.startswith(("not", "redundant"))


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
        (lambda m: interactions(m, PAIR, ["1.1"]), "at least two heads"),
        (lambda m: interactions(m, PAIR, ["1.1", "mlp 0"]), "mlp 0 is none"),
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
