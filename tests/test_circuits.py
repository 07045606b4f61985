"""Path patching against its four steps, circuits against a plain recursion with an input for each reader, and their files."""

import json
import math
import sys

import numpy as np
import pytest
from models import ODD, random_model

from minigpt2 import model as m
from minigpt2.overwrite import Overwrite
from patching import PromptPair
from patching.circuits import (
    Circuit,
    acdc,
    completeness,
    curve,
    edges,
    faithfulness,
    find_circuit,
    minimality,
    path_patch,
)  # fmt: skip
from patching.circuits.nodes import edge_mask, readers, writers

PAIR = PromptPair.from_tokens([3, 1, 4, 5, 9], [3, 7, 4, 6, 9], (2, 8))
FIRST = PromptPair.from_tokens([3, 1, 4, 5], [6, 1, 4, 5], (2, 8))
FLOAT64 = 1e-11
WHOLE = Circuit.from_mask(ODD, edge_mask(ODD))


# Path patching


def four_steps(model, pair, sender, receivers, through, positions=None, direction="noising"):
    """The definition, one run of the model a step: returns the metric."""
    clean, corrupted = (model.run(text) for text in pair.ids)
    base, other = (clean, corrupted) if direction == "noising" else (corrupted, clean)
    c, where = model.config, range(len(base.tokens)) if positions is None else positions
    z, mlp_out, embedded = base.z.copy(), base.mlp_out.copy(), base.resid_pre[0].copy()
    for p in where:
        if sender.kind == "head":
            z[sender.layer, sender.head, p] = other.z[sender.layer, sender.head, p]
        elif sender.kind == "mlp":
            mlp_out[sender.layer, p] = other.mlp_out[sender.layer, p]
        else:
            embedded[p] = other.resid_pre[0, p]
    frozen = [Overwrite(layer, "z", z[layer]) for layer in range(c.n_layer)] + [Overwrite(0, "resid_pre", embedded)]
    for layer in range(c.n_layer):
        if through == "direct" or (sender.kind == "mlp" and sender.layer == layer):
            frozen.append(Overwrite(layer, "mlp_out", mlp_out[layer]))
    noted, given = model.run(base.tokens, overwrites=frozen), []
    for reader in receivers:
        if reader.kind == "logits":
            given.append(Overwrite(c.n_layer - 1, "resid_post", noted.resid_post[-1]))
        elif reader.kind == "mlp":
            h = model.weights.h[reader.layer]
            x = m.layer_norm(noted.resid_mid[reader.layer], *h.ln_2, c.layer_norm_epsilon)
            given.append(Overwrite(reader.layer, "mlp_out", m.mlp(x, *h.mlp)))
        else:
            value = getattr(noted, reader.kind)[reader.layer, reader.head]
            given.append(Overwrite(reader.layer, reader.kind, value, heads=[reader.head]))
    logits = model.run(base.tokens, overwrites=given).logits[-1]
    return logits[pair.answers[1]] - logits[pair.answers[0]]


RECEIVERS = [["logits"], ["a2.h1<q>"], ["a1.h0<k>", "a2.h1<v>", "m1"], ["m2"], ["a1.h1<v>", "a1.h1<q>", "a2.h0<k>"]]


def paths_are_the_four_steps(names, through, positions=None, direction="noising", pair=PAIR):
    model = random_model()
    receivers = [reader for name in names for reader in readers(ODD) if str(reader) == name]
    ours = path_patch(model, pair, names, through=through, positions=positions, direction=direction)
    for writer, value in zip(writers(ODD), ours.values[:, 0]):
        plain = four_steps(model, pair, writer, receivers, through, positions, direction)
        assert abs(value - plain) <= FLOAT64, (str(writer), names)
    assert abs(ours.effects).max() > 1e-3 or positions is not None


@pytest.mark.parametrize("through", ["mlps", "direct"])
@pytest.mark.parametrize("names", RECEIVERS, ids="+".join)
def test_path_patching_is_its_four_steps(names, through):
    paths_are_the_four_steps(names, through)


def test_path_patching_from_some_positions_and_the_other_way_round():
    paths_are_the_four_steps(["a2.h1<v>", "m2"], "mlps", positions=[3])
    paths_are_the_four_steps(["a1.h0<k>"], "mlps", direction="denoising")
    paths_are_the_four_steps(["logits"], "mlps", pair=FIRST)


