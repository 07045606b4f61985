"""python -m minigpt2: what it prints, where it falls back, and how it fails."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import random_weights
from vocabulary import tiny_vocabulary

import minigpt2.__main__ as command
from minigpt2 import GPT2, Config
from minigpt2.checkpoint.weights import save_folder
from minigpt2.fallback import load_or_bundled
from minigpt2.generate import generate
from minigpt2.terminal import width

ROOT = Path(__file__).resolve().parent.parent
TINY = Config(n_layer=2, n_head=2, n_embd=16, n_ctx=60, n_vocab=264, d_mlp=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that continues mostly with single bytes, so that characters are cut between tokens."""
    folder = tmp_path_factory.mktemp("tiny")
    weights = random_weights(TINY, np.float32)
    save_folder(folder, TINY, weights._replace(wpe=weights.wpe * 10))
    tiny_vocabulary(folder)
    return folder


@pytest.fixture
def call(folder, capsys):
    def call(*arguments, model=folder):
        try:
            status = command.guarded(lambda: command.main([*map(str, arguments), "--model", str(model)]))
        except SystemExit as stop:  # argparse
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_the_table_of_next_tokens(call, folder):
    status, out, err = call("the thing")
    model = GPT2.from_pretrained(folder)
    logits = model.run(model.encode("the thing")).logits[-1].astype(np.float64)
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    names, line, *rows = out.splitlines()
    assert (status, err, len(rows)) == (0, "", 20)
    assert names.split() == ["Position", "Token", "index", "Token", "Probability"]
    for i, (row, token) in enumerate(zip(rows, np.argsort(-p, kind="stable")), start=1):
        assert row.split() == [str(i), str(token), model.tokenizer.visible(token), f"{p[token]:.4f}"]
    assert len(set(map(width, [names, line, *rows]))) == 1  # the columns line up


def test_top_and_tokens(call):
    assert len(call("the", "--top", 3)[1].splitlines()) == 5
    status, out, _ = call("in the", "--tokens")
    assert [row.split() for row in out.splitlines()[2:]] == [["0", "260", "in"], ["1", "258", "␣the"]]
    assert len(call("in the", "--tokens", "--top", 3)[1].splitlines()) == 4 + 5
    assert len(call("x" * 99, "--tokens")[1].splitlines()) == 2 + 99  # more than n_ctx, and nothing is run


def test_a_continuation_is_the_decoded_text(call, folder):
    model = GPT2.from_pretrained(folder)
    tokens = model.encode("the thing")
    for options, choice in (
        ([], {}),
        (["--temperature", 1.5, "--seed", 3], dict(temperature=1.5, seed=3)),
        (["--seed", 4], dict(temperature=1.0, seed=4)),
        (["--top-k", 9, "--top-p", 0.9, "--seed", 5], dict(temperature=1.0, top_k=9, top_p=0.9, seed=5)),
    ):
        status, out, err = call("the thing", "--generate", 40, "--past-end", *options)
        new = list(generate(model, tokens, 40, **choice))
        assert (status, err) == (0, "") and out == "the thing" + model.decode(new) + "\n"
        assert "\ufffd" in out or not choice, "the random bytes held no broken character: nothing was tested"


def test_a_character_of_several_tokens_is_printed_whole(call, monkeypatch):
    import minigpt2.generate

    written = []
    monkeypatch.setattr(command, "show", written.append)
    text = "aé漢😀"  # 1, 2, 3 and 4 bytes; the tiny vocabulary has a token for each byte
    chosen = lambda model, *_, stop: iter(model.encode(text) + model.encode("😀")[:2])  # noqa: E731
    monkeypatch.setattr(minigpt2.generate, "generate", chosen)
    call("the", "--generate", 12)
    assert written == ["the", "a", "", "é", "", "", "漢", "", "", "", "😀", "", "", "\ufffd\n"]


