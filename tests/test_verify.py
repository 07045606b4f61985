"""python -m patching.verify: green on a stand-in checkpoint, red under each deliberate fault, and what fails first is what is wrong."""

import copy
import json
import math
import shutil
import sys

import numpy as np
import pytest
from golden.stand_in_checkpoint import HERE, tensors, write_stand_in, write_weights
from vocabulary import genuine_vocabulary

from minigpt2 import model as m
from minigpt2.checkpoint import hub
from minigpt2.checkpoint.weights import expected_shapes
from minigpt2.facts import KINDS, load_facts
from minigpt2.model import Config
from patching import sources
from patching.verify import __main__ as verify

FACTS = HERE / "stand_in_facts.json"
RECORD = "python tests/golden/make_stand_in.py records the facts anew"


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand_in")
    write_stand_in(folder, genuine_vocabulary())
    return folder


@pytest.fixture
def spoilt(stand_in, tmp_path):
    """A copy of the stand-in to make faults in."""
    return shutil.copytree(stand_in, tmp_path / "spoilt")


def checked(capsys, folder, *only, facts=FACTS):
    """Run the command with --json: (exit code, the report)."""
    kinds = [argument for kind in only for argument in ("--only", kind)]
    code = verify.main(["--model", str(folder), "--facts", str(facts), "--json", *kinds])
    return code, json.loads(capsys.readouterr().out)


def failing(report):
    """The kinds that have a failing fact."""
    return {check["kind"] for check in report["checks"] if check["verdict"] == "FAILS"}


def first_failing(report):
    """The first fact that fails, in the order of the data flow, as a sentence."""
    first = next(check for check in report["checks"] if check["verdict"] == "FAILS")
    return first["message"] or first["fact"]


def with_crc32c():
    pytest.importorskip("google_crc32c", reason="google-crc32c is not installed: pip install google-crc32c")


# Green


def test_the_stand_in_holds(stand_in, capsys):
    with_crc32c()
    assert verify.main(["--model", str(stand_in), "--facts", str(FACTS)]) == 0, RECORD
    out = capsys.readouterr().out
    assert out.endswith("\nall 99 facts hold\n") and "fails" not in out and "CRC32C of 40 tensors" in out
    assert max(map(len, out.splitlines())) <= 120


def test_json_is_complete(stand_in, capsys):
    with_crc32c()
    code, report = checked(capsys, stand_in)
    assert code == 0 and report["holds"] and failing(report) == set()
    assert {check["kind"] for check in report["checks"]} == set(KINDS)
    assert sum(check["kind"] == "tensors" for check in report["checks"]) == len(expected_shapes(stand_in_config()))
    for check in report["checks"]:
        assert check.keys() >= set("kind fact expected got difference tolerance source verdict message".split())
        assert check["source"] in report["sources"]
    matrices = [check for check in report["checks"] if "sweep of resid_post" in check["fact"]]
    assert [np.shape(check["got"]) for check in matrices] == [(3, 11), (3, 11)]  # through both sweeps, cell by cell


def stand_in_config():
    return Config(**load_facts(FACTS)["sizes"])


def test_the_stand_ins_facts_can_tell(stand_in, capsys):
    """Tolerances far below what a patch changes, far above rounding: a fact that anything would meet proves nothing."""
    facts = load_facts(FACTS)
    matrix = np.array(facts["patching"][0]["sites"]["resid_post"])
    assert np.ptp(matrix[:-1, 1:], axis=1).min() > 1000 * facts["patching"][0]["tolerance"]
    for check in checked(capsys, stand_in, "activations", "losses", "patching")[1]["checks"]:
        assert check["difference"] < check["tolerance"] / 3


# Red: faults in the files


def test_one_flipped_bit(spoilt, capsys):
    with_crc32c()
    arrays = {name: array.copy() for name, array in tensors().items()}
    arrays["h.1.mlp.c_fc.weight"].view(np.uint32)[3, 5] ^= 1
    write_weights(spoilt, arrays)
    code, report = checked(capsys, spoilt)
    assert code == 1
    off = [check["message"] for check in report["checks"] if check["kind"] == "tensors" and check["verdict"] == "FAILS"]
    assert off == ["tensor h.1.mlp.c_fc.weight differs from the stand-in's"]
    assert failing(report) == {"tensors", "files"}  # the lowest bit: no activation can show it, the checksums do


