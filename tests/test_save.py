"""A result comes back from its file as it was, and a file that is no result is refused in one sentence."""

import csv
import json
import os
import stat
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest
from test_story import MOVES, made, published

from patching import PromptPair, save, sweep
from patching.prompts import PairTokens


def same(a, b):
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True), field.name
        else:
            assert x == y and type(x) is type(y), field.name


@pytest.mark.parametrize("site", ["resid_post", "z", "pattern_entry"])
def test_round_trip_of_a_real_sweep(model, tmp_path, site):
    pair = PromptPair.from_tokens([1, 2, 3, 4], [1, 5, 3, 4], (6, 7))
    result = sweep(model, pair, site, keep_logits=site == "z", metric="clean_probability", alpha=0.5)
    path = save.save(result, tmp_path / "a.b", "python -m patching.demo")
    assert path == tmp_path / "a.b.npz"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.csv", "a.b.json", "a.b.npz"]
    same(save.load(path), result)


@pytest.mark.parametrize("name", ["x", "x.npz", "x.json", "x.csv"])
def test_the_suffix_may_be_given(tmp_path, name):
    assert save.save(made(MOVES), tmp_path / name) == tmp_path / "x.npz"


@pytest.mark.parametrize("name", ["x", "v1.5", "x.npz"])
def test_load_takes_the_path_that_save_was_given(tmp_path, name):
    (tmp_path / "x").mkdir()  # a folder of the same name is not taken for the file
    save.save(made(MOVES), tmp_path / name)
    same(save.load(tmp_path / name), made(MOVES))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"unit": "x" * 100_001}, "its unit has 100001 characters, and 100000 are allowed"),
        ({"model": "x" * 2_000_000}, "its model has 2000000 characters"),
        ({"answer_labels": ("x" * 100_001, "y")}, "its answer_labels has 100001 characters"),
        ({"values": np.zeros((1001, 5)), "axes": {"layer": list(range(1001)), "position": list(range(5))}},
         "its layer axis has 1001 entries, and 1000 are allowed"),
        ({"values": np.zeros((1000, 5001), np.float16), "axes": {"layer": list(range(1000)), "position": list(range(5001))}},
         "its map has 5001000 cells, and 5000000 are allowed"),
    ],
)  # fmt: skip
def test_what_is_larger_than_any_result_is_refused(tmp_path, monkeypatch, fields, said):
    """A file of a few kilobytes that would take minutes and gigabytes to draw."""
    monkeypatch.setattr(save, "spreadsheet", lambda _: "")
    with pytest.raises(ValueError, match=f"x.npz is not a whole result: {said}"):
        save.load(save.save(replace(made(MOVES), **fields), tmp_path / "x"))


def test_the_json_is_for_reading(tmp_path):
    save.save(published(0), tmp_path / "x", "the command")
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    about = json.loads(text)
    assert about["command"] == "the command" and about["versions"]["numpy"] == np.__version__
    assert about["clean_labels"][1] == "␣Jones" and about["model"] == "gpt2" and about["alpha"] == 1
    assert np.allclose(about["values"], published(0).values, atol=0)
    assert len(text.splitlines()) < 50