def test_pictures_are_written(call, tmp_path):
    lens, attribution, pattern = (tmp_path / f"{name}.png" for name in ("lens", "attribution", "pattern"))
    arguments = ["--lens", lens, "--attribution", " the", " a", attribution, "--pattern", 1, 0, pattern]
    status, out, err = call("the thing", *arguments)
    assert (status, err) == (0, "")
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in (lens, attribution, pattern))
    assert out.splitlines()[0] == str(lens) and "logit(␣the) - logit(␣a) = " in out and str(pattern) in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([""], "the text is empty"),
        (["x" * 61], "61 tokens do not fit"),
        (["x" * 40, "--generate", "21"], "40 tokens and 21 new ones do not fit"),
        (["x", "--generate", "-1"], "at least 0, got -1"),
        (["x", "--generate", "5", "--temperature", "0", "--top-k", "3"], "temperature 0 draws nothing"),
        (["x", "--top", "0"], "--top must be from 1 to the 264 tokens"),
        (["x", "--lens", "/dev/null/a.png"], "cannot write /dev/null/a.png"),
        (["x", "--lens", "a.gif"], "ends in .png"),
        (["x", "--pattern", "2", "0", "a.png"], "no head 2.0"),
        (["x", "--attribution", " the", " then", "a.png"], "' then' is"),
    ],
)
def test_an_error_is_one_sentence(call, tmp_path, monkeypatch, arguments, message, expected=1):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*arguments)
    assert status == expected and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["x", "--generate", "many"], "invalid int value"),
        (["x", "--top-k", "3"], "--top-k is about how a text is continued"),
        (["x", "--pattern", "one", "0", "a.png"], "'one' is no layer's"),
        (["x", "--lens", ""], "--lens: got an empty text"),
        (["x", "--pattern", "1", "0", ""], "--pattern: got an empty text"),
        (["x", "--nonsense"], "unrecognized arguments: --nonsense"),
        ([], "the following arguments are required: text"),
        (["-Word"], "a text that begins with a dash is given as --option=-text, or after --"),
        (["caf\udce9"], "byte 0xe9 of the text is not utf-8"),
        (["x", "--past-end"], "--past-end is about how a text is continued"),
    ],
)
def test_a_wrong_command_line_is_exit_status_2(call, tmp_path, monkeypatch, arguments, message):
    test_an_error_is_one_sentence(call, tmp_path, monkeypatch, arguments, message, expected=2)


def test_nothing_is_printed_or_written_before_all_is_known_to_work(call, tmp_path, monkeypatch):
    """The last of three pictures cannot be drawn: the first two are not written either."""
    monkeypatch.chdir(tmp_path)
    pictures = ["--lens", "a.png", "--attribution", " the", " a", "b.png", "--pattern", "9", "9", "c.png"]
    status, out, err = call("x", "--tokens", *pictures)
    assert (status, out) == (1, "") and "no head 9.9" in err and list(tmp_path.iterdir()) == []


