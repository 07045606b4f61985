"""Attribution patching is the slope of the sweep: d sweep(alpha) / d alpha at alpha 0, for every site, metric and choice."""

import numpy as np
import pytest
from models import ODD, random_model

from patching import METRICS, SITES, PromptPair, attribute, sweep
from patching.explain.findings import agreement

PAIR = PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 1, 7, 1, 6], (2, 8))
EPS = 1e-5  # central differences: rounding 1e-16 / 1e-5 and the third derivative times 1e-10 are both near 1e-11
TOLERANCE = 1e-6  # of the largest slope

CHOICES = {
    "denoising": {},
    "noising": dict(direction="noising"),
    "all positions": dict(positions="all"),
    "some, in another order": dict(layers=[2, 0], positions=[4, -3]),
}


def slope(model, pair, site, **choices):
    low, high = (sweep(model, pair, site, alpha=eps, **choices).values for eps in (-EPS, EPS))
    return (high - low) / (2 * EPS)


def check(model, pair, site, **choices):
    estimate = attribute(model, pair, site, **choices)
    exact = slope(model, pair, site, **choices)
    assert estimate.values.shape == exact.shape
    off = abs(estimate.values - estimate.base_value - exact).max()
    assert off <= TOLERANCE * abs(exact).max(), f"{site}: {off:.1e}, the largest slope is {abs(exact).max():.1e}"
    assert abs(exact).max() > 1e-4


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("site", SITES)
def test_an_estimate_is_the_slope_of_the_sweep(model, site, choices):
    if site == "pattern_entry" and CHOICES[choices].get("positions") == "all":
        with pytest.raises(ValueError, match="positions"):
            attribute(model, PAIR, site, **CHOICES[choices])
    else:
        check(model, PAIR, site, **CHOICES[choices])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("site", ["resid_post", "k", "pattern_entry"])
def test_of_every_metric(model, site, metric):
    check(model, PAIR, site, metric=metric)


def test_of_a_metric_with_its_own_slope(model):
    def squared(logits):
        return logits[3] ** 2

    squared.slope = lambda logits: 2 * logits[3] * np.eye(len(logits))[3]
    check(model, PAIR, "z", metric=squared)
    with pytest.raises(ValueError, match="needs the derivative of the metric.*slope"):
        attribute(model, PAIR, metric=lambda logits: logits[3])


def test_alpha_scales_the_estimate(model):
    whole, half = (attribute(model, PAIR, "mlp_out", alpha=alpha) for alpha in (1, 0.5))
    np.testing.assert_allclose(half.values - half.base_value, (whole.values - whole.base_value) / 2, rtol=1e-12)


def test_a_result_of_the_same_kind(model):
    exact, estimate = sweep(model, PAIR, "z"), attribute(model, PAIR, "z")
    assert (exact.method, estimate.method) == ("patching", "attribution")
    for field in ("clean_value", "corrupted_value", "axes", "unit", "tokens", "site", "direction"):
        assert getattr(exact, field) == getattr(estimate, field)


def test_the_estimate_is_float32_of_a_float32_model():
    estimate = attribute(random_model(ODD, np.float32), PAIR, "v")
    assert estimate.values.dtype == np.float32
    np.testing.assert_allclose(estimate.values, attribute(random_model(ODD), PAIR, "v").values, atol=1e-5)


def test_a_wrong_gradient_is_seen(model, monkeypatch):
    """The check sees a wrong gradient: here that of a layer norm which forgets that its variance reads x."""
    from minigpt2 import backward

    def dropped(dy, x, weight, eps, into=None):
        s = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
        dn = dy * weight
        return (dn - dn.mean(axis=-1, keepdims=True)) / s

    monkeypatch.setattr(backward, "layer_norm_backward", dropped)
    with pytest.raises(AssertionError, match="the largest slope is"):
        check(model, PAIR, "resid_post")


def test_on_the_bundled_model_the_estimate_ranks_as_the_exact_map_does():
    from minigpt2 import GPT2
    from patching.demo.experiments import EXPERIMENTS

    model, pair = GPT2.from_pretrained("bundled"), EXPERIMENTS["surname"].pair
    exact, estimate = sweep(model, pair), attribute(model, pair)
    compared = agreement(exact, estimate)
    assert compared.correlation > 0.9  # near enough to rank cells by, as the demo and figures/README.md say
    assert abs(compared.exact - compared.estimate) > 1  # and an estimate still
