"""Sweeps with every source, of sets of places, inside an overwritten model: what they say, by a forward pass for each patch
that shares no line with minigpt2 or patching, and by TransformerLens where it is installed."""

from functools import cache

import numpy as np
import pytest
from models import ODD, plain_forward, random_model, random_tokens
from test_overwrite import by_hand, random_overwrites

from minigpt2 import Overwrite
from patching import SITES, PromptPair, attribute, sources, sweep, sweep_one_by_one
from patching.save import load, save

ROUNDING = 1e-11  # float64 through three blocks, on logits of a few units
CLEAN, CORRUPTED, ANSWERS = [3, 1, 4, 1, 5], [3, 1, 7, 1, 6], (2, 8)
N_SEQ, PAIR = len(CLEAN), PromptPair.from_tokens(CLEAN, CORRUPTED, ANSWERS)
TEXTS = [random_tokens(ODD, N_SEQ, seed) for seed in (1, 2, 3)]
THIRD = PromptPair.from_tokens(TEXTS[0], TEXTS[1], ANSWERS)
MODEL = random_model()
HEAD_SITES = ("z", "q", "k", "v", "pattern", "pattern_entry")


@cache
def activations(text):
    """{(name, layer): array} of a text, by plain_forward."""
    seen = {}
    plain_forward(text, MODEL.weights, ODD, by_hand([], seen=seen))
    return seen


def of_texts(name, layer):
    return np.array([activations(tuple(text))[name, layer] for text in TEXTS])


def lens_zero(base, target, name, layer):
    """TransformerLens moves what is constant in a value (the bias, and ln_1's through W_V) out of it."""
    if name not in ("v", "z"):
        return 0 * base[name, layer]
    h, heads = MODEL.weights.h[layer], []
    for head in range(ODD.n_head):
        columns = slice(2 * 14 + 7 * head, 2 * 14 + 7 * (head + 1))
        constant = [
            sum(h.ln_1.bias[i] * h.attn.c_attn.weight[i, j] for i in range(14)) for j in range(*columns.indices(42))
        ]
        heads.append(np.array(constant) + h.attn.c_attn.bias[columns])
    return np.array(heads)[:, None] + 0 * base[name, layer]


def moved(base, size):
    return base + 0.5 * np.linspace(-1, 2, size)


SOURCES = {  # what sweep is given, and what is written by hand: (base run, target run, name, layer) -> the activation
    "other run": (None, lambda base, target, name, layer: target[name, layer]),
    "zero": ("zero", lambda base, target, name, layer: 0 * base[name, layer]),
    "TransformerLens's zero": ("transformer_lens zero", lens_zero),
    "mean": (lambda: sources.mean(TEXTS), lambda base, target, name, layer: of_texts(name, layer).mean(axis=0)),
    "mean over positions": (
        sources.mean(TEXTS, per_position=False),
        lambda base, target, name, layer: of_texts(name, layer).mean(axis=(0, -2), keepdims=True)[0] + 0 * base[name, layer],
    ),
    "at a layer": (sources.at(layer=-2), lambda base, target, name, layer: target[name, 1]),
    "at a position": (
        sources.at(position=2), lambda base, target, name, layer: target[name, layer][..., 2:3, :] + 0 * base[name, layer],
    ),
    "at both": (
        sources.at(layer=0, position=-1), lambda base, target, name, layer: target[name, 0][..., -1:, :] + 0 * base[name, layer],
    ),
    "steering": (
        {size: sources.steer(np.linspace(-1, 2, size), 0.5) for size in (5, 7, 14)},
        lambda base, target, name, layer: moved(base[name, layer], base[name, layer].shape[-1]),
    ),
    "a run": (MODEL.run(TEXTS[2]), lambda base, target, name, layer: activations(tuple(TEXTS[2]))[name, layer]),
    "a third text": (THIRD, lambda base, target, name, layer: activations(tuple(TEXTS[1]))[name, layer]),
}  # fmt: skip


def source_for(given, site):
    if callable(given):
        return given()
    return (
        given[{"pattern": N_SEQ}.get(SITES[site].activation, 7 if site in HEAD_SITES else 14)]
        if isinstance(given, dict)
        else given
    )


def some_overwrites(seed, n=10, runs=()):
    """Overwrites that leave something to patch: not of the whole stream at the last position, and seldom of whole texts."""
    made = random_overwrites(np.random.default_rng(seed), n, runs=runs)
    ends = lambda o: o.positions is None or {4, -1} & {*map(int, o.positions)}  # noqa: E731
    return [o for o in made if o.add or not (o.name.startswith("resid") and ends(o))]


