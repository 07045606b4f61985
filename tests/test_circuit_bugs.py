"""The tests of edges, paths and circuits tested: each of these mistakes, made on purpose, is caught by the test beside it.

A row is (module of patching/circuits, which name, the wrong code in its place, the test that must fail, its arguments), as in
test_deliberate_bugs.py.
"""

import sys

import numpy as np
import pytest
import test_circuits
import test_edges

import patching.circuits  # noqa: F401  (its modules are looked up by name)
from minigpt2 import model as m
from minigpt2.overwrite import Overwrite


def module(name):
    return sys.modules[f"patching.circuits.{name}"]


edges, ablated, nodes = module("edges"), module("ablated"), module("nodes")
new_z, after, differences = edges.new_z, edges.after, module("setting").Setting.differences
add_products, read_by_heads, note = (
    module("attribution").add_products,
    ablated.read_by_heads,
    module("paths").Carried.note,
)


def swapped_q_and_k(*args):
    z = dict(new_z(*args))
    yield from (("q", z["k"]), ("k", z["q"]), ("v", z["v"]))


def every_head_reads_the_change(setting, layer, h, difference, read):
    """q, k and v together, as if the whole layer's input had been patched."""
    for kind, _ in new_z(setting, layer, h, difference, read):
        x = m.layer_norm(setting.base.resid_pre[layer, setting.first :] + difference, *h.ln_1, 1e-5)
        q, k, v = m.split_qkv(m.linear(x, *h.attn.c_attn), setting.model.config.n_head)
        base_k, base_v = (getattr(setting.base, name)[layer][:, : setting.first] for name in "kv")
        yield kind, m.attend(q[:, read.start - setting.first :], after(base_k, k), after(base_v, v))


def forgotten_prefix(prefix, suffixes):
    return after(np.zeros_like(prefix), suffixes)


def the_wrong_way_round(self, layer):
    return -differences(self, layer)


def without_the_heads_of_its_layer(reader, config):
    return 1 + reader.layer * (config.n_head + 1)


def enters_its_own_layer(setting, layer, some, row, column):
    for arrival in edges_into_mlp(setting, layer, some, row, column):
        yield arrival._replace(layer=arrival.layer - 1)


edges_into_mlp = edges.into_mlp


def one_position_early(found, some, first, first_column, gradients):
    add_products(found, some, first, first_column, np.roll(gradients, 1, axis=1))


def the_query_heads_input_for_all(x, h, config):
    n = config.n_head
    return read_by_heads(np.concatenate([x[:n]] * 3), h, config)


def bias_of_c_proj_forgotten(model, n_seq):
    right = of_zero(model, n_seq)
    return right._replace(
        **{name: np.zeros_like(getattr(right, name)) for name in ("resid_pre", "resid_mid", "resid_post")}
    )


of_zero = ablated.of_zero


def changed_rows_only(self, where, values, noted):
    """Rows that do not change are left to what earlier receivers do."""
    for sender in np.unique(self.owners):
        some = self.owners == sender
        noted[int(sender)].append(Overwrite(where.layer, where.name, values[some], where.heads, self.positions[some]))


def mlps_as_in_the_base_run(self, layer):
    return self.setting.base.mlp_out[layer, self.positions].copy()


ONE_PASS, STEPS = test_edges.one_pass_is_one_by_one, test_edges.small_steps_are_the_gradients
CIRCUIT, PATHS = test_circuits.circuits_are_the_plain_recursion, test_circuits.paths_are_the_four_steps
TWO = ("two differ", "noising")
BUGS = {
    "q and k swapped": ("edges", "new_z", swapped_q_and_k, ONE_PASS, TWO),
    "all readers of a layer at once": ("edges", "new_z", every_head_reads_the_change, ONE_PASS, TWO),
    "keys before the change forgotten": ("edges", "after", forgotten_prefix, ONE_PASS, TWO),
    "an MLP's stream that enters its own layer": ("edges", "into_mlp", enters_its_own_layer, ONE_PASS, TWO),
    "no edges from a layer's heads to its MLP": (
        "nodes", "n_writers_below", without_the_heads_of_its_layer, test_edges.test_the_number_of_edges, (),
    ),
    "gradients one position early": ("attribution", "add_products", one_position_early, STEPS, ()),
    "k and v read what q reads": ("ablated", "read_by_heads", the_query_heads_input_for_all, CIRCUIT, ("other run",)),
    "zero without the output bias": ("faithfulness", "of_zero", bias_of_c_proj_forgotten, CIRCUIT, ("zero",)),
    "zero for the other run": (
        "faithfulness", "of_run", lambda run: [0 * array for array in ablated.of_run(run)], CIRCUIT, ("other run",),
    ),
    "receivers that are not frozen where they do not change": (
        ("paths", "Carried"), "note", changed_rows_only, PATHS, (["a1.h0<k>", "a2.h1<v>", "m1"], "mlps"),
    ),
    "MLPs frozen that are to be made again": (
        ("paths", "Carried"), "mlp_out", mlps_as_in_the_base_run, PATHS, (["a2.h1<q>"], "mlps"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("where, name, wrong, test, arguments", BUGS.values(), ids=BUGS)
def test_the_named_test_catches_the_mistake(monkeypatch, where, name, wrong, test, arguments):
    test(*arguments)
    owner = module(where) if isinstance(where, str) else getattr(module(where[0]), where[1])
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        test(*arguments)


def test_a_difference_the_wrong_way_round_is_seen_by_a_sweep(monkeypatch):
    """Both kinds of edges share it: what catches it is the patched input."""
    test_edges.test_all_edges_into_one_reader_are_its_input_patched("noising")
    monkeypatch.setattr(module("setting").Setting, "differences", the_wrong_way_round)
    with pytest.raises(AssertionError):
        test_edges.test_all_edges_into_one_reader_are_its_input_patched("noising")
