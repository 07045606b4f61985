"""The demo as a person uses it, in a process of its own: what it prints, what it writes, and how it refuses."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from models import random_weights
from vocabulary import genuine_vocabulary

import minigpt2.__main__ as command
from minigpt2 import GPT2, Config
from minigpt2.checkpoint.weights import save_folder
from minigpt2.lens import direct_logit_attribution
from patching import save, sweep
from patching.demo import __main__ as demo
from patching.demo import experiments, options

ROOT = Path(__file__).resolve().parent.parent
SIZES = Config(n_layer=3, n_head=2, n_embd=16, n_ctx=64, n_vocab=50257, d_mlp=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder "tiny" with seeded weights and GPT-2's own vocabulary."""
    return make_folder(tmp_path_factory.mktemp("models") / "tiny", SIZES)


def make_folder(path, config):
    paths = genuine_vocabulary()
    path.mkdir()
    save_folder(path, config, random_weights(config, np.float32))
    for source, name in zip(paths, ("vocab.json", "merges.txt")):
        shutil.copy(source, path / name)
    return path


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "COLORTERM")}
    return clean | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"} | more


def run(*args, cwd, **more):
    command = [sys.executable, "-W", "error", "-m", "patching.demo", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=cwd, env=environment(**more))


def test_the_whole_demo(folder, tmp_path):
    done = run("--model", folder, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert out.count("Position  Token index  Token") == 2
    tables = re.findall(r"^ +(\d+) +(\d+)  (\S+) +(\d\.\d+(?:e-\d+)?)$", out, re.M)
    assert len(tables) == 44 and [int(row[0]) for row in tables[:20] + tables[22:42]] == [*range(1, 21)] * 2

    model = GPT2.from_pretrained(folder)
    result = sweep(model, experiments.EXPERIMENTS["surname"].pair)
    for rows, text in zip((tables[:22], tables[22:]), result.tokens[:2]):
        logits = model.run(text).logits[-1].astype(float)
        order = np.argsort(-logits)
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert [int(row[1]) for row in rows[:20]] == order[:20].tolist()
        assert {int(row[1]) for row in rows[20:]} == set(result.tokens.answers)  # which are none of the likeliest here
        for rank, token, label, chance in rows:
            assert order[int(rank) - 1] == int(token) and label == model.tokenizer.visible(int(token))
            assert abs(float(chance) - p[int(token)]) < (1e-4 if int(rank) <= 20 else 0.06 * p[int(token)])

    assert f"clean {result.clean_value:.2f}, corrupted {result.corrupted_value:.2f}" in " ".join(out.split())
    rows = re.findall(r"^ +(\d)((?: +-?\d+\.\d\d){11})$", out, re.M)
    assert np.allclose(np.array([row[1].split() for row in rows], float), result.values, atol=0.006)
    assert (
        "1 ␣Jones → ␣Smith" in out
        and "What it means" in out
        and "At position 0, before the first changed token" in " ".join(out.split())
    )
    assert out.endswith("Written: figures/surname_resid_post_tiny.png\n")
    assert (tmp_path / "figures" / "surname_resid_post_tiny.png").read_bytes().startswith(b"\x89PNG")
    assert "\x1b" not in out and all(len(line) <= 80 for line in out.splitlines()[1:])
    headings = [line for line in out.splitlines() if line.startswith(("Next token", "The largest"))]
    assert len(headings) == 3 and all(line.endswith("(tiny)") for line in headings)


def test_quiet_prints_the_files_alone(folder, tmp_path):
    done = run("--model", folder, "--quiet", "--save", "--out", "x.svg", "--experiment", "first-name", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x.svg\nx.npz\nx.json\nx.csv\n", "")
    result = save.load(tmp_path / "x.npz")
    assert np.array_equal(
        result.values, sweep(GPT2.from_pretrained(folder), experiments.EXPERIMENTS["first-name"].pair).values
    )
    about = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert (
        about["command"].startswith("python -m patching.demo --model ")
        and "--experiment first-name" in about["command"]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.json", "x.npz", "x.svg"]


def test_texts_that_are_seldom_meant_get_a_line_each(folder, tmp_path):
    texts = ["--clean", "<|endoftext|>A man ", "--corrupted", "<|endoftext|>A day ", "--answers", " in", " on", "--bos"]
    done = run("--model", folder, "--quiet", "--out", "x.svg", *texts, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "x.svg\n")
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and all(line.startswith("WARNING: the ") for line in lines)
    assert "clean text ends in a space" in lines[0] and "corrupted text begins with <|endoftext|> twice" in lines[3]


@pytest.mark.parametrize(
    ("args", "files"),
    [
        (["--experiment", "all"], ["all_resid_post_tiny.png"]),
        (["--site", "overview"], ["surname_overview_tiny.png"]),
        (["--site", "heads", "--direction", "noising"], ["surname_heads_noising_tiny.png"]),
        (["--site", "pattern_entry", "--layers", "0,2", "--heads", "1"],
         ["surname_pattern_entry_layers0,2_heads1_tiny.png"]),
        (["--attribution", "--metric", "clean_log_probability"],
         ["surname_resid_post_clean_log_probability_attribution_tiny.png"]),
        (["--one-by-one", "--positions", "1,9-10", "--alpha", "0.5", "--bos"],
         ["surname_resid_post_alpha0.5_positions1,9,10_bos_tiny.png"]),
        (["--site", "mlp_out", "--positions", "all"], ["surname_mlp_out_positions-all_tiny.png"]),
        (["--clean", "a b", "--corrupted", "a c", "--answers", " d", " e"], ["custom-b-c-a1abd32_resid_post_tiny.png"]),
    ],
)  # fmt: skip
def test_every_kind_of_map(folder, tmp_path, monkeypatch, capsys, args, files):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--model", str(folder), *args])
    demo.main()
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == files
    assert out.count("What it means") == {"all": 4, "overview": 3}.get(args[1], 1)
    if "--attribution" in args:
        words = r"correlation -?[01]\.\d+, changes -?\d+\.\d\d of the exact ones .* at layer \d, position \d+: exact"
        assert re.search(words, " ".join(out.split()))


@pytest.mark.slow
def test_looking_inside_shows_both_runs(folder, tmp_path):
    done = run("--model", folder, "--lens", "--direct-attribution", "--out", "x.svg", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    names = [f"x_{view}_{run}.svg" for view in ("lens", "direct-attribution") for run in ("clean", "corrupted")]
    assert [line.removeprefix("Written: ") for line in done.stdout.splitlines()[-5:]] == ["x.svg", *names]
    for name in names:
        picture = (tmp_path / name).read_text(encoding="utf-8")
        assert f"{name.split('_')[-1].removesuffix('.svg')} text" in picture and "tiny" in picture

    model = GPT2.from_pretrained(folder)
    tokens = experiments.EXPERIMENTS["surname"].pair.tokens(model)
    runs = [model.run(text) for text in (tokens.clean, tokens.corrupted)]
    rows = re.findall(r"^(the embedding|layer \d) +(\S+) +([01]\.\d\d) +([+-]\d+\.\d\d)$", done.stdout, re.M)
    assert len(rows) == 2 * (SIZES.n_layer + 1)  # 80 columns: one table below the other
    for which, one in enumerate(runs):
        logits = one.logits[-1].astype(float)
        depth, token, p, gain = rows[SIZES.n_layer + which * (SIZES.n_layer + 1)]
        assert depth == "layer 2" and token == model.labels([int(logits.argmax())])[0]
        assert abs(float(p) - np.exp(logits.max()) / np.exp(logits).sum()) < 0.0051
        assert abs(float(gain) - (logits[tokens.answers[1]] - logits[tokens.answers[0]])) < 0.0051
    found = re.findall(r"^([a-z][ \w.]*?) +((?:[+-]\d+\.\d\d *){3})$", done.stdout, re.M)
    terms = {name: [float(value) for value in values.split()] for name, values in found}
    plus, minus = tokens.answers[::-1]
    both = [direct_logit_attribution(one, plus, minus) for one in runs]
    assert np.allclose(terms["everything"][:2], [a.total for a in both], atol=0.0051)
    for name in set(terms) - {"everything"}:
        assert np.allclose(terms[name][:2], [dict(a.terms)[name] for a in both], atol=0.0051), name
    assert len(terms) > 5 and "Of the difference of " in done.stdout


@pytest.mark.slow
def test_heads_that_are_left_out_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--model", "bundled", "--site", "pattern_entry"])
    demo.main()
    assert "(the 3 of 24 heads with the largest changes; the picture has 12)" in capsys.readouterr().out


def test_chosen_places_reach_the_sweep(folder, tmp_path):
    args = ["--positions", "1,9-10", "--layers", "2,0", "--alpha", "0.5", "--direction", "noising"]
    args += ["--metric", "normalised"]
    assert run("--model", folder, "--save", "--quiet", "--out", "x.png", *args, cwd=tmp_path).returncode == 0
    result = save.load(tmp_path / "x.npz")
    assert result.axes == {"layer": [2, 0], "position": [1, 9, 10]} and result.alpha == 0.5
    assert (result.direction, result.metric) == ("noising", "normalised")
    plain = sweep(
        GPT2.from_pretrained(folder), experiments.EXPERIMENTS["surname"].pair, layers=[2, 0], positions=[1, 9, 10],
        alpha=0.5, direction="noising", metric="normalised",
    )  # fmt: skip
    assert np.array_equal(result.values, plain.values)


def test_the_experiments_are_the_assignments(folder):
    model = GPT2.from_pretrained(folder)
    for name, differing in (("surname", [1]), ("first-name", [0]), ("last-mention", [1, 10]), ("indirect-object", [9])):
        tokens = experiments.EXPERIMENTS[name].pair.tokens(model)
        assert [i for i, (a, b) in enumerate(zip(tokens.clean, tokens.corrupted)) if a != b] == differing
        assert tokens.answers == ((5437, 4176) if name != "indirect-object" else (5335, 1757))
    assert len({experiments.EXPERIMENTS[name].pair.clean for name in list(experiments.EXPERIMENTS)[:3]}) == 1


def test_list_and_help_need_no_model(tmp_path):
    done = run("--list", cwd=tmp_path)
    assert done.returncode == 0 and all(f"{name}\n" in done.stdout for name in experiments.EXPERIMENTS)
    text = run("--help", cwd=tmp_path).stdout
    assert "examples:" in text and all(len(line) <= 80 for line in text.splitlines()) and not list(tmp_path.iterdir())


def test_the_examples_of_the_help_can_be_given(monkeypatch):
    lines = re.findall(r"^    python -m patching.demo (.*)$", re.sub(r"\\\n\s*", "", options.EXAMPLES), re.M)
    assert len(lines) == 7
    bundled = GPT2.from_pretrained("bundled")
    for line in lines:
        monkeypatch.setattr(sys, "argv", ["demo", *shlex.split(line)])
        assert options.plan_jobs(options.parse(), bundled)


CARELESS = [  # arguments, exit status, what the message must contain
    (["--answers", " Jones", " Jonesy"], 1, "' Jonesy' is 2 tokens"),
    (["--answers", " Jones", " Jones"], 1, "both answers are token 5437"),
    (["--corrupted", "Michelle Smith"], 1, "clean has 11 tokens, corrupted 2"),
    (["--corrupted", "Michelle Jones was a top-notch student. Michelle"], 1, "nothing to patch"),
    (["--clean", "", "--corrupted", ""], 2, "--clean: got an empty text"),
    (["--clean", "Michelle Stone"], 2, "--clean needs --corrupted too"),
    (["--clean", "a", "--corrupted", "caf\udce9"], 2, "--corrupted: byte 0xe9 of the text is not utf-8"),
    (["--answers", " ", ""], 2, "--answers: got an empty text"),
    (["--out", ""], 2, "--out: got an empty text"),
    (["--report", ""], 2, "--report: got an empty text"),
    (["--report", "x.txt"], 1, "a report's name ends in .html or .htm"),
    (["--report", "x.png", "--out", "x.png"], 1, "a report's name ends in .html or .htm"),
    (["--positions", "99"], 1, "position 99 is out of range"),
    (["--clean", "a " * 99, "--corrupted", "b " * 99], 1, "n_ctx = 64"),
    (["--layers", "3"], 1, "layer 3 is out of range"),
    (["--site", "pattern_entry", "--positions", "all"], 2, "--positions all is --site pattern"),
    (["--heads", "0"], 2, "resid_post has no heads"),
    (["--site", "overview", "--heads", "0"], 2, "overview has no heads"),
    (["--alpha", "nan"], 2, "--alpha: 'nan' is not a finite number"),
    (["--alpha", "x"], 2, "--alpha: 'x' is not a finite number"),
    (["--out", "x.jpg"], 1, "ends in .png, .pdf, .svg"),
    (["--out", "file/x.png"], 1, "cannot write file/x.png"),
    (["--out", "."], 1, "cannot write ."),
    (["--model", "no/such/folder/here"], 1, "no/such/folder/here"),
    (["--answers", " Jones"], 2, "--answers: expected 2 arguments"),
    (["--site", "nowhere"], 2, "--site: invalid choice: 'nowhere'"),
    (["--experiment", "nothing"], 2, "--experiment: invalid choice"),
    (["--positions", "1-"], 2, "is not a list like"),
    (["--layers", "5-2"], 2, "is not a list like"),
    (["--experiment", "all", "--clean", "x"], 2, "leave out texts"),
    (["--attribution", "--site", "overview"], 2, "choose one experiment and one site"),
    (["--site", "heads", "--positions", "1"], 2, "leave out --positions"),
    (["--experiment", "all", "--lens"], 2, "look at the two runs of one experiment"),
    (["--experiment", "all", "--direct-attribution"], 2, "look at the two runs of one experiment"),
    (["--lens", "--out", "x.gif"], 1, "ends in .png, .pdf, .svg"),
]


@pytest.mark.parametrize(("args", "status", "message"), CARELESS)
def test_careless_use_gets_one_sentence(folder, tmp_path, monkeypatch, capsys, args, status, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["demo", "--model", str(folder), *args])
    (tmp_path / "file").write_text("")
    try:
        got = demo.terminal.guarded(demo.main)
    except SystemExit as stop:  # argparse
        got = stop.code
    out, err = capsys.readouterr()
    assert got == status and message in err and "Traceback" not in err
    assert out == ""  # it is said before anything else, and not after the tables
    assert err.startswith("error: ") if status == 1 else "error: " in err
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg", ".npz")]


def test_two_texts_without_answers_are_given_their_likeliest_next_tokens(tmp_path, monkeypatch, capsys):
    """Not the answers of an experiment that these texts have nothing to do with."""
    texts = ["--clean", "The capital of France is", "--corrupted", "The capital of Italy is"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--model", "bundled", *texts])
    demo.main()
    out = " ".join(capsys.readouterr().out.split())
    assert "France is', answer ' Paris'" in out and "Italy is', answer ' Rome'" in out
    assert "Without --answers, these are the likeliest next token" in out and "logit(␣Rome) - logit(␣Paris)" in out
    monkeypatch.setattr(sys, "argv", ["demo", "--model", "bundled", *texts, "--answers", " Paris", " Rome"])
    demo.main()
    assert "Without --answers" not in capsys.readouterr().out
    monkeypatch.setattr(
        sys, "argv", ["demo", "--model", "bundled", *texts[:2], "--corrupted", "The capital of Italy is big"]
    )
    assert demo.terminal.guarded(demo.main) == 1
    assert "clean has 5 tokens" in capsys.readouterr().err
    texts[1::2] = "The dog is", "The cat is"
    monkeypatch.setattr(sys, "argv", ["demo", "--model", "bundled", *texts])
    assert demo.terminal.guarded(demo.main) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: the likeliest next token is ") and err.count("\n") == 1 and "--answers" in err


def test_one_text_of_an_experiment_exchanged_keeps_its_answers(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo", "--corrupted", "Michelle Stone was a top-notch student. Michelle"])
    (job,) = options.plan_jobs(options.parse(), None)
    assert job.pair.answers == (" Jones", " Smith") and job.pair.clean == experiments.CLEAN


@pytest.mark.slow
def test_each_question_has_files_of_its_own(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for question in (
        ["--clean", "a b", "--corrupted", "a c", "--answers", " d", " e"],
        ["--clean", "a b", "--corrupted", "a c", "--answers", " d", " f"],
        ["--clean", "x b", "--corrupted", "x c", "--answers", " d", " e"],
        ["--clean", "a /", "--corrupted", "a '", "--answers", " d", " e"],
        ["--layers", "0,1"],
    ):
        monkeypatch.setattr(sys, "argv", ["demo", "--model", str(folder), "--quiet", "--save", *question])
        demo.main()
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert len(names) == 5 * 4 and all(re.fullmatch(r"[\w.,-]+", name) for name in names)


def test_long_lists_that_begin_alike_have_names_of_their_own(monkeypatch):
    result, names = SimpleNamespace(model="m"), set()
    for last in "789":
        monkeypatch.setattr(sys, "argv", ["demo", "--positions", f"0-30,3{last}"])
        names.add(str(options.picture_path(options.parse(), None, result)))
    assert len(names) == 3 and all(len(name) < 100 for name in names)


@pytest.mark.skipif(os.name != "posix", reason="file descriptors are POSIX's")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("command", ["patching.demo --list", "patching.demo --model '{}'", "minigpt2 hi --top 3 --model '{}'",
                                     "minigpt2 hi --generate 3 --model '{}'"])  # fmt: skip
@pytest.mark.slow
def test_a_closed_stdout_or_stderr_is_no_error(folder, tmp_path, command, closed):
    command = f"'{sys.executable}' -m {command.format(folder)} {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr) == (0, "")


def test_ids_beyond_the_vocabulary_are_shown_by_their_numbers(tmp_path, monkeypatch, capsys):
    """Embeddings are often padded: to 50,304, say. Here such an id is the likeliest."""
    padded, weights = replace(SIZES, n_vocab=50304), random_weights(replace(SIZES, n_vocab=50304), np.float32)
    wte = weights.wte.copy()
    folder = make_folder(tmp_path / "padded", padded)
    tokens = GPT2.from_pretrained(folder).encode(experiments.CLEAN)
    final = GPT2.from_pretrained(folder).run(tokens).resid_post[-1, -1]
    wte[50300] = 10 * (final - final.mean()) * weights.ln_f.weight
    save_folder(folder, padded, weights._replace(wte=wte))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--model", str(folder)])
    demo.main()
    assert re.search(r"^ +1 +50300  <50300> ", capsys.readouterr().out, re.M)
    texts = ["--clean", experiments.CLEAN, "--corrupted", experiments.CLEAN.replace("Jones", "Smith")]
    monkeypatch.setattr(sys, "argv", ["demo", "--model", str(folder), *texts])
    assert demo.terminal.guarded(demo.main) == 1 and "--answers" in capsys.readouterr().err
    command.main([experiments.CLEAN, "--model", str(folder), "--generate", "1", "--top", "2"])
    out = capsys.readouterr().out
    assert out.startswith(f"{experiments.CLEAN}<50300>\n") and re.search(r"^ +1 +50300  <50300> ", out, re.M)


def test_errors_leave_the_process_with_their_status(folder, tmp_path):
    done = run("--model", folder, "--answers", " Jones", " Jonesy", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert run("--model", folder, "--answers", " Jones", cwd=tmp_path).returncode == 2


def test_an_unwritable_path_is_noticed_before_the_model_is_loaded(tmp_path):
    started = time.monotonic()
    done = run("--model", "/nonexistent-model", "--out", "/dev/null/x.png", cwd=tmp_path)
    assert done.returncode == 1 and "cannot write /dev/null/x.png" in done.stderr and "nonexistent" not in done.stderr
    assert time.monotonic() - started < 30


def offline(tmp_path):
    """No cache and a Hub that refuses at once."""
    return {
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }


def test_an_explicit_model_never_falls_back(tmp_path):
    done = run("--model", "gpt2", cwd=tmp_path, **offline(tmp_path))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "bundled model" not in done.stderr
    assert not (tmp_path / "figures" / "surname_resid_post_bundled.png").exists()


@pytest.mark.skipif(not (ROOT / "minigpt2" / "bundled" / "model.safetensors").is_file(), reason="no bundled model yet")
def test_without_a_model_the_bundled_one_steps_in_loudly(tmp_path):
    done = run(cwd=tmp_path, **offline(tmp_path))
    assert done.returncode == 0 and done.stderr.startswith("WARNING") and done.stderr.count("\n") == 1
    assert done.stdout.count("(the bundled model)") >= 3 and "figures/surname_resid_post_bundled.png" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_an_interrupted_demo_keeps_the_old_figure(tmp_path):
    slow = make_folder(tmp_path / "slow", replace(SIZES, n_layer=24, n_embd=128, n_head=16, d_mlp=512))
    figure = tmp_path / "figures" / "surname_pattern_entry_slow.png"
    figure.parent.mkdir()
    figure.write_text("old")
    command = [sys.executable, "-m", "patching.demo", "--model", slow]
    command += ["--site", "pattern_entry", "--one-by-one", "--save", "--lens"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes)
    for line in process.stdout:
        if "20  " in line:  # the tables are out, the sweep begins
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "\ninterrupted\n"), out
    assert figure.read_text() == "old" and [path.name for path in figure.parent.iterdir()] == [figure.name]


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
def test_a_reader_that_leaves_early_is_no_error(folder, tmp_path):
    command = f"'{sys.executable}' -m patching.demo --model '{folder}' | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.stdout.startswith("Model: GPT2(") and done.stdout.count("\n") == 1 and done.stderr == ""


def test_a_terminal_without_utf_8_shows_escapes(folder, tmp_path):
    done = run("--model", folder, cwd=tmp_path, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "1 \\u2423Jones" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
@pytest.mark.slow
def test_in_a_terminal_there_is_colour_and_progress_unless_refused(folder, tmp_path):
    import pty

    for refuse, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        controller, terminal = pty.openpty()
        settings = {"TERM": "xterm-256color", "COLUMNS": "100"} | refuse
        command = [sys.executable, "-m", "patching.demo", "--model", folder]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(**settings), stdout=terminal, stderr=terminal)
        os.close(terminal)
        out = b""
        try:
            while chunk := os.read(controller, 65536):
                out += chunk
        except OSError:  # Linux's end of a pseudo-terminal
            pass
        os.close(controller)
        assert process.wait() == 0 and (b"\x1b[" in out) is coloured and b"What it means" in out


# Sources, windows, ablations


def test_a_map_of_ablations_says_so_everywhere(folder, tmp_path):
    done = run("--model", folder, "--site", "heads", "--source", "zero", "--save", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "noising: zero written into the clean run" in said and "restores" not in said
    assert "Ablation shows what this text needs" in said
    about = json.loads((tmp_path / "figures" / "surname_heads_noising_zero_tiny.json").read_text())
    assert (about["source"], about["direction"]) == ("zero", "noising")


def test_ablated_parts_get_their_tables_and_the_map_is_the_ablated_models(folder, tmp_path):
    from minigpt2 import GPT2, Overwrite
    from patching import sweep

    done = run("--model", folder, "--ablate", "0.1,mlp 1", "--save", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all of these" in done.stdout and "Ablated" in done.stdout
    assert "of a model with 2 overwrites" in " ".join(done.stdout.split())
    saved = save.load(tmp_path / "figures" / "surname_resid_post_ablate0.1-mlp-1_tiny.npz")
    zeroed = [Overwrite(0, "z", 0.0, heads=[1]), Overwrite(1, "mlp_out", 0.0)]
    exact = sweep(GPT2.from_pretrained(folder), experiments.EXPERIMENTS["surname"].pair, overwrites=zeroed)
    assert np.array_equal(saved.values, exact.values) and saved.overwrites == 2


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--ablate", "head 3"], "'head 3' is not a part like 9.6"),
        (["--ablate", "0.1", "--experiment", "all"], "--ablate looks into one map"),
        (["--window", "0"], "'0' is not a number of layers"),
        (["--window", "2", "--site", "pattern_entry"], "--window patches layers at once"),
        (["--source", "mean"], "invalid choice: 'mean'"),
        (["--ablate", "99.1"], "layer 99 is out of range"),
    ],
)
def test_ablations_that_cannot_be_are_refused(folder, tmp_path, args, sentence):
    done = run("--model", folder, *args, cwd=tmp_path)
    assert (
        done.returncode in (1, 2) and sentence in " ".join(done.stderr.split()) and not (tmp_path / "figures").exists()
    )
