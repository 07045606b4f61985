"""Every edge exactly: one pass against one run for each, against PyTorch hooks, and against what must hold of any edge."""

import sys
from functools import cache

import numpy as np
import pytest
from models import ODD, SMALL, random_model, random_weights

from patching import PromptPair, sweep
from patching.circuits import EdgeResult, attribute_edges, edges, edges_one_by_one, error_report
from patching.circuits.nodes import Reader, edge_mask, reader_named, readers, writer_named, writers
from patching.circuits.result import load_edges
from patching.circuits.setting import Setting

PAIR = PromptPair.from_tokens([3, 1, 4, 5, 9], [3, 7, 4, 6, 9], (2, 8))
PAIRS = {
    "two differ": PAIR,
    "the first differs": PromptPair.from_tokens([3, 1, 4, 5], [6, 1, 4, 5], (2, 8)),
    "the last differs": PromptPair.from_tokens([3, 1, 4, 5], [3, 1, 4, 7], (2, 8)),
    "one token": PromptPair.from_tokens([3], [4], (2, 8)),
}
FLOAT64 = 1e-11  # sums in another order, as in test_sweep.py


@cache
def exact(name="two differ", direction="noising"):
    return edges(random_model(), PAIRS[name], direction=direction)


def one_pass_is_one_by_one(name, direction):
    model = random_model()
    fast, plain = (
        edges(model, PAIRS[name], direction=direction),
        edges_one_by_one(model, PAIRS[name], direction=direction),
    )
    assert (fast.mask == edge_mask(model.config)).all() and (plain.mask == fast.mask).all()
    assert np.nanmax(abs(fast.values - plain.values)) <= FLOAT64
    assert np.nanmax(abs(plain.effects)) > 1e-3, "edges do something"


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("name", PAIRS)
def test_one_pass_is_one_run_for_each_edge(name, direction):
    one_pass_is_one_by_one(name, direction)


def test_small_batches_change_nothing(monkeypatch):
    whole = exact()
    monkeypatch.setattr(sys.modules["patching.circuits.edges"], "BUDGET", 1)  # the name in the package is the function
    np.testing.assert_allclose(edges(random_model(), PAIR).values, whole.values, atol=FLOAT64)


@pytest.mark.reference
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_edge_is_what_pytorch_hooks_give(direction):
    torch = pytest.importorskip("torch")
    from torch_edges import TorchEdges

    reference, ours = TorchEdges(ODD, random_weights(ODD)), exact("two differ", direction)
    clean, corrupted = (reference.outputs(text) for text in PAIR.ids)
    base, other, text = (clean, corrupted, PAIR.ids[0]) if direction == "noising" else (corrupted, clean, PAIR.ids[1])
    with torch.no_grad():
        for w, r in np.argwhere(ours.mask):
            writer, reader = ours.writers[w], ours.readers[r]
            logits = reference.run(text, {reader: other[writer] - base[writer]})
            assert abs(float(logits[8] - logits[2]) - ours.values[w, r]) <= FLOAT64, (writer, reader)


@pytest.mark.reference
@pytest.mark.parametrize("steps, ends", [(1, "base"), (4, "base"), (4, "other"), (1, "both")])
def test_estimates_are_pytorchs_gradients(steps, ends):
    torch = pytest.importorskip("torch")
    from torch_edges import TorchEdges

    reference = TorchEdges(ODD, random_weights(ODD))
    ours = attribute_edges(random_model(), PAIR, steps=steps, ends=ends)
    base, other = (reference.outputs(text) for text in PAIR.ids)
    theirs = np.zeros(ours.values.shape)
    shares = {"base": np.arange(1, steps + 1) / steps, "other": np.arange(steps) / steps, "both": np.array([0, 1])}[
        ends
    ]
    for share in shares:
        added = {r: torch.zeros_like(base["input"], requires_grad=True) for r in ours.readers}
        between = other["input"] + share * (base["input"] - other["input"])
        logits = reference.run(PAIR.ids[0], added, between)
        gradients = torch.autograd.grad(logits[8] - logits[2], list(added.values()))
        for r, gradient in enumerate(gradients):
            for w, writer in enumerate(ours.writers):
                theirs[w, r] += float(((other[writer] - base[writer]) * gradient).sum()) / len(shares)
    assert np.nanmax(abs(ours.effects - theirs)) <= FLOAT64