def test_a_direct_path_to_one_receiver_is_the_edge():
    exact = edges(random_model(), PAIR)
    for r, name in enumerate(exact.readers):
        column = path_patch(random_model(), PAIR, name, through="direct").values[:, 0]
        there = exact.mask[:, r]
        assert abs(column[there] - exact.values[there, r]).max() <= FLOAT64
        assert (column[~there] == exact.base_value).all(), "no path, no effect"


def test_small_groups_of_senders_change_nothing(monkeypatch):
    whole = path_patch(random_model(), PAIR, ["a2.h1<v>", "m2"])
    for name in ("edges", "paths"):
        monkeypatch.setattr(sys.modules[f"patching.circuits.{name}"], "BUDGET", 1)
    np.testing.assert_allclose(path_patch(random_model(), PAIR, ["a2.h1<v>", "m2"]).values, whole.values, atol=FLOAT64)


def test_chosen_senders_by_layer_and_head():
    result = path_patch(random_model(), PAIR, "logits", ["a0.h1", "m1"])
    assert result.n_edges == 2 and np.isnan(result.by_head()).sum() == 5
    assert result.by_head()[0, 1] == result.at("a0.h1", "logits") != result.base_value


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"receivers": []}, "at least one receiver"), ({"receivers": ["logits", "m1"]}, "only receiver"),
        ({"receivers": ["m1", "m1"]}, "twice"), ({"through": "everything"}, "through"), ({"senders": ["a9.h0"]}, "a9.h0"),
        ({"receivers": "a0.h0"}, "unknown reader"), ({"positions": [5]}, "position 5"),
    ],
    ids=str,
)  # fmt: skip
def test_paths_that_cannot_be_patched_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        path_patch(random_model(), PAIR, **{"receivers": "logits"} | wrong)


# Circuits of edges


def plain_circuit(model, text, other, circuit):
    """The logits at the end, where each reader adds up what it reads, writer by writer and head by head; other is an
    ablated run's {writer: [n_seq, n_embd]}."""
    c, weights, own = model.config, model.weights, {}
    n_seq, d = len(text), c.d_head

    def read(name, biases):
        reads = [str(w) for w in writers(c) if str(w) in own]
        return sum(own[w] if (w, name) in circuit.edges else other[w] for w in reads) + biases

    def norm(x, ln):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + c.layer_norm_epsilon) * ln.weight + ln.bias

    own["input"] = np.array([weights.wte[token] + weights.wpe[p] for p, token in enumerate(text)])
    biases = 0
    for layer, h in enumerate(weights.h):
        new = {}
        for head in range(c.n_head):
            made = {}
            for i, kind in enumerate("qkv"):
                columns = slice(i * c.n_embd + head * d, i * c.n_embd + (head + 1) * d)
                x = norm(read(f"a{layer}.h{head}<{kind}>", biases), h.ln_1)
                made[kind] = x @ h.attn.c_attn.weight[:, columns] + h.attn.c_attn.bias[columns]
            z = np.zeros((n_seq, d))
            for i in range(n_seq):
                weight = np.exp([made["q"][i] @ made["k"][j] / math.sqrt(d) for j in range(i + 1)])
                z[i] = weight / weight.sum() @ made["v"][: i + 1]
            new[f"a{layer}.h{head}"] = z @ h.attn.c_proj.weight[head * d : (head + 1) * d]
        own |= new
        biases = biases + h.attn.c_proj.bias
        own[f"m{layer}"] = m.mlp(norm(read(f"m{layer}", biases), h.ln_2), *h.mlp)
    return norm(read("logits", biases), weights.ln_f) @ weights.wte.T


def outputs(model, text):
    run = model.run(text)
    made = {"input": run.resid_pre[0]}
    for layer in range(model.config.n_layer):
        made |= {f"a{layer}.h{head}": run.activation("result", layer, head) for head in range(model.config.n_head)}
        made[f"m{layer}"] = run.mlp_out[layer]
    return made


def some_circuit(seed=0, share=0.5):
    return Circuit.from_mask(ODD, np.random.default_rng(seed).random(edge_mask(ODD).shape) < share)


