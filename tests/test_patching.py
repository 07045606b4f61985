"""Patches do what they say: each site against an independent forward pass, the invariants that need no reference, and
what is said about prompts that cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest
from models import ODD, plain_forward, random_model, random_tokens

from patching import METRICS, SITES, PromptPair, Result, attribute, sweep, sweep_one_by_one
from patching.plan import Plan, Question
from patching.sources import of_run

# float64 through three blocks, on logits of a few units
ROUNDING = 1e-11

CLEAN, CORRUPTED = [3, 1, 4, 1, 5], [3, 1, 7, 1, 6]  # the first difference is at 2; positions 3 hold the same token
PAIR = PromptPair.from_tokens(CLEAN, CORRUPTED, (2, 8))
VECTOR_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEAD_SITES = ("z", "q", "k", "v", "pattern")
ALL_POSITIONS = (*VECTOR_SITES, *HEAD_SITES)


# An independent reference: overwrite the activation at the moment at which it is computed


def values_by_hand(model, pair, site, *, alpha=1.0, noising=False, positions=None):
    """Every value of a sweep from one plain forward pass each: models.plain_forward shares no line with the sweeps."""
    (clean, corrupted), answers, c = pair.ids, pair.answers, model.config
    base, source = (clean, corrupted) if noising else (corrupted, clean)
    activation, n_seq, seen = ("pattern" if site == "pattern_entry" else site), len(base), {}

    def keep(name, layer, x):
        seen[name, layer] = x
        return x

    plain_forward(source, model.weights, c, keep)
    places = np.arange(n_seq) if positions is None else positions
    shape = (c.n_layer,)
    shape += (c.n_head,) if site not in VECTOR_SITES else ()
    shape += () if positions == "all" else (len(places),)
    shape += (n_seq,) if site == "pattern_entry" else ()
    values = np.empty(shape)
    for index in np.ndindex(shape):
        layer, rest = index[0], list(index[1:])
        head = rest.pop(0) if site not in VECTOR_SITES else ...
        at = slice(None) if positions == "all" else places[rest.pop(0)]
        entry = (head, at, *rest) if head is not ... else (at,)

        def patch(name, where, x, layer=layer, entry=entry):
            if (name, where) != (activation, layer):
                return x
            x = x.copy()
            x[entry] = (1 - alpha) * x[entry] + alpha * seen[name, where][entry]
            return x

        logits = plain_forward(base, model.weights, c, patch)[-1]
        values[index] = logits[answers[1]] - logits[answers[0]]
    return values


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("choices", [{}, {"alpha": 0.3}, {"direction": "noising"}], ids=str)
def test_every_site_is_what_an_independent_forward_pass_gives(model, site, choices):
    by_hand = {"alpha": choices.get("alpha", 1.0), "noising": choices.get("direction") == "noising"}
    by_hand = values_by_hand(model, PAIR, site, **by_hand)
    for some_sweep in (sweep, sweep_one_by_one):
        np.testing.assert_allclose(some_sweep(model, PAIR, site, **choices).values, by_hand, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("site", ALL_POSITIONS)
def test_every_site_over_all_positions_is_what_an_independent_forward_pass_gives(model, site):
    by_hand = values_by_hand(model, PAIR, site, positions="all")
    for some_sweep in (sweep, sweep_one_by_one):
        values = some_sweep(model, PAIR, site, positions="all").values
        np.testing.assert_allclose(values, by_hand, rtol=0, atol=ROUNDING)


# Invariants that need no reference


@pytest.mark.parametrize("site", SITES)
def test_a_run_patched_into_itself_changes_nothing(model, site):
    """The pair needs a difference, so the run is made its own source afterwards."""
    question = Question(model, PAIR, site)
    plan = Plan(question)
    plan.source = of_run(plan.base)
    for patch in question.patches():
        logits = model.run(CORRUPTED, overwrites=plan.overwrites(patch)).logits
        np.testing.assert_allclose(logits, plan.base.logits, rtol=0, atol=ROUNDING, err_msg=str(patch))


@pytest.mark.parametrize("site", SITES)
def test_alpha_0_writes_nothing(model, site):
    result = sweep(model, PAIR, site, alpha=0)
    np.testing.assert_allclose(result.values, result.corrupted_value, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", SITES)
def test_before_the_first_difference_nothing_changes(model, site, direction):
    for some_sweep in (sweep, sweep_one_by_one):
        result = some_sweep(model, PAIR, site, direction=direction)
        position = result.values.ndim - 1 - (site == "pattern_entry")
        before = np.take(result.values, [0, 1], axis=position)
        np.testing.assert_allclose(before, result.base_value, rtol=0, atol=ROUNDING)
        assert abs(result.values - result.base_value).max() > 1e-3, "later positions do change it"


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "resid_mid", "attn_out", "z", "q", "pattern"])
def test_the_last_layer_matters_only_at_the_last_position(model, site):
    result = sweep(model, PAIR, site)
    np.testing.assert_allclose(result.values[-1][..., :-1], result.corrupted_value, rtol=0, atol=ROUNDING)
    assert (abs(result.values[-1][..., -1] - result.corrupted_value) > 1e-6).all()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["resid_post", "resid_mid"])
def test_the_last_layers_last_position_is_the_other_run(model, site, direction):
    for some_sweep in (sweep, sweep_one_by_one):
        result = some_sweep(model, PAIR, site, direction=direction)
        assert abs(result.values[-1, -1] - result.target_value) <= ROUNDING


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_all_positions_of_the_stream_are_the_other_run(model, site, direction):
    for some_sweep in (sweep, sweep_one_by_one):
        result = some_sweep(model, PAIR, site, direction=direction, positions="all")
        np.testing.assert_allclose(result.values, result.target_value, rtol=0, atol=ROUNDING)


def test_one_layers_output_is_the_next_layers_input(model):
    pre, post = sweep(model, PAIR, "resid_pre").values, sweep(model, PAIR, "resid_post").values
    np.testing.assert_allclose(post[:-1], pre[1:], rtol=0, atol=ROUNDING)


def test_a_token_changed_alone_is_undone_by_its_first_stream():
    """Prompts that differ in one token: resid_pre of layer 0 at that position is all of the difference."""
    model, pair = random_model(), PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 1, 7, 1, 5], (2, 8))
    result = sweep(model, pair, "resid_pre")
    assert abs(result.values[0, 2] - result.clean_value) <= ROUNDING


def test_patching_changes_neither_run(model):
    question = Question(model, PAIR, "z", positions="all", window=2)
    plan = Plan(question)
    before = {name: getattr(plan.base, name).copy() for name in ("resid_pre", "resid_mid", "z")}
    for patch in question.patches():
        for overwrite in plan.overwrites(patch):
            overwrite.value[:] = 7
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(plan.base, name), array)


def test_both_baselines_are_the_runs_own_logits(model):
    for metric in METRICS:
        result, read = sweep(model, PAIR, metric=metric), lambda logits: logits[8] - logits[2]
        clean, corrupted = (model.run(tokens).logits[-1] for tokens in (CLEAN, CORRUPTED))
        gap, log_p = read(clean) - read(corrupted), lambda logits: logits - np.log(np.exp(logits).sum())
        expected = {
            "logit_difference": (read(clean), read(corrupted)),
            "normalised": ((read(clean) - read(corrupted)) / gap, 0),
            "clean_probability": tuple(np.exp(x)[2] / np.exp(x).sum() for x in (clean, corrupted)),
            "corrupted_probability": tuple(np.exp(x)[8] / np.exp(x).sum() for x in (clean, corrupted)),
            "clean_log_probability": tuple(x[2] - np.log(np.exp(x).sum()) for x in (clean, corrupted)),
            "corrupted_log_probability": tuple(x[8] - np.log(np.exp(x).sum()) for x in (clean, corrupted)),
            "probability_difference": tuple(
                (np.exp(x[8]) - np.exp(x[2])) / np.exp(x).sum() for x in (clean, corrupted)
            ),
            "kl_divergence": (0, np.exp(log_p(clean)) @ (log_p(clean) - log_p(corrupted))),
        }[metric]
        np.testing.assert_allclose((result.clean_value, result.corrupted_value), expected, rtol=0, atol=ROUNDING)


# Pairs


class Letters:
    """A vocabulary of single letters, a to j and a space: enough of minigpt2.tokenizer.Tokenizer for a PromptPair."""

    end_of_text = bos = 10
    adds_bos = False
    n_vocab = 11

    def encode(self, text):
        return ["abcdefghi ".index(letter) for letter in text]

    def visible(self, token):
        return "abcdefghi_|"[token]

    def single_token(self, text):
        tokens = self.encode(text)
        if len(tokens) != 1:
            raise ValueError(f"{text!r} is {len(tokens)} tokens")
        return tokens[0]


@pytest.fixture(scope="module")
def reader():
    model = random_model()
    model.tokenizer = Letters()
    return model


def test_text_and_tokens_give_the_same_sweep(reader):
    text = PromptPair(clean="abcd", corrupted="abed", answers=("f", "g"))
    ids = PromptPair.from_tokens([0, 1, 2, 3], [0, 1, 4, 3], (5, 6))
    np.testing.assert_array_equal(sweep(reader, text).values, sweep(reader, ids).values)
    assert sweep(reader, text).clean_labels == ("a", "b", "c", "d")


def test_bos_stands_in_front_of_both(reader):
    tokens = PromptPair("ab", "ac", ("d", "e"), bos=True).tokens(reader)
    assert tokens.clean == (10, 0, 1) and tokens.corrupted == (10, 0, 2) and tokens.first_difference == 2


def test_prompts_of_different_lengths_are_shown_aligned(reader):
    with pytest.raises(ValueError) as refusal:
        sweep(reader, PromptPair(clean="abcd", corrupted="abe", answers=("f", "g")))
    sentence, clean, corrupted, mark = str(refusal.value).split("\n")
    assert "clean has 4 tokens, corrupted 3" in sentence
    assert clean.split()[1:] == ["a", "|", "b", "|", "c", "|", "d"] and corrupted.split()[1:] == [
        "a",
        "|",
        "b",
        "|",
        "e",
    ]
    assert clean.index("c |") == corrupted.index(" e") + 1 == mark.index("^") and "position 2" in mark


def test_tokens_of_different_lengths_are_shown_aligned(model):
    with pytest.raises(
        ValueError, match=r"clean has 3 tokens, corrupted 2(.|\n)*1 \| 2 \| 3(.|\n)*first difference, position 2"
    ):
        sweep(model, PromptPair.from_tokens([1, 2, 3], [1, 2], (4, 5)))


BAD_PAIRS = {
    "no difference": (([1, 2], [1, 2], (3, 4)), "same tokens"),
    "one answer twice": (([1, 2], [1, 3], (4, 4)), "both answers are token 4"),
    "one answer": (([1, 2], [1, 3], (4,)), "answers must be two.*got 1"),
    "three answers": (([1, 2], [1, 3], (4, 5, 6)), "answers must be two.*got 3"),
    "an answer beyond the vocabulary": (([1, 2], [1, 3], (4, 11)), "token id 11"),
    "a token beyond the vocabulary": (([1, 2], [1, 11], (4, 5)), "token id 11"),
    "no tokens": (([], [], (4, 5)), "no tokens"),
    "too long": (([1] * 14, [2] * 14, (4, 5)), "14 tokens .* n_ctx = 13"),
    "answers that are text": (([1, 2], [1, 3], (" a", " b")), "integers"),
}


@pytest.mark.parametrize("pair, message", BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_pairs_that_cannot_be_compared_are_refused(model, pair, message):
    with pytest.raises(ValueError, match=message):
        sweep(model, PromptPair.from_tokens(*pair))


def test_answers_of_several_tokens_are_refused(reader):
    with pytest.raises(ValueError, match="'fg' is 2 tokens"):
        sweep(reader, PromptPair(clean="abc", corrupted="abd", answers=("fg", "h")))


def test_text_for_a_model_without_vocabulary_is_refused(model):
    with pytest.raises(ValueError, match="without a vocabulary"):
        sweep(model, PromptPair(clean="abc", corrupted="abd", answers=("f", "g")))


def test_answers_that_are_one_text_are_refused(reader):
    with pytest.raises(ValueError, match="two"):
        sweep(reader, PromptPair(clean="abc", corrupted="abd", answers="fg "))


# Arguments

BAD_CHOICES = {
    "site": (dict(site="resid"), "unknown site 'resid'; choose from resid_pre.*pattern_entry"),
    "direction": (dict(direction="denoise"), "direction.*got 'denoise'"),
    "metric": (dict(metric="accuracy"), "unknown metric 'accuracy'.*logit_difference"),
    "alpha is no number": (dict(alpha=float("nan")), "alpha.*nan"),
    "alpha is infinite": (dict(alpha=float("inf")), "alpha.*inf"),
    "alpha is text": (dict(alpha="1"), "alpha.*'1'"),
    "alpha is None": (dict(alpha=None), "alpha.*None"),
    "layer": (dict(layers=[0, 3]), r"layer 3 is out of range: seeded has 3 layers \(0 to 2\)"),
    "negative layer": (dict(layers=[-4]), "layer -4 is out of range"),
    "head": (dict(site="z", heads=[2]), r"head 2 is out of range: seeded has 2 heads \(0 to 1\)"),
    "position": (dict(positions=[5]), r"position 5 is out of range: the prompts have 5 tokens \(0 to 4\)"),
    "a layer twice": (dict(layers=[1, 1]), "layers contains layer 1 twice"),
    "a layer under two names": (dict(layers=[2, -1]), "layers contains layer 2 twice"),
    "no layers": (dict(layers=[]), "layers must be a list"),
    "no positions": (dict(positions=[]), "positions must be a list"),
    "half a layer": (dict(layers=[0.5]), "layers must be a list"),
    "one layer": (dict(layers=1), "layers must be a list"),
    "text for positions": (dict(positions="last"), "positions must be a list"),
    "heads of a site without": (dict(heads=[0]), "resid_post has no heads"),
    "single entries at once": (dict(site="pattern_entry", positions="all"), "is the site pattern"),
}


@pytest.mark.parametrize("some_sweep", [sweep, sweep_one_by_one])
@pytest.mark.parametrize("choices, message", BAD_CHOICES.values(), ids=BAD_CHOICES)
def test_bad_arguments_are_refused_in_one_sentence(model, some_sweep, choices, message):
    with pytest.raises(ValueError, match=message) as refusal:
        some_sweep(model, PAIR, **choices)
    assert "\n" not in str(refusal.value)


def test_normalising_by_nothing_is_refused(model):
    """With the answer's logits equal in both runs the scale has no length. Both end alike when only wpe is read."""
    flat = model.weights._replace(wte=np.ones_like(model.weights.wte))
    same = type(model)(model.config, flat, name="blind")
    with pytest.raises(ValueError, match="gap"):
        sweep(same, PAIR, metric="normalised")