def test_the_spreadsheet_has_a_row_for_each_layer(tmp_path):
    save.save(published(0), tmp_path / "x")
    with open(tmp_path / "x.csv", encoding="utf-8-sig", newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head[:3] == ["layer", "0 Michelle", "1 ␣Jones → ␣Smith"] and len(set(head)) == 12
    assert np.array_equal(np.array(rows, float)[:, 1:].astype(np.float32), published(0).values)
    save.save(made(np.ones((2, 3, 5)), site="z", axes=("layer", "head", "position")), tmp_path / "z")
    assert (tmp_path / "z.csv").read_text(encoding="utf-8-sig").splitlines()[4].startswith("1,0,")
    save.save(made(np.ones(3), axes=("layer",)), tmp_path / "one")
    assert (tmp_path / "one.csv").read_text(encoding="utf-8-sig").splitlines()[3] == "2,-5.0"


def test_labels_of_any_kind_survive(tmp_path):
    labels = ('"', "a,b", "漢字", "\U0001f600", "=1+1")
    result = replace(made(MOVES), clean_labels=labels, corrupted_labels=labels)
    same(save.load(save.save(result, tmp_path / "x")), result)
    with open(tmp_path / "x.csv", encoding="utf-8-sig", newline="") as file:
        assert next(csv.reader(file))[4] == "3 \U0001f600"


def test_numpy_numbers_are_saved(tmp_path):
    result = replace(
        made(MOVES),
        clean_value=np.float32(-5),
        alpha=np.float64(1),
        axes={"layer": [np.int64(i) for i in range(6)], "position": list(range(5))},
    )
    assert save.load(save.save(result, tmp_path / "x")).axes["layer"] == [0, 1, 2, 3, 4, 5]


def rewrite(path, **changes):
    """Write the file again with some of its fields changed (None: left out); values and dtype as given."""
    with np.load(path) as file:
        about, values = json.loads(str(file["about"])), file["values"]
    values = changes.pop("values", values)
    about = {name: value for name, value in (about | changes).items() if value is not None or name == "revision"}
    np.savez(path, about=np.array(json.dumps(about)), values=values)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": None}, "site is missing"),
        ({"clean_value": "5"}, "clean_value is '5'"),
        ({"axes": {"layer": [0, 1]}}, "its axes are layer 2, its values"),
        ({"axes": {"layer": [0, 1, 2, 3, 4, 4], "position": [0, 1, 2, 3, 4]}}, "different indices"),
        ({"axes": {"layer": [0, 1, 2, 3, 4, 5], "position": [0, 1, 2, 3, 9]}}, "beyond its 5 tokens"),
        ({"values": np.zeros((6, 4))}, "its values"),
        ({"values": np.array(["a"])}, "not numbers"),
        ({"clean_labels": ["a"]}, "one length"),
        ({"clean_labels": [1, 2, 3, 4, 5]}, "not text"),
        ({"tokens": {"clean": [1]}}, "lists of ids"),
        ({"direction": "sideways"}, "direction"),
        ({"format": 99}, "format"),
        ({"site": "resid_nowhere"}, "resid_nowhere"),
    ],
)
def test_a_damaged_result_is_refused(tmp_path, changes, reason):
    path = save.save(made(MOVES), tmp_path / "x")
    rewrite(path, **changes)
    with pytest.raises(ValueError, match="x.npz is not a whole result") as error:
        save.load(path)
    assert reason in str(error.value)


def test_what_is_no_result_is_refused(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello"), ("zip", b"PK\x03\x04 no zip")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is not a result"):
            save.load(tmp_path / name)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("other.npz", "array.npy"):
        with pytest.raises(ValueError, match="is not a result"):
            save.load(tmp_path / name)
    cut = save.save(made(MOVES), tmp_path / "cut")
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is not a result"):
        save.load(cut)
    with pytest.raises(OSError, match="^cannot read .*nowhere.npz: No such file or directory; "):
        save.load(tmp_path / "nowhere.npz")


def test_the_siblings_of_a_result_are_no_pickles(tmp_path):
    """NumPy takes whatever is no zip for a pickle, and advises to load it all the same."""
    path = save.save(made(MOVES), tmp_path / "x")
    (tmp_path / "x.txt").write_text("a text")
    beside = f"(it is not an .npz file; {path} beside it is)"
    for name, says in (("x.json", beside), ("x.csv", beside), ("x.txt", "(it is not an .npz file)")):
        with pytest.raises(ValueError, match="is not a result") as error:
            save.load(tmp_path / name)
        assert says in str(error.value) and "pickle" not in str(error.value)


def test_a_small_file_that_would_unpack_to_gigabytes_is_refused_unread(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("about.npy", b"")
        with file.open("values.npy", "w", force_zip64=True) as values:
            for _ in range(1 + (save.UNPACKED >> 24)):
                values.write(bytes(1 << 24))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(
        ValueError, match="bomb.npz is not a result .* would unpack to 272 MiB, and 256 MiB are allowed"
    ):
        save.load(tmp_path / "bomb.npz")


class Trap:
    opened = False

    def __reduce__(self):
        return (setattr, (Trap, "opened", True))


def test_no_pickle_is_ever_opened(tmp_path):
    np.savez(tmp_path / "p.npz", about=np.array([Trap()], dtype=object), values=np.zeros(3))
    with pytest.raises(ValueError, match="is not a result"):
        save.load(tmp_path / "p.npz")
    assert not Trap.opened


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    path = save.save(made(MOVES), tmp_path / "x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_result_of_two_equal_texts_is_refused(tmp_path):
    result = made(MOVES)
    wrong = replace(result, tokens=PairTokens(result.tokens.clean, result.tokens.clean, result.tokens.answers))
    with pytest.raises(ValueError, match="its texts do not differ"):
        save.load(save.save(wrong, tmp_path / "x"))