def test_swapped_layers(spoilt, capsys):
    def other(name):
        swap = {"1": "2", "2": "1"}
        first, *rest = name.split(".")
        return ".".join([first, swap.get(rest[0], rest[0]), *rest[1:]])

    arrays = tensors()
    write_weights(spoilt, {name: arrays[other(name)] for name in arrays})
    _, report = checked(capsys, spoilt, "activations", "losses")
    assert "attn_out_1" in first_failing(report)
    with_crc32c()
    code, report = checked(capsys, spoilt, "tensors")
    off = [check["message"] for check in report["checks"] if check["verdict"] == "FAILS"]
    assert code == 1 and len(off) == 24
    assert off[0] == "tensor h.1.ln_1.weight differs from the stand-in's: it holds the bytes of h.2.ln_1.weight"


def test_a_wrong_epsilon_in_config_json(spoilt, capsys):
    path = spoilt / "config.json"
    path.write_text(path.read_text().replace('"layer_norm_epsilon": 1e-05', '"layer_norm_epsilon": 1e-02'))
    code, report = checked(capsys, spoilt, "files", "activations")
    off = [check["message"] or check["fact"] for check in report["checks"] if check["verdict"] == "FAILS"]
    assert code == 1 and "config.json differs" in off[0]
    assert "attn_out_0" in next(message for message in off if "json" not in message and "safetensors" not in message)


