"""python -m patching.circuits: what it prints, writes, refuses, and finds again after Ctrl-C."""

import json

import numpy as np
import pytest

from minigpt2 import GPT2
from minigpt2.terminal import guarded
from patching import PromptPair
from patching.circuits import Circuit, edges, path_patch
from patching.circuits import __main__ as command
from patching.circuits.result import load_edges

BUNDLED = ["--model", "bundled"]


def pair():
    return PromptPair(command.CLEAN, command.CORRUPTED, (" Jones", " Smith"))


def test_edges_are_printed_saved_and_drawn(tmp_path, capsys):
    command.main(["--edges", *BUNDLED, "--top", "3", "--save", str(tmp_path / "e"), "--out", str(tmp_path / "e.png")])
    out, exact = capsys.readouterr().out, edges(GPT2.from_pretrained("bundled"), pair())
    assert out.startswith("1,108 edges of the bundled model") and "\n".join(exact.table(3)) in out
    np.testing.assert_array_equal(load_edges(tmp_path / "e.npz").values, exact.values)
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")


def test_errors_compare_three_estimates(tmp_path, capsys):
    command.main(["--errors", *BUNDLED, "--out", str(tmp_path / "e.svg")])
    out = capsys.readouterr().out
    for name in ("EAP against", "EAP-IG, 5 steps against", "clean-corrupted against", "CPR"):
        assert name in out
    assert "<svg" in (tmp_path / "e.svg").read_text()


def test_paths(capsys):
    command.main(["--paths", "a4.h2<q>,m5", *BUNDLED, "--top", "2", "--through", "direct"])
    result = path_patch(GPT2.from_pretrained("bundled"), pair(), ["a4.h2<q>", "m5"], through="direct")
    assert "\n".join(result.table(2)) in capsys.readouterr().out


def test_a_circuit_as_eap_igs_json(tmp_path, capsys):
    command.main(["--circuit", "20", *BUNDLED, "--out", str(tmp_path / "c.json")])
    config = GPT2.from_pretrained("bundled").config
    circuit = Circuit.from_json(tmp_path / "c.json", config)
    assert f"{len(circuit.edges)} edges" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["cfg"]["n_layers"] == config.n_layer


def test_what_is_kept_is_found_again(tmp_path, capsys, monkeypatch):
    arguments = ["--edges", *BUNDLED, "--keep-in", str(tmp_path / "work")]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("patching.draw.heatmap.Progress.__call__", lambda self, done, total: done > 200 and stop())
    assert guarded(lambda: command.main(arguments)) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    monkeypatch.undo()
    with np.load(tmp_path / "work" / "pair-0000.npz") as file:
        assert 0 < len(file["done"]) < 7
    assert guarded(lambda: command.main(arguments)) == 0
    assert guarded(lambda: command.main([*arguments, "--direction", "denoising"])) == 1
    assert "another question: its direction" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--edges", "--out", "x.txt"], "a picture's name ends in"), (["--paths", "a9.h0<q>"], "there is no reader a9.h0<q>"),
        (["--paths", "logits,m1"], "only receiver"), (["--edges", "--top", "0"], "at least 1"),
        (["--edges", "--clean", "one two three"], "tokens"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(arguments, message, capsys):
    assert guarded(lambda: command.main([*arguments, *BUNDLED])) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