def test_every_example_of_the_help_works_with_the_bundled_model(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^  python -m minigpt2 (.*)$", re.sub(r"\\\n\s*", "", command.EXAMPLES), re.M)
    for line in lines:
        status, out, err = call(*shlex.split(line), model="bundled")
        assert status == 0 and out and not err, (line, err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attribution.png", "lens.png", "pattern.png"]


def test_a_text_after_two_dashes_may_begin_with_one(folder, capsys):
    assert command.main(["--tokens", "--model", str(folder), "--", "-x"]) is None
    assert [row.split()[2] for row in capsys.readouterr().out.splitlines()[2:]] == ["-", "x"]


def test_a_text_that_ends_in_a_space_is_answered_with_a_warning(call):
    status, out, err = call("the ")
    assert status == 0 and len(out.splitlines()) == 22
    assert err.startswith("WARNING: the text ends in a space") and err.count("\n") == 1


def test_a_text_stops_at_its_end_unless_told_to_go_on(call, folder, monkeypatch):
    import minigpt2.generate

    model = GPT2.from_pretrained(folder)
    end = model.tokenizer.end_of_text
    chosen = iter([*model.encode("the"), end, *model.encode("a")] * 2)
    monkeypatch.setattr(minigpt2.generate, "choose", lambda *_: next(chosen))
    status, out, err = call("x", "--generate", 3)
    assert (status, out) == (0, "xthe\n")
    assert err == "WARNING: the text ended (<|endoftext|>) after 1 of 3 tokens: --past-end goes on\n"
    chosen = iter([*model.encode("the"), end, *model.encode("a")])
    assert call("x", "--generate", 3, "--past-end")[1:] == ("xthe<|endoftext|>a\n", "")


def test_a_model_that_is_not_there_or_reads_no_text(call, folder, tmp_path):
    status, out, err = call("x", model=tmp_path)
    assert (status, out) == (1, "") and "has no config.json" in err
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    status, out, err = call("x", model=tmp_path)
    assert (status, out) == (1, "") and "vocab.json" in err and err.count("\n") == 1


# Which model is used when none was asked for


@pytest.fixture
def loads(monkeypatch):
    """Every name that is asked for; `refuse` holds those that cannot be had, `untold` those without a vocabulary."""
    asked, refuse, untold = [], {}, {}

    def from_pretrained(name="gpt2"):
        asked.append(name)
        if name in refuse:
            raise refuse[name]

        def vocabulary():
            if name in untold:
                raise untold[name]
            return "vocabulary"

        return GPT2(TINY, random_weights(TINY), vocabulary, name=name)

    monkeypatch.setattr(GPT2, "from_pretrained", from_pretrained)
    return asked, refuse, untold


def test_gpt2_is_used_where_it_is(loads, capsys):
    assert load_or_bundled().name == "gpt2" and capsys.readouterr().err == "" and loads[0] == ["gpt2"]


@pytest.mark.parametrize("where", [1, 2])
def test_the_bundled_model_stands_in_and_says_so(loads, capsys, where):
    loads[where]["gpt2"] = OSError("no network:\n  nobody answers")
    assert load_or_bundled().name == "bundled"
    err = capsys.readouterr().err
    assert err.startswith("WARNING: ") and err.count("\n") == 1
    assert "bundled" in err and "no network: nobody answers" in err


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "some/folder"])
def test_a_model_that_was_asked_for_is_never_replaced(loads, name):
    loads[1][name] = OSError("no network")
    with pytest.raises(OSError, match="no network"):
        load_or_bundled(name)
    assert loads[0] == [name]


# As a process of its own


def start(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-m", "minigpt2", *arguments], env=environment, **pipes, **options)


def test_a_reader_that_leaves_early_is_no_error(folder):
    with start("the", "--generate", "57", "--model", str(folder)) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 141


def test_an_ascii_terminal_is_no_error(folder):
    process = start("a é", "--tokens", "--model", str(folder), env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == b"" and rb"\u2423" in out


def test_help_shows_every_option_and_examples_that_parse():
    out, err = start("--help").communicate(timeout=60)
    text = out.decode()
    for option in re.findall("--[a-z-]+", Path(command.__file__).read_text()):
        assert option in text
    examples = re.sub(r"\\\n\s*", "", command.EXAMPLES)
    lines = re.findall(r"^  python -m minigpt2 (.*)$", examples, re.M)
    assert len(lines) == 5 and all(line.strip() in re.sub(r"\\\n\s*", "", text) for line in lines)
    assert all(command.parser().parse_args(shlex.split(line)).text for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_control_c_ends_quietly_with_130(tmp_path):
    config = Config(n_layer=12, n_head=4, n_embd=256, n_ctx=1024, n_vocab=264, d_mlp=1024)  # seconds of work
    save_folder(tmp_path, config, random_weights(config, np.float32))
    tiny_vocabulary(tmp_path)
    process = start("the", "--generate", "1000", "--model", str(tmp_path))
    assert process.stdout.read(3) == b"the"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == b"interrupted"