def swap_merges(folder, token):
    """Exchange the merge that makes a token with the next one, and their ids: two files that agree, but not GPT-2's."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    at = next(number for number, line in enumerate(lines) if line.replace(" ", "") == token)
    a, b = lines[at].replace(" ", ""), lines[at + 1].replace(" ", "")
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    ids[a], ids[b] = ids[b], ids[a]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return ids


def test_a_wrong_merge(spoilt, capsys):
    swap_merges(spoilt, "ĠJones")
    code, report = checked(capsys, spoilt, "files", "token_ids", "activations", "greedy")
    off = [check["message"] for check in report["checks"] if check["verdict"] == "FAILS"]
    assert code == 1 and any("merges.txt differs from that of Hugging Face" in message for message in off)
    assert "activations" not in failing(report)  # the model is not to blame


def test_a_wrong_token_id(spoilt, capsys):
    ids = swap_merges(spoilt, "ĠJones")
    (spoilt / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    code, report = checked(capsys, spoilt, "token_ids", "activations", "losses", "greedy")
    assert code == 1 and "token_ids" in failing(report)
    assert not failing(report) & {"activations", "losses"}  # the model is not to blame
    assert (
        "token 1 of 'Michelle Jones was a top-notch student. Michelle' is 5438 (' Jones'), expected 5437"
        in first_failing(report)
    )


def test_numbers_that_overflow_are_red_and_no_traceback(spoilt, capsys):
    arrays = tensors()
    write_weights(spoilt, arrays | {"h.1.attn.c_proj.weight": arrays["h.1.attn.c_proj.weight"] * np.float32(1e38)})
    code, report = checked(capsys, spoilt, "activations", "losses")
    assert code == 1 and failing(report) == {"activations", "losses"} and "layer 1" in first_failing(report)


# Red: faults in the code


def test_the_erf_gelu(stand_in, capsys, monkeypatch):
    erf = np.vectorize(math.erf, otypes=[np.float32])
    monkeypatch.setattr(m, "gelu", lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))))
    code, report = checked(capsys, stand_in)
    assert code == 1 and not failing(report) & {"files", "tensors", "token_ids"}
    assert "mlp_out_0" in first_failing(report)
    held = [
        check["fact"] for check in report["checks"] if check["kind"] == "activations" and check["verdict"] == "holds"
    ]
    assert any(fact.startswith("attn_out_0") for fact in held)


def test_an_off_by_one_patch(stand_in, capsys, monkeypatch):
    from patching import plan

    right = plan.blended

    def one_position_early(old, new, positions, alpha):
        return right(np.roll(old, 1, axis=0), np.roll(new, 1, axis=0), positions, alpha)

    monkeypatch.setattr(plan, "blended", one_position_early)
    code, report = checked(capsys, stand_in, "activations", "losses", "patching")
    assert code == 1 and failing(report) == {"patching"}
    off = {check["fact"].split()[0] for check in report["checks"] if check["verdict"] == "FAILS"}
    assert off >= {"plain", "one-pass"}


def test_a_fault_in_the_one_pass_sweep_alone(stand_in, capsys, monkeypatch):
    from patching import one_pass

    right = one_pass.after
    monkeypatch.setattr(one_pass, "after", lambda prefix, suffixes: right(0 * prefix, suffixes))
    code, report = checked(capsys, stand_in, "activations", "patching")
    off = {check["fact"].split()[0] for check in report["checks"] if check["verdict"] == "FAILS"}
    assert code == 1 and "one-pass" in off and "plain" not in off


def test_raw_zero_for_folded_and_an_overwrite_after_it_was_read(stand_in, capsys, monkeypatch):
    from minigpt2 import overwrite
    from patching.verify import ablations

    with monkeypatch.context() as patch:
        patch.setattr(ablations, "zero", lambda convention="raw": sources.zero())
        code, report = checked(capsys, stand_in, "losses", "head_ablation", "backup_heads")
    off = [check["fact"] for check in report["checks"] if check["verdict"] == "FAILS"]
    assert code == 1 and off[0] == "loss, head 1.1 with values of zero, folded" and len(off) >= 2
    with monkeypatch.context() as patch:
        patch.setattr(overwrite, "put", lambda *_: None)
        code, report = checked(capsys, stand_in, "losses", "head_ablation", "backup_heads")
    assert code == 1 and failing(report) == {"head_ablation", "backup_heads"}


WRONG = {  # a fault in the fact itself, for every kind: what must be red is this kind and nothing else
    "files": lambda fact: fact.update(bytes=fact["bytes"] + 1),
    "tensors": lambda fact: fact["crc32c"].update({"wpe.weight": "00000000"}),
    "token_ids": lambda fact: fact["ids"].reverse(),
    "activations": lambda fact: fact["values"][4]["values"][2].__setitem__(1, 3.0),
    "next_token": lambda fact: fact["top"].reverse(),
    "logit_differences": lambda fact: fact.update(value=-fact["value"]),
    "losses": lambda fact: fact.update(value=fact["value"] + 2e-5),
    "log_probabilities": lambda fact: fact["values"].reverse(),
    "greedy": lambda fact: fact["continuation_ids"].reverse(),
    "head_ablation": lambda fact: fact.update(head=0),
    "backup_heads": lambda fact: fact.update(head=1),
    "patching": lambda fact: fact["interpolated"][1].update(alpha=0.51),
    "circuits": lambda fact: fact.update(first=5),
    "pair_maps": lambda fact: fact["maps"][1]["values"][2].reverse(),
    "head_scores": lambda fact: fact["scores"]["induction"][1].reverse(),
    "probability_differences": lambda fact: fact["years"]["war"].pop(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_fail(kind, stand_in, tmp_path, capsys):
    if kind == "tensors":
        with_crc32c()
    facts = copy.deepcopy(load_facts(FACTS))
    WRONG[kind](facts[kind][0])
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    code, report = checked(capsys, stand_in, kind, facts=tmp_path / "facts.json")
    assert code == 1 and not report["holds"] and failing(report) == {kind}
    words = {
        "activations": "mlp_out_1",
        "tensors": "wpe.weight",
        "files": "config.json",
        "patching": "with alpha",
        "pair_maps": "attribution of v",
    }
    assert words.get(kind, "") in first_failing(report)


# What cannot be checked, and the command line


def test_without_the_checksum_package(stand_in, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    assert verify.main(["--model", str(stand_in), "--facts", str(FACTS)]) == 3
    out = capsys.readouterr().out
    assert out.count("pip install google-crc32c") == 1
    assert out.endswith("all 59 facts hold; 1 skipped, so not all is proven\n")
    assert verify.main(["--model", str(stand_in), "--facts", str(FACTS), "--only", "tensors"]) == 1
    assert capsys.readouterr().out.endswith("nothing was checked; 1 skipped, so not all is proven\n")


def test_the_checksum_is_crc32c():
    with_crc32c()
    import google_crc32c

    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720's own check value


def test_a_folder_without_vocabulary(spoilt, capsys):
    (spoilt / "vocab.json").unlink()
    (spoilt / "merges.txt").unlink()
    code, report = checked(capsys, spoilt, "files", "token_ids", "losses", "greedy", "patching")
    assert code == 1 and failing(report) == {"files"}  # the vocabulary belongs to it; all that runs on ids holds
    assert {check["kind"] for check in report["checks"] if check["verdict"] == "skipped"} == {"token_ids", "greedy"}
    assert any("merges.txt is not in" in check["message"] for check in report["checks"])
    assert checked(capsys, spoilt, "losses", "patching")[0] == 0


def test_a_model_that_cannot_be_loaded_is_one_sentence(spoilt, capsys):
    (spoilt / "model.safetensors").write_bytes(b"\0" * 100)
    for name in ("/no/such/folder", str(spoilt)):
        assert verify.main(["--model", name, "--facts", str(FACTS)]) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
        assert name in captured.err


def test_facts_of_another_model_are_refused(stand_in, capsys):
    assert verify.main(["--model", str(stand_in)]) == 1
    assert "is not the model that the facts are about (it has n_layer 3, not 12, " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--only", "everything"], "unknown kind 'everything'; choose from files, tensors, token_ids"),
        (["--facts", "/no/such/file"], "/no/such/file cannot be read as JSON"),
        (["--facts", __file__], "cannot be read as JSON"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as exit:
        verify.main(arguments)
    assert exit.value.code == 2 and sentence in capsys.readouterr().err


def test_a_malformed_facts_file_names_the_fact(tmp_path, capsys):
    facts = load_facts(FACTS)
    del facts["losses"][0]["tolerance"]
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(SystemExit):
        verify.main(["--facts", str(tmp_path / "facts.json")])
    assert "number 0 of losses has no tolerance" in capsys.readouterr().err


def test_ctrl_c_exits_with_130(stand_in, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", interrupted)
    assert verify.main(["--model", str(stand_in), "--facts", str(FACTS)]) == 130


# The facts of the real GPT-2 small


def test_the_real_facts_agree_with_one_another():
    facts = load_facts()
    assert list(facts["tensors"][0]["crc32c"]) == list(expected_shapes(Config(**facts["sizes"])))  # all 148
    group = [fact["value"] for fact in facts["logit_differences"] if fact.get("group") == "indirect objects"]
    assert len(group) == 8 and abs(np.mean(group) - facts["logit_differences"][-1]["value"]) < 0.0005
    assert sum(len(fact["sites"]) for fact in facts["patching"]) == 3  # matrices
    for fact in facts["patching"]:
        first = next(i for i, (a, b) in enumerate(zip(fact["clean_ids"], fact["corrupted_ids"])) if a != b)
        for site, matrix in fact["sites"].items():
            matrix = np.array(matrix)
            assert matrix.shape == (12, len(fact["clean_ids"]))
            assert np.allclose(matrix[:, :first], fact["corrupted_value"], atol=1e-6)  # before the first difference
            if site == "resid_post":
                assert abs(matrix[-1, -1] - fact["clean_value"]) < 1e-6


def test_the_real_vocabularys_facts_hold(stand_in):
    """The stand-in has GPT-2's own vocabulary, so these need no weights."""
    facts = load_facts()
    subject = verify.load_subject(str(stand_in), facts | {"sizes": {}})
    results = list(verify.verify(subject, facts, ["files", "token_ids"]))
    held = [check.fact.split(",")[0] for check in results if check.kind == "files" and check.verdict == "holds"]
    assert held == ["vocab.json", "merges.txt"]
    assert {check.verdict for check in results if check.kind == "token_ids"} == {"holds"}


