"""Numbers too large for float32 are reported with the layer, whoever computes: nobody gets a NaN without being told."""

import warnings

import numpy as np
import pytest
from models import ODD, random_model, random_tokens, random_weights

from minigpt2 import GPT2
from minigpt2 import model as m
from minigpt2.generate import generate, generate_plain
from patching import METRICS, SITES, PromptPair, attribute, sweep, sweep_one_by_one

TOKENS = random_tokens(ODD, 5)
PAIR = PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 1, 7, 1, 5], (2, 8))


@pytest.fixture(autouse=True)
def no_warning():
    """NumPy's own words about it name no layer, and come beside ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def spoilt(layer=None, gain=1):
    """A model whose MLP overflows in one layer, or whose logits do."""
    weights = random_weights(ODD, np.float32)
    blocks = list(weights.h)
    if layer is not None:
        large = np.sign(blocks[layer].mlp.c_proj.weight) * np.float32(3e38)  # any two added up are beyond float32
        blocks[layer] = blocks[layer]._replace(mlp=blocks[layer].mlp._replace(c_proj=m.Affine(large, large[0])))
    ln_f = m.Affine(weights.ln_f.weight * np.float32(gain), weights.ln_f.bias)
    return GPT2(ODD, weights._replace(h=tuple(blocks), ln_f=ln_f), name="spoilt")


READERS = {
    "run": lambda model: model.run(TOKENS),
    "run_batch": lambda model: model.run_batch([TOKENS, TOKENS]),
    "resume": lambda model: model.resume(random_model(dtype=np.float32).run(TOKENS).resid_pre[0], 0),
    "resume in the middle": lambda model: model.resume(
        random_model(dtype=np.float32).run(TOKENS).resid_mid[0], 0, "resid_mid"
    ),
    "sweep": lambda model: sweep(model, PAIR),
    "sweep_one_by_one": lambda model: sweep_one_by_one(model, PAIR),
    "attribute": lambda model: attribute(model, PAIR),
    "generate": lambda model: list(generate(model, TOKENS, 2)),
}


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("reader", READERS)
def test_weights_that_overflow_name_their_layer(reader, layer):
    with pytest.raises(FloatingPointError, match=f"overflowed float32 in layer {layer}.*float64"):
        READERS[reader](spoilt(layer))


LOGIT_READERS = {name: READERS[name] for name in READERS if name not in ("run", "run_batch")} | {
    "logits": lambda model: model.run(TOKENS).logits,
    "generate_plain": lambda model: list(generate_plain(model, TOKENS, 2)),
    "drawing": lambda model: list(generate(model, TOKENS, 2, temperature=1.0, seed=0)),
}


@pytest.mark.parametrize("reader", LOGIT_READERS)
def test_logits_that_overflow_are_named(reader):
    with pytest.raises(FloatingPointError, match="logits overflowed float32"):
        LOGIT_READERS[reader](spoilt(gain=1e38))


@pytest.mark.parametrize("positions", [None, "all"])
@pytest.mark.parametrize("some_sweep", [sweep, sweep_one_by_one, attribute])
@pytest.mark.parametrize("site", SITES)
def test_an_alpha_that_overflows_names_the_layer(site, some_sweep, positions):
    model = random_model(dtype=np.float32)
    if site == "pattern_entry" and positions:
        return
    for layer in range(ODD.n_layer):
        for alpha in (1e39, -1e300):
            with pytest.raises(FloatingPointError, match=f"overflow.* float32 in layer {layer}"):
                some_sweep(model, PAIR, site, alpha=alpha, layers=[layer], positions=positions)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("alpha", [1e5, 1e17, 1e19, 1e25, 1e37])
def test_whatever_the_alpha_every_value_is_a_number(metric, alpha):
    model = random_model(dtype=np.float32)
    for site in SITES:
        for some_sweep in (sweep, sweep_one_by_one, attribute):
            try:
                assert np.isfinite(some_sweep(model, PAIR, site, alpha=alpha, metric=metric).values).all()
            except (FloatingPointError, ValueError) as error:
                assert "overflow" in str(error) or "finite" in str(error)


def test_float64_computes_what_overflows_float32():
    weights = spoilt(1).weights
    for reader in ("run", "sweep", "generate"):
        wide = GPT2(ODD, m.Weights(*(widened(part) for part in weights)), name="wide")
        READERS[reader](wide)


def widened(part):
    if isinstance(part, np.ndarray):
        return part.astype(np.float64)
    parts = [widened(inner) for inner in part]
    return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