def cells(site):
    """Every single place of a site, by the index of its value."""
    shape = (3, 2, N_SEQ) if site in HEAD_SITES else (3, N_SEQ)
    return list(np.ndindex(*shape, N_SEQ) if site == "pattern_entry" else np.ndindex(shape))


SOME = dict(layers=[0, 2], positions=[1, 4])


def some_cells(site):
    return [
        at for at in cells(site) if at[0] in SOME["layers"] and at[2 if site in HEAD_SITES else 1] in SOME["positions"]
    ]


def defined(site, sets, written, *, noising=True, alpha=1.0, overwrites=(), source_overwrites=()):
    """The value of each patch, a list of places (layer, [head,] position or slice, ...): all are written into the base run,
    at the moment at which each is there, after what the base run itself overwrites."""
    texts = (CLEAN, CORRUPTED) if noising else (CORRUPTED, CLEAN)
    base, target, name = {}, {}, SITES[site].activation
    plain_forward(texts[0], MODEL.weights, ODD, by_hand(overwrites, seen=base))
    plain_forward(texts[1], MODEL.weights, ODD, by_hand(source_overwrites, seen=target))
    values = []
    for places in sets:
        write = by_hand(overwrites)

        def patched(what, layer, x, places=places, write=write):
            x = write(what, layer, x)
            for at in (place[1:] for place in places if what == name and place[0] == layer):
                new = written(base, target, name, layer)
                new = np.tril(new) if name == "pattern" else new
                x[at] = (1 - alpha) * base[name, layer][at] + alpha * new[at]
            return x

        logits = plain_forward(texts[0], MODEL.weights, ODD, patched)[-1]
        values.append(logits[ANSWERS[1]] - logits[ANSWERS[0]])
    return np.array(values)


def check(site, sets, written, alpha=1.0, direction="noising", overwrites=(), source_overwrites=None, **choices):
    """Both sweeps give what is defined."""
    expected = defined(
        site, sets, written, noising=direction == "noising", alpha=alpha, overwrites=overwrites,
        source_overwrites=overwrites if source_overwrites is None else source_overwrites,
    )  # fmt: skip
    asked = dict(
        direction=direction, alpha=alpha, overwrites=overwrites, source_overwrites=source_overwrites, **choices
    )
    for some_sweep in (sweep, sweep_one_by_one):
        result = some_sweep(MODEL, PAIR, site, **asked)
        np.testing.assert_allclose(result.values.ravel(), expected, rtol=0, atol=ROUNDING * max(1, abs(expected).max()))
    assert np.ptp(expected) > 1e-3
    return result


# Every source, at every site


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("site", [site for site in SITES if site != "pattern_entry"])
def test_every_source_writes_what_it_says(site, name):
    given, written = SOURCES[name]
    if site == "pattern" and name == "mean over positions":
        with pytest.raises(ValueError, match="a pattern has no mean over positions"):
            sweep(MODEL, PAIR, site, source=given)
        return
    result = check(site, [[at] for at in some_cells(site)], written, source=source_for(given, site), **SOME)
    assert result.direction == "noising" and (result.source == "the other run") == (name == "other run")


def test_a_source_is_written_into_the_clean_run_unless_something_else_is_asked_for():
    assert sweep(MODEL, PAIR).direction == "denoising"
    assert sweep(MODEL, PAIR, source="zero").direction == "noising"
    check(
        "z",
        [[at] for at in cells("z")],
        SOURCES["mean"][1],
        direction="denoising",
        source=sources.mean(TEXTS),
        alpha=0.4,
    )


@pytest.mark.parametrize("site", SITES)
def test_before_the_first_difference_a_zero_changes_something(site):
    result = sweep(MODEL, PAIR, site, source="zero", positions=[0, 1])
    n = abs(result.values - result.base_value) > 1e-6
    assert n[0].any() and n.mean() > 0.1