BAD_METRICS = {
    "a vector": lambda logits: logits,
    "nothing": lambda logits: None,
    "text": lambda logits: "high",
    "a list of one": lambda logits: [logits[0]],
}


@pytest.mark.parametrize("some_sweep", [sweep, sweep_one_by_one])
@pytest.mark.parametrize("metric", BAD_METRICS.values(), ids=BAD_METRICS)
def test_a_metric_that_returns_no_number_is_refused(model, some_sweep, metric):
    with pytest.raises(ValueError, match="metric must return one number"):
        some_sweep(model, PAIR, metric=metric)


# Results


def test_a_result_says_what_it_is(model):
    result = sweep(model, PAIR, "z", heads=[1], direction="noising")
    assert isinstance(result, Result)
    assert result.axes == {"layer": [0, 1, 2], "head": [1], "position": [0, 1, 2, 3, 4]}
    assert (result.site, result.direction, result.metric, result.alpha) == ("z", "noising", "logit_difference", 1.0)
    assert result.tokens.clean == tuple(CLEAN) and result.clean_labels == ("3", "1", "4", "1", "5")
    assert result.answer_labels == ("2", "8") and result.unit == "logit(8) - logit(2)"
    text = repr(result)
    assert "z by layer x head x position [3, 1, 5], noising" in text and "seeded" in text and "\n" not in text


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_share_is_0_for_the_patched_run_and_1_for_the_other(model, direction):
    result = sweep(model, PAIR, direction=direction)
    assert (result.base_value, result.target_value) == {
        "denoising": (result.corrupted_value, result.clean_value),
        "noising": (result.clean_value, result.corrupted_value),
    }[direction]
    assert abs(result.share[-1, -1] - 1) <= ROUNDING and (result.share[:, :2] == 0).all()
    if direction == "denoising":
        normalised = sweep(model, PAIR, metric="normalised").values
        np.testing.assert_allclose(result.share, normalised, rtol=0, atol=ROUNDING)


