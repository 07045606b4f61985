"""A set's values are its pairs' own sweeps, bit for bit, whoever computes them; what is kept in a directory goes on from there."""

import csv
import io
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from models import random_model

from minigpt2 import GPT2
from minigpt2.overwrite import Overwrite
from patching import PairSet, PromptPair, SetResult, attribute, sweep
from patching.pairs import ask, builtin, jobs, statistics
from patching.pairs.checks import SelfCheckFailed
from patching.pairs.threads import blas_threads, use_one_thread
from patching.pairs.workers import workers

MODEL = random_model()
PAIRS = PairSet(
    [PromptPair.from_tokens([3, 1, 4, 1, b], [3, 1, 7, 1, b], (2, 8)) for b in range(6)], {"changed": [2] * 6}
)
LONGER = PairSet([*PAIRS, PromptPair.from_tokens([3, 4, 1], [3, 7, 1], (2, 8))], {"changed": [2] * 6 + [1]})
BUNDLED = GPT2.from_pretrained("bundled")
NAMES = builtin.indirect_object(BUNDLED, 5, template="ABBA")


@pytest.fixture(autouse=True)
def one_thread():
    use_one_thread()


def equal(a, b):
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.clean_values, b.clean_values)
    np.testing.assert_array_equal(a.corrupted_values, b.corrupted_values)
    assert a.axes == b.axes and a.numbers == b.numbers and a.checks == b.checks and a.digest == b.digest


@pytest.mark.parametrize("run", [sweep, attribute])
@pytest.mark.parametrize("site, choices", [
    ("resid_post", {}), ("z", dict(positions="all")), ("v", dict(heads=[1], layers=[0, 2], alpha=0.5)),
    ("mlp_out", dict(source="zero", direction="denoising")), ("pattern_entry", dict(layers=[1])),
    ("resid_pre", dict(places=[[(0, 1), (1, 2)], [(2, 2)]])),
])  # fmt: skip
def test_values_are_the_pairs_own_bit_for_bit(run, site, choices):
    found = run(MODEL, PAIRS, site, **choices)
    own = [run(MODEL, pair, site, **choices) for pair in PAIRS]
    np.testing.assert_array_equal(found.values, [result.values for result in own])
    np.testing.assert_array_equal(found.clean_values, [result.clean_value for result in own])
    np.testing.assert_array_equal(found.base_values, [result.base_value for result in own])
    np.testing.assert_array_equal(found.target_values, [result.target_value for result in own])
    assert found.axes == own[0].axes and found.method == own[0].method and found.count == "6 pairs"