def test_the_real_checkpoint(monkeypatch, capsys):
    """Every fact of the real GPT-2 small, wherever its weights are in the cache."""

    def offline(*_):
        raise hub.HubError("not in the cache")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "fetch", offline)
        try:
            hub.snapshot("gpt2")
        except hub.HubError:
            pytest.skip(
                "the official GPT-2 small is not in the cache: python -m patching.verify downloads and checks it"
            )
    code = verify.main(["--model", "gpt2"])
    assert code == 0, capsys.readouterr().out


def test_the_published_facts_over_pairs_have_the_models_shapes():
    """On a narrow model with 12 layers and heads all are wrong, and none is of another shape or form."""
    from models import random_weights

    from minigpt2 import GPT2
    from minigpt2.facts import published
    from minigpt2.facts.checks import Subject
    from minigpt2.tokenizer import Tokenizer
    from patching.verify import sets

    facts, paths = published(), genuine_vocabulary()
    config = Config(n_layer=12, n_head=12, n_embd=24, n_ctx=220, n_vocab=50257, d_mlp=24)
    model = GPT2(config, random_weights(config, np.float32), Tokenizer(*paths))
    subject = Subject(model, paths[0].parent, None)
    subject.missing_vocabulary = lambda: ""
    ioi, demo = facts["pair_maps"]
    assert [len(ioi["pairs"]), len(ioi["maps"]), len(demo["pairs"])] == [8, 26, 1]
    ioi = ioi | {"pairs": ioi["pairs"][:1], "clean": ioi["clean"][:1], "corrupted": ioi["corrupted"][:1]}
    (years,) = facts["probability_differences"]
    assert sum(map(len, years["years"].values())) == 1000
    years = years | {"years": {noun: some[:1] for noun, some in list(years["years"].items())[:2]}}
    checks = [
        *sets.check_pair_maps(subject, ioi, facts), *sets.check_pair_maps(subject, demo, facts),
        *sets.check_head_scores(subject, facts["head_scores"][0], facts), *sets.check_probability_differences(subject, years, facts),
    ]  # fmt: skip
    assert len(checks) == 2 + 26 + 3 + 2 + 1 + 3 + 1
    assert all(check.difference is not None and check.verdict == "FAILS" for check in checks)
    for pair in facts["pair_maps"][0]["pairs"]:
        assert (
            model.encode(pair["clean"]) == pair["clean_ids"]
            and model.encode(pair["corrupted"]) == pair["corrupted_ids"]
        )