# Inside an overwritten model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("site", SITES)
def test_a_sweep_inside_an_overwritten_model(site, seed):
    overwrites = some_overwrites(seed, runs=[MODEL.run(TEXTS[0])])
    other = [None, [], some_overwrites(seed + 10)][seed]
    single = [[at] for at in (some_cells(site) if site == "pattern_entry" else cells(site))]
    choices = dict(direction=["denoising", "noising"][seed % 2], alpha=[1, 0.6, 1][seed])
    choices |= SOME if site == "pattern_entry" else {}
    check(site, single, SOURCES["other run"][1], overwrites=overwrites, source_overwrites=other, **choices)
    if site != "pattern_entry":
        check(site, single, SOURCES["zero"][1], overwrites=overwrites, source="zero")


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "mean over positions"])
def test_every_source_inside_an_overwritten_model(name):
    overwrites = some_overwrites(9)
    for site in ("v", "pattern", "mlp_out"):
        given, written = SOURCES[name]
        asked = dict(overwrites=overwrites, source=source_for(given, site), **SOME)
        check(site, [[at] for at in some_cells(site)], written, **asked)


def test_the_other_runs_overwrites_alone_make_a_difference_before_the_first_different_token():
    result = sweep(MODEL, PAIR, source_overwrites=[Overwrite(0, "mlp_out", 1, positions=[0])])
    assert (abs(result.values[:, 0] - result.base_value)[:2] > 1e-6).all()


@pytest.mark.parametrize("site", SITES)
def test_attribution_of_any_source_in_an_overwritten_model_is_the_slope_of_the_sweep(site):
    eps, overwrites = 1e-5, some_overwrites(4)
    for name in SOURCES:
        if SITES[site].activation == "pattern" and name == "mean over positions":
            continue
        choices = dict(source=source_for(SOURCES[name][0], site), overwrites=overwrites, positions=[1, 4])
        low, high = (sweep(MODEL, PAIR, site, alpha=alpha, **choices).values for alpha in (-eps, eps))
        slope, estimate = (high - low) / (2 * eps), attribute(MODEL, PAIR, site, **choices)
        assert abs(estimate.values - estimate.base_value - slope).max() <= 1e-6 * max(1e-3, abs(slope).max()), name


# Sets of places


def window(layer, size):
    first = layer - size // 2  # Meng et al.: 10 layers are from 5 before to 4 after
    return [i for i in range(first, first + size) if 0 <= i < ODD.n_layer]


@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("site", [site for site in SITES if site != "pattern_entry"])
def test_a_window_is_its_layers_patched_together(site, size):
    sets = [[(layer, *at) for layer in window(at_layer, size)] for at_layer, *at in cells(site)]
    check(site, sets, SOURCES["other run"][1], window=size, alpha=0.8)
    overwrites = some_overwrites(size, 8)
    check(site, sets, SOURCES["mean"][1], window=size, source=sources.mean(TEXTS), overwrites=overwrites)


def random_sets(site, rng, n=12):
    """Sets of places over several layers, heads and positions, and of whole texts; no place twice in one."""
    everywhere = slice(None)
    some = cells(site)
    sets = [[some[i] for i in rng.choice(len(some), rng.integers(1, 7), False)] for _ in range(n)]
    for layer in range(3):
        sets.append([(layer, *([1] if site in HEAD_SITES else []), everywhere), ((layer + 1) % 3, *some[0][1:])])
    return sets


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("site", [site for site in SITES if site != "pattern_entry"])
def test_sets_of_places_are_patched_together(site, seed):
    rng = np.random.default_rng(seed)
    sets = random_sets(site, rng)
    places = [[tuple(int(i) for i in at if i != slice(None)) for at in some] for some in sets]
    result = check(site, sets, SOURCES["other run"][1], places=places, direction="denoising")
    assert result.axes == {"set": list(range(15))} and len(result.places) == 15
    heads = [1] if site in HEAD_SITES else [None]
    assert result.places[-1][0] == (2, *heads, None) and len(result.places[0]) == len(places[0])
    overwrites = some_overwrites(seed)
    check(site, sets, SOURCES["zero"][1], places=places, source="zero", overwrites=overwrites)
    estimate = attribute(MODEL, PAIR, site, places=places)
    single = attribute(MODEL, PAIR, site)
    for value, some in zip(estimate.values - estimate.base_value, sets):
        assert abs(value - sum((single.values[at] - single.base_value).sum() for at in some)) < 1e-10