def test_statistics_are_those_of_the_values():
    found = sweep(MODEL, PAIRS)
    np.testing.assert_allclose(found.mean, np.mean(found.values, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.standard_error, statistics.standard_error(found.values))
    np.testing.assert_array_equal(found.effect_error, statistics.standard_error(found.effects))
    base = found.corrupted_values[:, None, None]
    np.testing.assert_array_equal(found.p_value(), statistics.p_value(found.values - base))
    np.testing.assert_array_equal(found.interval(0.9, of="effects"), statistics.interval(found.values - base, 0.9))
    gap = found.clean_values - found.corrupted_values
    np.testing.assert_allclose(found.share, (found.values - base) / gap[:, None, None], rtol=1e-12)
    np.testing.assert_allclose(found.mean_share, (found.values - base).mean(axis=0) / gap.mean(), rtol=1e-12)
    same = np.sign(found.effects) == np.sign(found.effects.mean(axis=0))
    effect = np.abs(found.effects) > 1e-6
    np.testing.assert_array_equal(found.share_of_pairs(), (same & effect).mean(axis=0))
    assert not found.share_of_pairs()[:, :2].any()  # before the change nothing moves
    with pytest.raises(ValueError, match='"values", "effects" or "share"'):
        found.interval(of="mean")


def test_roles_are_the_pairs_own_positions():
    found = sweep(MODEL, LONGER, positions=["end", "changed"])
    assert list(found.axes) == ["layer", "role"] and found.axes["role"] == ["end", "changed"]
    assert found.positions.tolist() == [[4, 2]] * 6 + [[2, 1]]
    for i, pair in enumerate(LONGER):
        own = sweep(MODEL, pair, positions=found.positions[i].tolist())
        np.testing.assert_array_equal(found.values[i], own.values)


def test_two_roles_may_be_at_one_position():
    pairs = PairSet(PAIRS.pairs, {"a": [2] * 6, "b": [2, 3] * 3})
    found = sweep(MODEL, pairs, "z", positions=["b", "a", "end"])
    np.testing.assert_array_equal(found.values[0, :, :, 0], found.values[0, :, :, 1])
    own = sweep(MODEL, PAIRS[1], "z", positions=[3, 2, 4])
    np.testing.assert_array_equal(found.values[1], own.values)


def test_pairs_of_different_lengths_need_roles():
    with pytest.raises(ValueError, match="6 pairs of 5 tokens.*1 pair of 3 tokens|1 pair of 3 tokens, 6 pairs of 5"):
        sweep(MODEL, LONGER)
    assert sweep(MODEL, LONGER, "z", positions="all").values.shape == (7, 3, 2)
    with pytest.raises(ValueError, match="other positions than pair 0: give positions as roles"):
        sweep(MODEL, LONGER, positions=[-1])
    with pytest.raises(ValueError, match="unknown role 'verb'"):
        sweep(MODEL, LONGER, positions=["verb"])
    with pytest.raises(ValueError, match='must be "all"'):
        sweep(MODEL, LONGER, positions="end")


def test_several_metrics_are_read_off_one_sweep():
    metrics = ["logit_difference", "kl_divergence", "probability_difference"]
    found, counted = sweep(MODEL, PAIRS, "z", metric=metrics), []
    for name in metrics:
        np.testing.assert_array_equal(found[name].values, sweep(MODEL, PAIRS, "z", metric=name).values)
    single = sweep(MODEL, PAIRS[0], "z", metric=metrics, progress=lambda done, total: counted.append(total))
    assert list(single) == metrics and set(counted) == {3 * 2 * 5}  # 30 patches, not 90
    for wrong, message in (([], "empty list"), (["kl_divergence"] * 2, "two metrics")):
        with pytest.raises(ValueError, match=message):
            sweep(MODEL, PAIRS[0], metric=wrong)


@pytest.mark.parametrize("metric", ["logit_difference", "probability_difference", "clean_probability", "clean_log_probability",
                                    "kl_divergence"])  # fmt: skip
def test_metrics_of_sets_of_answers(metric):
    """By the formula, from the logits of every patch; and their slopes by finite differences."""
    clean, corrupted = (2, 5, 6), (8, 1)
    pair = PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 1, 7, 1, 5], (clean, corrupted))
    result = sweep(MODEL, pair, "mlp_out", metric=metric, keep_logits=True)
    x = result.logits.reshape(-1, 11)
    p, start = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True), np.exp(MODEL.run([3, 1, 4, 1, 5]).logits[-1])
    start /= start.sum()
    expected = {
        "logit_difference": x[:, corrupted].mean(axis=1) - x[:, clean].mean(axis=1),
        "probability_difference": p[:, corrupted].sum(axis=1) - p[:, clean].sum(axis=1),
        "clean_probability": p[:, clean].sum(axis=1),
        "clean_log_probability": np.log(p[:, clean].sum(axis=1)),
        "kl_divergence": (start * np.log(start / p)).sum(axis=1),
    }[metric]
    np.testing.assert_allclose(result.values.ravel(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        sweep(MODEL, pair, "mlp_out", metric=metric).values.ravel(), expected, rtol=0, atol=1e-12
    )
    eps = 1e-6
    up, down = (sweep(MODEL, pair, "mlp_out", metric=metric, alpha=sign * eps).values for sign in (1, -1))
    estimate = attribute(MODEL, pair, "mlp_out", metric=metric)
    np.testing.assert_allclose(estimate.values - estimate.base_value, (up - down) / (2 * eps), rtol=0, atol=1e-8)


def test_answers_that_overlap_are_refused():
    for answers, message in (
        (((2, 3), (3, 8)), "both answers are token 3"),
        (((2, 2), (8,)), "token 2 twice"),
        (((), (8,)), "empty"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep(MODEL, PromptPair.from_tokens([3, 1, 4], [3, 1, 7], answers))


def test_the_metric_can_be_read_at_another_position():
    pair = PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 9, 4, 1, 5], (2, 8))
    found = sweep(MODEL, PairSet([pair] * 2, {"here": [3, 2]}), "z", positions="all", at="here")
    for i, pos in enumerate((3, 2)):
        kept = sweep(MODEL, pair, "z", positions="all", at=pos)
        np.testing.assert_array_equal(found.values[i], kept.values)
        source = MODEL.run(pair.ids[0])
        overwrites = [Overwrite(1, "z", source, heads=[0])]
        logits = MODEL.run(pair.ids[1], overwrites=overwrites).logits[pos]
        np.testing.assert_allclose(kept.at(layer=1, head=0), logits[8] - logits[2], rtol=0, atol=1e-12)
    for wrong in (9, True, 1.0):
        with pytest.raises(ValueError, match="at is where the metric is read"):
            sweep(MODEL, pair, at=wrong)


def test_tables_have_a_row_for_each_cell_and_pair(tmp_path):
    found = sweep(MODEL, LONGER, "z", positions=["changed"], layers=[0, 2])
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(rows) == 7 * 2 * 2
    assert list(rows[0]) == ["model", "site", "layer", "head", "role", "position", "pair", "metric", "value"]
    last = rows[-1]
    assert (last["layer"], last["head"], last["role"], last["position"], last["pair"]) == (
        "2",
        "1",
        "changed",
        "1",
        "6",
    )
    assert [float(row["value"]) for row in rows] == found.values.ravel().tolist()
    found.to_csv(tmp_path / "table.csv")
    pandas = pytest.importorskip("pandas")
    assert pandas.read_csv(tmp_path / "table.csv").equals(found.to_dataframe())


# Self-checks


def test_a_result_says_what_was_checked():
    found = sweep(MODEL, PAIRS)
    assert len(found.checks) == 4 and "at alpha 0 the patched run is reproduced" in found.checks
    assert found.threads == blas_threads() and len(found.digest) == 16
    assert len({found.digest, sweep(MODEL, PAIRS, alpha=0.5).digest, sweep(MODEL, PAIRS[:5]).digest,
                sweep(random_model(seed=1), PAIRS).digest}) == 4  # fmt: skip


@pytest.mark.parametrize("broken", ["alpha", "source", "cell"])
def test_the_checks_fail_for_a_sweep_that_is_wrong(monkeypatch, broken):
    """A patch that writes nothing, that writes at alpha 0, and a map with a wrong cell."""
    from patching import plan

    if broken == "alpha":
        monkeypatch.setattr(plan, "blended", lambda old, new, positions, alpha: new[positions])
    elif broken == "source":
        monkeypatch.setattr(plan, "blended", lambda old, new, positions, alpha: old[positions])
    else:
        true = ask.engine.swept

        def wrong(*args):
            results = true(*args)
            results[0].values[min(1, len(results[0].values) - 1), 2] += 1
            return results

        monkeypatch.setattr(ask.engine, "swept", wrong)
    with pytest.raises(SelfCheckFailed, match="self-check failed"):
        sweep(MODEL, PAIRS)


# Executors


@pytest.mark.parametrize("pairs_per_job", [1, 2, 5])
def test_threads_of_one_process_give_the_same_bits(pairs_per_job):
    with ThreadPoolExecutor(2) as executor:
        found = sweep(MODEL, PAIRS, "z", executor=executor, pairs_per_job=pairs_per_job)
    equal(found, sweep(MODEL, PAIRS, "z"))


@pytest.mark.slow
def test_processes_give_the_same_bits():
    alone = sweep(BUNDLED, NAMES, "z", positions=["S 2", "end"])
    for pairs_per_job in (1, 3):
        with workers(2) as executor:
            found = sweep(BUNDLED, NAMES, "z", positions=["S 2", "end"], executor=executor, pairs_per_job=pairs_per_job)
        equal(found, alone)
        assert found.threads == alone.threads == blas_threads()


def test_a_model_of_arrays_and_a_metric_that_cannot_travel_are_refused():
    with ProcessPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match="made from arrays.*from_pretrained"):
            sweep(MODEL, PAIRS, executor=executor)
        with pytest.raises(ValueError, match="can be pickled"):
            sweep(BUNDLED, NAMES, "z", positions="all", metric=lambda logits: logits[0], executor=executor)