@pytest.mark.reference
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, 2e-4)], ids=["float64", "float32"])
def test_head_to_head_is_transformer_lens_own(dtype, tolerance):
    """get_act_patch_direct_path_all_sources writes the clean run into the corrupted one."""
    pytest.importorskip("transformer_lens")
    torch = pytest.importorskip("torch")
    from live_parity import hugging_face
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    patching = pytest.importorskip("transformer_lens.patching")
    if not hasattr(patching, "get_act_patch_direct_path_all_sources"):
        pytest.skip("this TransformerLens has no get_act_patch_direct_path_all_sources (4.3 has)")
    hf = hugging_face(ODD, random_weights(ODD), dtype, "eager")
    lens = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config).eval()
    lens.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    ours = edges(random_model(ODD, dtype), PAIR, direction="denoising")
    clean, corrupted = (torch.tensor([list(text)]) for text in PAIR.ids)
    for kind in "qkv":
        values = []

        def metric(logits, values=values):
            values.append((logits[0, -1, 8] - logits[0, -1, 2]).item())
            return logits[0, -1, 8] - logits[0, -1, 2]

        with torch.no_grad():
            caches = [lens.run_with_cache(text)[1] for text in (clean, corrupted)]
            patching.get_act_patch_direct_path_all_sources(
                lens, corrupted, *caches, metric, component=kind, verbose=False
            )
        heads = [(layer, head) for layer in range(ODD.n_layer) for head in range(ODD.n_head)]
        mine = [
            ours.at(f"a{layer}.h{head}", f"a{above}.h{other}<{kind}>")
            for layer, head in heads
            for above, other in heads
            if above > layer
        ]
        assert len(values) == len(mine) and max(abs(np.subtract(values, mine))) <= tolerance


# What must hold of any edge


def test_the_number_of_edges():
    """EAP-IG's graph of GPT-2 small: 31,320 edges into q, k and v, 1,014 into MLPs, 157 into the logits."""
    mask, kinds = edge_mask(SMALL), np.array([reader.kind for reader in readers(SMALL)])
    assert mask.shape == (157, 445) == (len(writers(SMALL)), len(readers(SMALL)))
    counts = {kind: int(mask[:, kinds == kind].sum()) for kind in ("q", "k", "v", "mlp", "logits")}
    assert counts == {"q": 10440, "k": 10440, "v": 10440, "mlp": 1014, "logits": 157}
    assert mask.sum() == 32491


def test_names_lead_back_to_their_nodes():
    assert [writer_named(str(writer), ODD) for writer in writers(ODD)] == writers(ODD)
    assert [reader_named(str(reader), ODD) for reader in readers(ODD)] == readers(ODD)
    assert str(Reader("v", 3, 7)) == "a3.h7<v>" and Reader("v", 3, 7).node == "a3.h7"


@pytest.mark.parametrize("name", ["a3.h0<q>", "a0.h2<q>", "m3", "a0.h0", "m-1", "", None, "a0.h0<z>"])
def test_unknown_readers_are_refused(name):
    with pytest.raises(ValueError, match="reader"):
        reader_named(name, ODD)


def test_an_edge_to_a_reader_that_the_metric_cannot_see_is_the_base_value():
    """The embedding differs at positions 1 and 3; in the last layer only the last position's query, MLP and logits are read."""
    result, top = exact(), ODD.n_layer - 1
    unseen = [f"a{top}.h{head}<q>" for head in range(ODD.n_head)] + [f"m{top}", "logits"]
    assert all(result.at("input", reader) == result.base_value for reader in unseen)
    assert result.at("input", f"a{top}.h0<v>") != result.base_value


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_all_edges_into_one_reader_are_its_input_patched(direction):
    """The sum of all differences below a reader is the difference of its input: what it then computes is the other run's."""
    model = random_model()
    setting = Setting(model, PAIR, direction)
    sites = {"q": "q", "k": "k", "v": "v"}
    for reader in readers(ODD):
        below = [setting.differences(layer) for layer in range(-1, min(reader.layer, ODD.n_layer - 1) + 1)]
        if reader.kind in "qkv":
            whole = sum(some.sum(axis=0) for some in below[:-1])
        elif reader.kind == "mlp":
            whole = sum(some.sum(axis=0) for some in below[:-1]) + below[-1][:-1].sum(axis=0)
        else:
            whole = sum(some.sum(axis=0) for some in below)
        from patching.circuits.edges import read_with

        run = model.run(setting.base.tokens, overwrites=[read_with(setting, reader, whole)])
        value = setting.read(run.resid_post[-1, -1:])[0]
        if reader.kind == "logits":
            expected = setting.corrupted_value if direction == "noising" else setting.clean_value
        elif reader.kind == "mlp":
            expected = sweep(
                model, PAIR, "mlp_out", direction=direction, places=[[(reader.layer, p) for p in range(5)]]
            ).values[0]
        else:
            result = sweep(model, PAIR, sites[reader.kind], direction=direction, positions="all")
            expected = result.values[reader.layer, reader.head]
        assert abs(value - expected) <= FLOAT64, reader


def small_steps_are_the_gradients():
    alpha = 1e-5
    steps, estimate = (f(random_model(), PAIR, alpha=alpha) for f in (edges, attribute_edges))
    assert np.nanmax(abs(steps.effects - estimate.effects)) / alpha <= 1e-6 * max(
        1, np.nanmax(abs(estimate.effects)) / alpha
    )
    assert np.nanmax(abs(estimate.effects)) / alpha > 1e-2


def test_at_alpha_near_0_the_exact_edge_is_eaps():
    small_steps_are_the_gradients()