def circuits_are_the_plain_recursion(ablation, seed=0):
    model, pairs = random_model(), [PAIR, PromptPair.from_tokens([2, 1, 4, 5, 0], [2, 7, 8, 6, 0], (2, 8))]
    circuit = some_circuit(seed)
    ours = faithfulness(model, pairs, circuit, ablation=ablation)
    means = [outputs(model, pair.ids[1]) for pair in pairs]
    for i, pair in enumerate(pairs):
        other = {
            "other run": means[i],
            "mean": {name: sum(one[name] for one in means) / len(means) for name in means[0]},
            "zero": {name: 0 * array for name, array in means[0].items()},
        }[ablation]
        logits = plain_circuit(model, pair.ids[0], other, circuit)[-1]
        assert abs(ours.circuit[i] - (logits[8] - logits[2])) <= FLOAT64
    assert abs(ours.circuit - ours.model).max() > 1e-3, "the ablation does something"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("ablation", ["other run", "mean", "zero"])
def test_a_circuit_of_edges_is_a_plain_recursion(ablation, seed):
    circuits_are_the_plain_recursion(ablation, seed)


@pytest.mark.parametrize("ablation", ["other run", "mean", "zero"])
def test_the_whole_graph_is_the_model(ablation):
    found = faithfulness(random_model(), PAIR, WHOLE, ablation=ablation)
    assert found.percent == pytest.approx(100, abs=1e-9) and found.normalised == pytest.approx(1, abs=1e-9)


def test_no_edge_at_all_is_the_other_run():
    found = faithfulness(random_model(), PAIR, Circuit(edges=frozenset()))
    assert abs(found.circuit[0] - edges(random_model(), PAIR).corrupted_value) <= FLOAT64 and found.normalised == 0


def test_the_graph_without_one_edge_is_that_edge_patched():
    exact = edges(random_model(), PAIR)
    for w, r in np.argwhere(exact.mask)[::7]:
        rest = Circuit(edges=WHOLE.edges - {(exact.writers[w], exact.readers[r])})
        assert abs(faithfulness(random_model(), PAIR, rest).circuit[0] - exact.values[w, r]) <= FLOAT64


@pytest.mark.parametrize("ablation", ["other run", "mean", "zero"])
def test_a_circuit_of_heads_is_z_overwritten_outside(ablation):
    model, pairs = random_model(), [PAIR, PromptPair.from_tokens([2, 1, 4, 5, 0], [2, 7, 8, 6, 0], (2, 8))]
    circuit = Circuit.of_heads(ODD, {(0, 1): [1, 4], (2, 0): None})
    ours = faithfulness(model, pairs, circuit, ablation=ablation)
    others = [model.run(pair.ids[1]).z for pair in pairs]
    for i, pair in enumerate(pairs):
        z = {"other run": others[i], "mean": sum(others) / 2, "zero": 0 * others[i]}[ablation]
        given = [Overwrite(0, "z", z[0, [1]][:, [0, 2, 3]], [1], [0, 2, 3]), Overwrite(0, "z", z[0, [0]], [0])]
        given += [Overwrite(1, "z", z[1]), Overwrite(2, "z", z[2, [1]], [1])]
        logits = model.run(pair.ids[0], overwrites=given).logits[-1]
        assert abs(ours.circuit[i] - (logits[8] - logits[2])) <= FLOAT64


def test_the_ratio_of_means_is_not_the_mean_of_ratios():
    from patching.circuits.faithfulness import Faithfulness

    found = Faithfulness(np.array([1.0, 3.0]), np.array([2.0, 2.0]), np.array([0.0, 1.0]))
    assert found.percent == 100 and found.mean_of_ratios == 100 and found.normalised == 1
    found = Faithfulness(np.array([1.0, 3.0]), np.array([1.0, 4.0]), np.array([0.0, 1.0]))
    assert found.percent == 80 and found.mean_of_ratios == 87.5 and found.normalised == 0.75


def test_completeness_and_minimality_remove_nodes():
    model, circuit = random_model(), some_circuit()
    ((ours, whole),) = completeness(model, PAIR, circuit, [["a1.h0", "m0"]])
    rest = [Circuit(edges=frozenset(e for e in c.edges if not {e[0], e[1].partition("<")[0]} & {"a1.h0", "m0"}))
            for c in (circuit, WHOLE)]  # fmt: skip
    assert [ours, whole] == pytest.approx([faithfulness(model, PAIR, c).circuit[0] for c in rest])
    found = minimality(model, PAIR, circuit, removed=["m0"])
    assert set(found) == circuit.without("m0").nodes - {"input", "logits"}
    expected = [faithfulness(model, PAIR, circuit.without(k)).circuit[0] for k in (["m0", "a1.h1"], ["m0"])]
    assert found["a1.h1"] == pytest.approx(expected[0] - expected[1])