def die(*_):
    import os

    os._exit(1)


@pytest.mark.slow
def test_a_worker_that_dies_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(jobs, "run_job", die)
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(ChildProcessError, match="a worker ended before its work was done"),
    ):
        sweep(BUNDLED, NAMES, "z", positions="all", executor=executor)


# A directory


def test_a_run_goes_on_from_what_is_there(tmp_path, monkeypatch):
    whole, made = sweep(MODEL, PAIRS, "z"), []
    true = jobs.map_of
    monkeypatch.setattr(jobs, "map_of", lambda *args, **more: made.append(args[3]) or true(*args, **more))

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(MODEL, PAIRS, "z", directory=tmp_path / "run", progress=stop)
    assert made == [0, 1, 2, 3]
    (tmp_path / "run" / "pair-000001.npz").write_bytes(b"PK damaged")
    seen = []
    again = sweep(MODEL, PAIRS, "z", directory=tmp_path / "run", progress=lambda *at: seen.append(at))
    assert made[4:] == [1, 4, 5] and seen == [(3, 6), (4, 6), (5, 6), (6, 6)]
    equal(again, whole)
    equal(sweep(MODEL, PAIRS, "z", directory=tmp_path / "run"), whole)
    assert len(made) == 7
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_parts_come_together_in_one_directory(tmp_path):
    first = sweep(MODEL, PAIRS, directory=tmp_path, part=(1, 4))
    assert first.numbers == (0, 4) and first.count == "2 of 6 pairs" and "2 of 6 pairs" in repr(first)
    for part in ((2, 4), (3, 4)):
        sweep(MODEL, PAIRS, directory=tmp_path, part=part)
    last = sweep(MODEL, PAIRS, directory=tmp_path, part=(4, 4))
    np.testing.assert_array_equal(last.values, sweep(MODEL, PAIRS).values)
    assert last.numbers == tuple(range(6))
    for wrong in ((0, 4), (5, 4), 3, (1.5, 2), "3/20"):
        with pytest.raises(ValueError, match="part must be two numbers"):
            sweep(MODEL, PAIRS, directory=tmp_path, part=wrong)
    with pytest.raises(ValueError, match="part needs directory"):
        sweep(MODEL, PAIRS, part=(1, 2))


