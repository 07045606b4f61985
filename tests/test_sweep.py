"""One pass through the layers gives what patching one by one gives, for everything that can be asked of a sweep.

Both write what plan.py says, so this would not see a wrong site: test_patching.py holds both against a forward pass of its own.
"""

import importlib
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from models import ODD, SMALL, random_model, random_tokens

from patching import METRICS, SITES, PromptPair, attribute, sweep, sweep_one_by_one
from patching.plan import Question

sweep_module = importlib.import_module("patching.sweeps")  # the package's own name `sweep` is the function

# float64: the same products added in another order, three blocks, logits of a few units.
FLOAT64 = 1e-11
# float32 at GPT-2 small's shape: one forward pass is about 1.5e-5 from the truth (live_parity.py), and so are both
# sweeps; a difference of two logits of two sweeps has four such errors, and the largest of many scatters by three.
FLOAT32 = 2e-4

ANSWERS = (2, 8)
PAIRS = {
    "one token differs": ([3, 1, 4, 1, 5], [3, 1, 7, 1, 5]),
    "several differ": ([3, 1, 4, 1, 5], [3, 6, 4, 7, 9]),
    "the first differs": ([3, 1, 4, 1, 5], [4, 1, 4, 1, 5]),
    "the last differs": ([3, 1, 4, 1, 5], [3, 1, 4, 1, 6]),
    "two tokens, the first": ([3, 1], [4, 1]),
    "two tokens, the last": ([3, 1], [3, 2]),
    "one token": ([3], [4]),
    "n_ctx tokens": (random_tokens(ODD, 13), [*random_tokens(ODD, 13)[:4], 0, *random_tokens(ODD, 13)[5:]]),
}


def pair_of(name):
    return PromptPair.from_tokens(*PAIRS[name], ANSWERS)


def check_one_pass(model, pair, site, tolerance=FLOAT64, **choices):
    fast, slow = sweep(model, pair, site, **choices), sweep_one_by_one(model, pair, site, **choices)
    assert fast.values.dtype == slow.values.dtype == model.dtype
    assert np.isfinite(slow.values).all()
    np.testing.assert_allclose(fast.values, slow.values, rtol=0, atol=tolerance)
    assert (fast.clean_value, fast.corrupted_value, fast.axes) == (slow.clean_value, slow.corrupted_value, slow.axes)
    if fast.logits is not None:
        np.testing.assert_allclose(fast.logits, slow.logits, rtol=0, atol=tolerance)
    return fast


def entropy(logits):
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return -(p * np.log(p)).sum()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("site", SITES)
def test_one_pass_is_one_by_one_on_every_pair(model, site, name):
    check_one_pass(model, pair_of(name), site)