def test_a_subset_is_a_part_of_the_whole(model):
    whole = sweep(model, PAIR, "k").values
    part = sweep(model, PAIR, "k", layers=[2, 0], heads=[1], positions=[-1, 2])
    np.testing.assert_allclose(part.values, whole[[2, 0]][:, [1]][:, :, [4, 2]], rtol=0, atol=ROUNDING)
    assert part.axes == {"layer": [2, 0], "head": [1], "position": [4, 2]}


@pytest.mark.parametrize("tokens", [random_tokens(ODD, 13), [1, 2]])
def test_a_models_own_runs_frame_the_sweep(model, tokens):
    other = [*tokens[:-1], (tokens[-1] + 1) % 11]
    result = sweep(model, PromptPair.from_tokens(tokens, other, (2, 8)))
    logits = model.run(tokens).logits[-1]
    assert abs(result.clean_value - (logits[8] - logits[2])) <= ROUNDING


# A new site


def test_a_site_is_a_line(monkeypatch):
    """Sweeps, attribution, pictures and words know a site from its line in SITES alone; also for long texts."""
    from patching import sites
    from patching.draw import figure
    from patching.explain import conclusions
    from patching.explain.both_runs import BothRuns
    from patching.page import report

    axes = ("layer", "position")
    line = sites.Site("mlp_out", axes, "what the MLP of {} layer writes", "the output of MLP {layer}")
    monkeypatch.setitem(SITES, "mlp_writes", line)
    model = random_model(replace(ODD, n_ctx=300))
    for n_seq in (5, 300):
        pair = PromptPair.from_tokens([3] * n_seq, [3] * (n_seq - 2) + [7, 3], (2, 8))
        choices = dict(alpha=0.5, positions=[-1, -2])
        result = sweep(model, pair, "mlp_writes", **choices)
        by_itself = sweep_one_by_one(model, pair, "mlp_out", **choices).values
        np.testing.assert_allclose(result.values, by_itself, rtol=0, atol=ROUNDING)
        estimate = attribute(model, pair, "mlp_writes", **choices)
        np.testing.assert_array_equal(estimate.values, attribute(model, pair, "mlp_out", **choices).values)
    assert "what the MLP of each layer writes" in figure.figure(result).texts[0].get_text()
    assert conclusions.tell(result)
    assert "what the MLP of a layer writes" in report.page([result], [""], [BothRuns(model, result.tokens)], "", ())


@pytest.mark.parametrize("call, wrong", [(sweep, "layer"), (sweep_one_by_one, "keep"), (attribute, "keep_logits")])
def test_a_choice_that_there_is_not_is_named(model, call, wrong):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
        call(model, PAIR, **{wrong: True})


@pytest.mark.parametrize("answers", [(2, 8), (8, 2)])
def test_the_normalised_corrupted_run_is_0_without_a_sign(model, answers):
    result = sweep(model, PromptPair.from_tokens(CLEAN, CORRUPTED, answers), metric="normalised")
    assert str(result.corrupted_value) == "0.0" and result.clean_value == 1