@pytest.mark.parametrize("change, named", [
    (dict(alpha=0.5), "alpha: 1.0 there, 0.5 here"), (dict(metric="normalised"), "metric"), (dict(layers=[1]), "layers"),
    (dict(overwrites=[Overwrite(0, "z", 0.0)]), "overwrites"), (dict(positions=["end"]), "positions"),
])  # fmt: skip
def test_another_question_is_refused_and_what_differs_is_named(tmp_path, change, named):
    sweep(MODEL, PAIRS, directory=tmp_path)
    with pytest.raises(ValueError, match=f"another question .*{named}"):
        sweep(MODEL, PAIRS, directory=tmp_path, **change)


def test_other_weights_pairs_and_threads_are_another_question(tmp_path, monkeypatch):
    sweep(MODEL, PAIRS, directory=tmp_path)
    for model, pairs, named in ((random_model(seed=1), PAIRS, "weights"), (MODEL, PAIRS[:5], 'pairs: "6 pairs')):
        with pytest.raises(ValueError, match=named):
            sweep(model, pairs, directory=tmp_path)
    monkeypatch.setattr(jobs, "blas_threads", lambda: 64)
    with pytest.raises(ValueError, match="BLAS threads: 1 there, 64 here"):
        sweep(MODEL, PAIRS, directory=tmp_path)


def test_what_cannot_be_compared_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="metric is a function"):
        sweep(MODEL, PAIRS, metric=lambda logits: logits[0], directory=tmp_path)
    (tmp_path / "question.json").write_text("no")
    with pytest.raises(ValueError, match="not a question"):
        sweep(MODEL, PAIRS, directory=tmp_path)


def test_choices_of_sets_are_refused_for_one_pair(tmp_path):
    for name, value in (("directory", tmp_path), ("part", (1, 2)), ("skip", True)):
        with pytest.raises(ValueError, match=f"{name} is for a PairSet"):
            sweep(MODEL, PAIRS[0], **{name: value})
    with pytest.raises(ValueError, match="keep_logits"):
        sweep(MODEL, PAIRS, keep_logits=True)
    assert isinstance(sweep(MODEL, PAIRS), SetResult)