BAD_SETS = {
    "no sets": ([], {}, "at least one place in each"),
    "an empty set": ([[(0, 1)], []], {}, "at least one place in each"),
    "no list": (3, {}, "a list of sets"),
    "places without a set": ([(0, 1)], {}, "a list of sets"),
    "a place twice": ([[(0, 1), (0, 1)]], {}, r"contains \(0, 1\) twice"),
    "a place twice, under two names": ([[(0, 1), (-3, -4)]], {}, "twice"),
    "a place within another": ([[(0, 1), (0,)]], {}, "twice"),
    "too many numbers": ([[(0, 1, 2)]], {}, r"is \(layer, position\)"),
    "out of range": ([[(0, 5)]], {}, r"position 5 is out of range: the prompts have 5 tokens \(0 to 4\)"),
    "with layers": ([[(0, 1)]], dict(layers=[1]), "leave out layers"),
    "with a window": ([[(0, 1)]], dict(window=2), "leave out layers, heads, positions and window"),
}


@pytest.mark.parametrize("places, choices, message", BAD_SETS.values(), ids=BAD_SETS)
def test_sets_that_mean_nothing_are_refused(places, choices, message):
    for some_sweep in (sweep, sweep_one_by_one, attribute):
        with pytest.raises(ValueError, match=message):
            some_sweep(MODEL, PAIR, places=places, **choices)


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", None])
def test_a_window_of_no_layers_is_refused(size):
    with pytest.raises(ValueError, match="window, the number of layers .* at least 1"):
        sweep(MODEL, PAIR, window=size)


# Noise


@pytest.mark.parametrize("site", ["resid_pre", "v", "pattern"])
def test_noise_is_the_mean_and_the_spread_of_its_draws(site):
    source = sources.noise(0.5, seed=3, n=4)
    draws = [sweep(MODEL, PAIR, site, source=draw).values for draw in source.draws]
    for some_sweep in (sweep, sweep_one_by_one):
        calls = []
        result = some_sweep(MODEL, PAIR, site, source=source, progress=lambda *call: calls.append(call))
        np.testing.assert_allclose(result.values, sum(draws) / 4, rtol=0, atol=ROUNDING)
        spread = (sum((draw - sum(draws) / 4) ** 2 for draw in draws) / 3) ** 0.5
        np.testing.assert_allclose(result.spread, spread, rtol=0, atol=ROUNDING)
        assert result.spread.max() > 1e-3 and result.source == "noise of 0.5, 4 draws"
        assert calls[-1] == (4 * draws[0].size,) * 2 and calls == sorted(calls)
    estimates = [attribute(MODEL, PAIR, site, source=draw).values for draw in source.draws]
    np.testing.assert_allclose(
        attribute(MODEL, PAIR, site, source=source).values, sum(estimates) / 4, rtol=0, atol=ROUNDING
    )


def test_a_seed_draws_the_same_noise_and_another_seed_another():
    values = [sweep(MODEL, PAIR, source=sources.noise(1.0, seed)).values for seed in (0, 0, 1)]
    np.testing.assert_array_equal(values[0], values[1])
    assert abs(values[0] - values[2]).max() > 1e-3
    assert sweep(MODEL, PAIR, source=sources.noise(1.0)).spread is None


def test_noise_has_the_scale_that_it_says():
    """Thousands of numbers: a standard deviation is right within four of its own standard errors."""
    base = MODEL.run(CLEAN)
    sigma = 3 * MODEL.weights.wte.std()
    for scale, expected in ((0.25, 0.25), ("3 sigma", sigma)):
        off = [
            draw.vectors(sources.Runs(base, base), name, layer, None) - base.activation(name, layer)
            for draw in sources.noise(scale, n=40).draws for layer in range(3) for name in ("resid_pre", "mlp_out")
        ]  # fmt: skip
        off = np.array(off)
        assert (
            abs(off.std() / expected - 1) < 4 / (2 * off.size) ** 0.5 and abs(off.mean()) < 4 * expected / off.size**0.5
        )
        assert len(np.unique(off)) == off.size  # no two places or draws have the same noise


def test_logits_of_several_draws_are_not_kept():
    with pytest.raises(ValueError, match="ask for n=1"):
        sweep(MODEL, PAIR, source=sources.noise(1.0, n=2), keep_logits=True)


# What is refused