def test_float32_stays_float32_and_near():
    result = edges(random_model(dtype=np.float32), PAIR)
    assert (
        result.values.dtype == np.float32
        and attribute_edges(random_model(dtype=np.float32), PAIR).values.dtype == np.float32
    )
    assert np.nanmax(abs(result.values - exact().values)) < 1e-5


def test_a_metric_of_the_whole_vocabulary():
    model = random_model()
    fast, plain = (f(model, PAIR, metric="clean_probability") for f in (edges, edges_one_by_one))
    assert np.nanmax(abs(fast.values - plain.values)) <= FLOAT64


# Several pairs, results, files


def test_several_pairs_of_different_lengths():
    pairs = list(PAIRS.values())[:3]
    result, singles = edges(random_model(), iter(pairs)), [edges(random_model(), pair) for pair in pairs]
    assert result.n_pairs == 3
    np.testing.assert_allclose(result.values, np.mean([one.values for one in singles], axis=0))
    np.testing.assert_allclose(result.standard_error, np.std([one.effects for one in singles], axis=0, ddof=1) / 3**0.5)


def test_top_and_table_show_the_strongest():
    result = exact()
    top = result.top(5)
    assert [abs(effect) for _, _, effect in top] == sorted((abs(result.effects[result.mask])), reverse=True)[:5]
    writer, reader, effect = top[0]
    assert result.at(writer, reader) - result.base_value == effect
    assert writer in result.table(3)[2] and len(result.table(3)) == 5


def test_saved_and_loaded(tmp_path):
    result = edges(random_model(), [PAIR, PAIRS["the first differs"]])
    again = load_edges(result.save(tmp_path / "e"))
    assert repr(again) == repr(result)
    for name in ("values", "standard_error"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    lines = (tmp_path / "e.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 1 + result.n_edges and lines[1].startswith(",".join(result.top(1)[0][:2]))


def test_what_is_no_result_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a result"):
        load_edges(tmp_path / "x.npz")
    with pytest.raises(OSError, match="cannot read"):
        load_edges(tmp_path / "none.npz")


class Stop(Exception):
    pass


def test_an_interrupted_call_goes_on_where_it_was(tmp_path):
    model, seen = random_model(), []

    def stop(done, total):
        if done > 40:
            raise Stop

    with pytest.raises(Stop):
        edges(model, PAIR, keep_in=tmp_path, progress=stop)
    with np.load(tmp_path / "pair-0000.npz") as file:
        assert file["done"].tolist() == [0, 1]
    result = edges(model, PAIR, keep_in=tmp_path, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(result.values, exact().values)
    assert seen[-1] == (100, 100) and seen == sorted(seen)


@pytest.mark.parametrize(
    "change, name",
    [
        ({"direction": "denoising"}, "direction"), ({"alpha": 0.5}, "alpha"), ({"metric": "clean_probability"}, "metric"),
        ({"pairs": PAIRS["the first differs"]}, "clean text"), ({"model": random_model(seed=1)}, "weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_folder_of_another_question_is_refused(tmp_path, change, name):
    asked = {"model": random_model(), "pairs": PAIR}
    edges(**asked, keep_in=tmp_path)
    with pytest.raises(ValueError, match=f"another question: its {name}"):
        edges(**asked | change, keep_in=tmp_path)


def test_what_cannot_be_asked_is_refused():
    model = random_model()
    for wrong, message in (
        ({"direction": "up"}, "direction"), ({"pairs": []}, "at least one"), ({"pairs": "text"}, "PromptPair"),
        ({"metric": ["logit_difference"] * 2}, "2 metrics"), ({"alpha": float("nan")}, "alpha"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            edges(model, **{"pairs": PAIR} | wrong)
    for wrong in ({"steps": 0}, {"ends": "middle"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            attribute_edges(model, PAIR, **wrong)


# The error report


def test_the_error_report_by_hand():
    exact_values, estimates = (
        np.array([[np.nan, 4.0, -3.0], [1.0, 0.5, 0.0]]),
        np.array([[np.nan, 1.0, 3.0], [2.0, 0.4, 0.1]]),
    )

    def result(values, method):
        return EdgeResult(
            values, ("a", "b"), ("x", "y", "z"), 0.0, 1.0, "noising", "metric", "unit", 1.0, "model", 1, method
        )

    report = error_report(result(exact_values, "edges"), result(estimates, "EAP"), tops=(2, 3))
    assert report.n_edges == 5 and report.worst[0] == ("a", "z", -3.0, 3.0)
    assert report.sign_errors == {2: 1, 3: 1} and report.recall == {2: 0.5, 3: 1.0}
    assert report.correlation == pytest.approx(np.corrcoef([4, -3, 1, 0.5, 0], [1, 3, 2, 0.4, 0.1])[0, 1])
    assert report.rank_correlation == pytest.approx(np.corrcoef([5, 4, 3, 2, 1], [3, 5, 4, 2, 1])[0, 1])


def test_an_estimate_of_another_question_is_refused():
    with pytest.raises(ValueError, match="direction"):
        error_report(exact(), attribute_edges(random_model(), PAIR, direction="denoising"))