@pytest.mark.parametrize("name", ["several differ", "two tokens, the last", "one token"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", [site for site in SITES if site != "pattern_entry"])
def test_one_pass_is_one_by_one_over_all_positions(model, site, direction, name):
    check_one_pass(model, pair_of(name), site, direction=direction, positions="all")


@pytest.mark.parametrize("metric", [*METRICS, entropy], ids=lambda metric: getattr(metric, "__name__", metric))
@pytest.mark.parametrize("site", SITES)
def test_one_pass_is_one_by_one_for_every_metric(model, site, metric):
    check_one_pass(model, pair_of("several differ"), site, metric=metric, direction="noising", alpha=0.7)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("alpha", [0, 0.5, 1, -1, 2])
def test_one_pass_is_one_by_one_for_every_alpha(model, site, alpha):
    check_one_pass(model, pair_of("one token differs"), site, alpha=alpha)


@pytest.mark.parametrize(
    "subset",
    [dict(layers=[2]), dict(layers=[1, 0]), dict(positions=[4]), dict(positions=[3, 1], layers=[-1])],
    ids=str,
)
@pytest.mark.parametrize("site", SITES)
def test_one_pass_is_one_by_one_for_every_subset(model, site, subset):
    check_one_pass(model, pair_of("several differ"), site, **subset)
    if "head" in SITES[site].axes:
        check_one_pass(model, pair_of("several differ"), site, heads=[1], **subset)


@pytest.mark.parametrize("kind", ["trained-like"])
@pytest.mark.parametrize("site", SITES)
def test_one_pass_is_one_by_one_with_trained_like_weights(site, kind):
    """The same rounding on a stream that is a hundred times larger."""
    check_one_pass(random_model(kind=kind), pair_of("several differ"), site, tolerance=100 * FLOAT64)


@pytest.mark.parametrize("site", SITES)
def test_kept_logits_are_each_patchs_own(model, site):
    result = check_one_pass(model, pair_of("several differ"), site, keep_logits=True)
    assert result.logits.shape == (*result.values.shape, ODD.n_vocab)
    read = result.logits[..., ANSWERS[1]] - result.logits[..., ANSWERS[0]]
    np.testing.assert_allclose(read, result.values, rtol=0, atol=FLOAT64)
    assert sweep(model, pair_of("several differ"), site).logits is None


@pytest.mark.parametrize(
    "site, positions", [(site, None) for site in SITES] + [(site, "all") for site in SITES if site != "pattern_entry"]
)
def test_many_small_batches_are_one_large_one(model, monkeypatch, site, positions):
    pair, batches, sizes = pair_of("n_ctx tokens"), sweep_module.batches, []
    whole = sweep(model, pair, site, positions=positions, keep_logits=True)

    def tiny(plan):
        for batch in batches(plan, budget=20 * 16 * ODD.n_embd * 8):  # twenty rows, two whole streams
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(sweep_module, "batches", tiny)
    parts = sweep(model, pair, site, positions=positions, keep_logits=True)
    assert len(sizes) > 1 and sum(sizes) == whole.values.size
    np.testing.assert_allclose(parts.values, whole.values, rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(parts.logits, whole.logits, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("budget", [1, 10_000, 100_000, 10**9])
def test_batches_hold_every_patch_once_and_keep_to_the_budget(model, budget):
    question = Question(model, pair_of("n_ctx tokens"), "v")
    plan = sweep_module.Plan(question)
    batches = list(sweep_module.batches(plan, budget))
    assert sorted(patch.index for batch in batches for patch in batch) == sorted(
        patch.index for patch in question.patches()
    )
    row = 16 * ODD.n_embd * 8
    for batch in batches:
        assert len(batch) == 1 or sum(13 - plan.first_row(patch) for patch in batch) * row <= budget


@pytest.mark.parametrize("some_sweep", [sweep, sweep_one_by_one])
def test_progress_is_reported_to_the_end(model, monkeypatch, some_sweep):
    batches, calls = sweep_module.batches, []
    monkeypatch.setattr(sweep_module, "batches", lambda plan: batches(plan, budget=20_000))
    some_sweep(model, pair_of("several differ"), progress=lambda done, total: calls.append((done, total)))
    assert len(calls) > 1 and calls[-1] == (15, 15)
    assert calls == sorted(set(calls)) and {total for _, total in calls} == {15}


def test_a_users_metric_sees_one_position_of_the_whole_vocabulary(model):
    shapes = set()

    def metric(logits):
        shapes.add(logits.shape)
        return logits[3]

    result = check_one_pass(model, pair_of("several differ"), "resid_post", metric=metric)
    assert shapes == {(ODD.n_vocab,)} and result.metric == "metric"
    assert abs(result.clean_value - model.run(PAIRS["several differ"][0]).logits[-1, 3]) <= FLOAT64


def test_the_same_sweep_gives_the_same_bits(model):
    first, second = (sweep(model, pair_of("several differ"), "k").values for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def small():
    return random_model(SMALL, np.float32)


@pytest.mark.parametrize(
    "site, choices",
    [("resid_post", dict(layers=[0, 11], positions=[2, 7, 10])), ("attn_out", dict(layers=[3], positions="all")),
     ("k", dict(layers=[2], heads=[11], positions=[2, 9])), ("pattern", dict(layers=[10], heads=[7], positions=[8]))],
    ids=str,
)  # fmt: skip
def test_float32_at_the_shape_of_gpt2_small(small, site, choices):
    clean = random_tokens(SMALL, 11)
    corrupted = [*clean[:2], 4176, *clean[3:7], 11, *clean[8:]]
    check_one_pass(small, PromptPair.from_tokens(clean, corrupted, (5437, 4176)), site, tolerance=FLOAT32, **choices)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", SITES)
def test_long_texts_whose_runs_keep_less(site, direction):
    """Above 256 tokens the two texts run one after the other, and the one that is only read from keeps one activation."""
    model = random_model(replace(ODD, n_ctx=300))
    clean = random_tokens(model.config, 290)
    corrupted = [*clean[:3], (clean[3] + 1) % 11, *clean[4:]]
    pair = PromptPair.from_tokens(clean, corrupted, ANSWERS)
    choices = dict(direction=direction, positions=[2, 3, 289], layers=[0, 2])
    if site == "pattern_entry":
        choices |= dict(positions=[289], layers=[2], heads=[1])  # 290 patches, one for each source
    result = check_one_pass(model, pair, site, **choices)
    assert abs(result.values - result.base_value).max() > 1e-4
    estimate = attribute(model, pair, site, **choices)
    assert estimate.values.shape == result.values.shape and estimate.base_value == result.base_value


def test_an_entry_behind_the_mask_is_the_base_run_itself(model):
    """No position reads a later one, in either run: such patches are not carried at all."""
    result = sweep(model, pair_of("several differ"), "pattern_entry")
    behind = np.triu(np.ones(result.values.shape[-2:], bool), 1)
    assert (result.values[..., behind] == result.corrupted_value).all()
    assert (result.values[..., ~behind] != result.corrupted_value).any()


def test_patches_are_made_one_by_one():
    """Of a long text there are millions, which would take gigabytes."""
    longer = random_model(replace(ODD, n_ctx=64))
    question = Question(longer, PromptPair.from_tokens([3] * 64, [4] * 64, ANSWERS), "pattern_entry")
    tracemalloc.start()
    n = sum(1 for _ in question.patches())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == question.n_patches == ODD.n_layer * ODD.n_head * 64 * 64
    assert peak < 100_000