BAD_SOURCES = {
    "an unknown name": (lambda: "zeros", "unknown source 'zeros'; choose from other run, zero"),
    "a number": (lambda: 0, "unknown source 0"),
    "an unknown zero": (lambda: sources.zero("folded"), "unknown convention 'folded'"),
    "no texts": (lambda: sources.mean([]), "at least one text"),
    "texts of other lengths": (lambda: sources.mean([[1, 2], [1, 2, 3]]), "texts of the prompts' 5 tokens, got 2, 3"),
    "no scale": (lambda: sources.noise(0), "above 0"),
    "a scale that is no number": (lambda: sources.noise(float("nan")), "above 0"),
    "no draws": (lambda: sources.noise(1, n=0), "at least 1"),
    "no place": (lambda: sources.at(), "a layer, a position or both"),
    "a layer that there is not": (lambda: sources.at(layer=3), r"layer 3 .* out of range: there are 3 \(0 to 2\)"),
    "a position that there is not": (lambda: sources.at(position=-6), "position -6 .* out of range"),
    "half a layer": (lambda: sources.at(layer=0.5), "layer 0.5"),
    "a direction of another size": (lambda: sources.steer([1, 2]), r"must be 14 finite numbers, got \[2\]"),
    "a direction of NaN": (lambda: sources.steer([np.nan] * 14), "must be 14 finite numbers"),
    "an endless way": (lambda: sources.steer([1] * 14, np.inf), "finite number, got inf"),
    "a run of another length": (lambda: MODEL.run([1, 2]), "the source has 2 tokens, the prompts 5"),
}


@pytest.mark.parametrize("make, message", BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_source_that_means_nothing_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as refusal:
        sweep(MODEL, PAIR, source=make())
    assert "\n" not in str(refusal.value)


# On disk


def test_source_spread_and_places_are_saved_and_loaded(tmp_path):
    results = {
        "noise": sweep(MODEL, PAIR, "z", source=sources.noise(0.5, n=3)),
        "sets": sweep(MODEL, PAIR, "z", source="zero", places=[[(0, 1, 2), (2, 0)], [(1, 1)]]),
    }
    for name, result in results.items():
        again = load(save(result, tmp_path / name))
        np.testing.assert_array_equal(again.values, result.values)
        assert (again.source, again.places, again.axes) == (result.source, result.places, result.axes)
        assert (again.spread is None) == (result.spread is None)
    np.testing.assert_array_equal(load(tmp_path / "noise.npz").spread, results["noise"].spread)
    assert results["sets"].places == (((0, 1, 2), (2, 0, None)), ((1, 1, None),))
    assert '"spread": [[[' in (tmp_path / "noise.json").read_text() and "zero" in (tmp_path / "sets.json").read_text()


# TransformerLens's own zeros


@cache
def transformer_lens(folded):
    """TransformerLens's model with our weights: its layer norms and value biases folded and its weights centred, or not."""
    pytest.importorskip("transformer_lens")
    from live_parity import hugging_face
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    hf = hugging_face(ODD, MODEL.weights, np.float64, "eager")
    lens = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config).eval()
    lens.enable_compatibility_mode(no_processing=not folded, disable_warnings=True)
    return lens


@pytest.mark.reference
@pytest.mark.parametrize("convention", ["raw", "transformer_lens"])
@pytest.mark.parametrize(
    "site, hook", [("v", "attn.hook_v"), ("z", "attn.hook_z"), ("q", "attn.hook_q"), ("k", "attn.hook_k")]
)
def test_zero_is_transformer_lens_own(site, hook, convention):
    torch = pytest.importorskip("torch")
    lens = transformer_lens(convention == "transformer_lens")
    choices = dict(heads=[1], positions=[0, 4])
    ours = sweep(MODEL, PAIR, site, source=sources.zero(convention), **choices).values
    theirs = np.empty_like(ours)
    for index in np.ndindex(ours.shape):
        layer, head, position = index[0], 1, choices["positions"][index[2]]

        def zeroed(x, hook):
            x = x.clone()
            x[0, position, head] = 0  # noqa: B023
            return x

        with torch.no_grad():
            logits = lens.run_with_hooks(torch.tensor([CLEAN]), fwd_hooks=[(f"blocks.{layer}.{hook}", zeroed)])[0, -1]
        theirs[index] = logits[ANSWERS[1]] - logits[ANSWERS[0]]
    # it folds its weights in float32, which moves its logits by 1e-8 before anything is zeroed
    assert abs(ours - theirs).max() <= (1e-10 if convention == "raw" else 1e-6)
    raw, folded = (
        sweep(MODEL, PAIR, site, source=sources.zero(c), **choices).values for c in ("raw", "transformer_lens")
    )
    assert (abs(raw - folded).max() > 1e-3) == (site in ("v", "z"))
