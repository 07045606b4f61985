"""Statistics over pairs equal SciPy's where SciPy has them, and keep their promises where nothing is going on."""

import numpy as np
import pytest
from scipy import stats

from patching.pairs import statistics

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(2, 3), (9, 4, 5), (40, 1)])
def test_standard_error_is_scipys(shape):
    values = RNG.standard_normal(shape)
    np.testing.assert_allclose(statistics.standard_error(values), stats.sem(values, axis=0), rtol=1e-12)


def test_one_pair_has_no_standard_error():
    assert np.isnan(statistics.standard_error(np.ones((1, 4)))).all()


@pytest.mark.parametrize("n_pairs", [2, 5, 9, 12])
def test_the_exact_sign_flip_test_is_scipys(n_pairs):
    values = RNG.standard_normal((n_pairs, 6)) + 0.3
    values[:, 0] = 0
    values[:, 1] = 1
    exact = stats.permutation_test(
        (values,), lambda x, axis: np.abs(x.mean(axis=axis)), permutation_type="samples", n_resamples=np.inf,
        alternative="greater", vectorized=True, axis=0,
    )  # fmt: skip
    np.testing.assert_allclose(statistics.p_value(values), exact.pvalue, rtol=1e-12)
    assert statistics.p_value(values)[0] == 1
    assert statistics.p_value(values)[1] == 2 / 2**n_pairs


def test_the_sampled_test_is_near_the_exact_one_and_never_zero(monkeypatch):
    values = RNG.standard_normal((12, 30)) + 0.4
    exact = statistics.p_value(values)
    monkeypatch.setattr(statistics, "EXACT", 3)
    sampled = statistics.p_value(values, n=20_000, seed=1)
    assert (np.abs(sampled - exact) <= 5 * np.sqrt(exact * (1 - exact) / 20_000) + 1 / 20_000).all()
    np.testing.assert_array_equal(sampled, statistics.p_value(values, n=20_000, seed=1))
    assert statistics.p_value(np.ones((60, 1)), n=99)[0] == 1 / 100


def test_benjamini_hochberg_is_scipys():
    values = RNG.standard_normal((10, 3, 7)) + np.linspace(0, 1, 7)
    by_itself, corrected = statistics.p_value(values), statistics.p_value(values, correction="false discovery")
    np.testing.assert_allclose(corrected.ravel(), stats.false_discovery_control(by_itself, axis=None), rtol=1e-12)


def test_family_wise_p_compares_with_the_largest_cell_of_each_flip():
    values = RNG.standard_normal((6, 5)) + 0.5
    signs = np.array(np.meshgrid(*[[1, -1]] * 6)).reshape(6, -1).T
    largest = np.abs(signs @ values / 6).max(axis=1)
    expected = [(largest >= abs(cell.mean()) - 1e-12).mean() for cell in values.T]
    np.testing.assert_allclose(statistics.p_value(values, correction="family-wise"), expected, rtol=1e-12)


def test_family_wise_keeps_its_level_where_nothing_is_going_on():
    """Of 200 maps of 20 noise cells, about 5 % have a cell below 0.05: at most 22 in 999 of 1,000 tries. Uncorrected most do."""
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((8, 20)) for _ in range(200)]
    found = sum(statistics.p_value(values, correction="family-wise").min() < 0.05 for values in maps)
    assert 1 <= found <= stats.binom.ppf(0.999, 200, 0.05)
    assert sum(statistics.p_value(values).min() < 0.05 for values in maps) > 100


def test_the_interval_is_the_bootstraps():
    values = RNG.exponential(size=(30, 4))
    low, high = statistics.interval(values, 0.9, n=4000)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=4000,
        confidence_level=0.9,
        method="percentile",
        axis=0,
        rng=np.random.default_rng(1),
    ).confidence_interval
    error = statistics.standard_error(values)
    assert (np.abs(low - theirs.low) < 0.15 * error).all() and (np.abs(high - theirs.high) < 0.15 * error).all()
    np.testing.assert_array_equal(statistics.interval(values, 0.9, n=4000), (low, high))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    low, high = statistics.interval(rng.standard_normal((40, 400)), 0.9, n=500)
    covered = ((low < 0) & (high > 0)).mean()
    assert 0.83 < covered < 0.94  # the bootstrap's own coverage at 40 pairs is near 0.89


@pytest.mark.parametrize("call, message", [
    (lambda v: statistics.interval(v, 95), "level must lie between 0 and 1"),
    (lambda v: statistics.p_value(v, correction="bonferroni"), "correction must be"),
])  # fmt: skip
def test_what_is_not_a_choice_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((3, 2)))