def test_curves_and_their_areas_by_hand():
    scores = edges(random_model(), PAIR)
    found = curve(random_model(), PAIR, scores, fractions=(0.1, 0.5, 1.0))
    assert found.n_edges == (10, 50, 100) and found.values[-1] == pytest.approx(1)
    for n, value in zip(found.n_edges, found.values):
        circuit = find_circuit(random_model(), PAIR, n, scores=scores)
        assert faithfulness(random_model(), PAIR, circuit).normalised == pytest.approx(value)
    a, b, c = found.values
    assert found.cpr == pytest.approx(0.4 * (a + b) / 2 + 0.5 * (b + c) / 2)
    assert found.cmd == pytest.approx(0.4 * (abs(1 - a) + abs(1 - b)) / 2 + 0.5 * (abs(1 - b) + abs(1 - c)) / 2)


# Finding circuits, and their files


def test_pruning_removes_loose_ends():
    kept = {("input", "a0.h0<q>"), ("a0.h0", "m2"), ("m2", "logits")}
    loose = {("a1.h0", "logits"), ("input", "a1.h1<v>"), ("a1.h1", "m1"), ("a0.h1", "a1.h1<k>")}
    assert Circuit(edges=frozenset(kept | loose)).pruned().edges == kept


def test_top_and_greedy():
    scores = edges(random_model(), PAIR)
    top = find_circuit(random_model(), PAIR, 30, scores=scores)
    assert top.edges <= {(w, r) for w, r, _ in scores.top(30)} and top == top.pruned()
    first = find_circuit(random_model(), PAIR, 1, scores=scores, order="greedy")
    into_logits = scores.effects[:, -1]
    strongest = scores.writers[int(np.nanargmax(abs(into_logits)))]
    assert first.edges <= {(strongest, "logits")}
    assert find_circuit(random_model(), PAIR, 100, scores=scores, order="greedy") == WHOLE


def test_acdc_keeps_what_matters():
    model, scores = random_model(), edges(random_model(), PAIR)
    everything = acdc(model, PAIR, -1e9, scores=scores)
    nothing = acdc(model, PAIR, 1e9, scores=scores)
    some = acdc(model, PAIR, 0.002, scores=scores)
    assert everything == WHOLE and not nothing.edges and 0 < len(some.edges) < 100
    model_value, circuit_value = scores.base_value, faithfulness(model, PAIR, some).circuit[0]
    assert abs(circuit_value - model_value) < 0.002 * (100 - len(some.edges))


def test_json_is_that_of_eap_igs_graph(tmp_path):
    circuit, scores = find_circuit(random_model(), PAIR, 30), edges(random_model(), PAIR)
    circuit.to_json(tmp_path / "graph.json", ODD, scores)
    graph = json.loads((tmp_path / "graph.json").read_text())
    assert graph["cfg"] == {"n_layers": 3, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 14}
    assert list(graph["nodes"]) == [*map(str, writers(ODD)), "logits"] and len(graph["edges"]) == 100
    edge = graph["edges"]["input->a0.h0<q>"]
    assert edge == {"score": scores.effects[0, 0], "in_graph": ("input", "a0.h0<q>") in circuit.edges}
    assert Circuit.from_json(tmp_path / "graph.json", ODD) == circuit


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not a graph"), ("[]", "not a graph"), ('{"cfg": {"n_layers": 12, "n_heads": 12}, "edges": {}}', "12 layers"),
        ('{"cfg": {"n_layers": 3, "n_heads": 2}, "edges": {"m0": {"in_graph": true}}}', "not named"),
        ('{"cfg": {"n_layers": 3, "n_heads": 2}, "edges": {"m1->m0": {"in_graph": true}}}', "no edge m1->m0"),
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused(tmp_path, text, message):
    (tmp_path / "graph.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Circuit.from_json(tmp_path / "graph.json", ODD)


def test_what_cannot_be_measured_is_refused():
    model = random_model()
    with pytest.raises(ValueError, match="unknown ablation"):
        faithfulness(model, PAIR, WHOLE, ablation="none")
    with pytest.raises(ValueError, match="equal length"):
        faithfulness(model, [PAIR, FIRST], WHOLE, ablation="mean")
    with pytest.raises(ValueError, match="a0.h5"):
        Circuit.of_heads(ODD, {(0, 5): None})
    with pytest.raises(ValueError, match="order"):
        find_circuit(model, PAIR, 3, order="bottom")
