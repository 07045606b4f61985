"""Every option of every command with every odd value, alone and together: a right end, or one line with "error:".

The commands run as `python -m` runs them, but in this process, which saves the second that it takes to start; a sample
of them is run again as processes of their own.
"""

import contextlib
import io
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from fuzz import EFFORT, ROOT, cases, limited, little_memory  # noqa: F401 - a fixture
from matplotlib.figure import Figure
from models import random_model, random_weights
from vocabulary import tiny_vocabulary

from minigpt2.bundled import batches, bpe
from minigpt2.checkpoint.weights import save_folder
from minigpt2.facts import KINDS
from minigpt2.model import Config
from patching import PromptPair, save, sweep

pytestmark = pytest.mark.slow

SIZES = Config(n_layer=2, n_head=2, n_embd=16, n_ctx=40, n_vocab=264, d_mlp=32)

NUMBERS = [
    "0", "1", "-1", "00", "+1", "1.5", "1e3", "1e400", "1e30", "-1e400", "nan", "inf", "-inf", "", " ", "x", "1_0", "٣",
    "0x10", "1" * 400, "1e-400", "2147483648", "9223372036854775808", "--", "-", "1,2", "１",
]  # fmt: skip
LISTS = [
    "0", "0-1", "1-0", "0,0", "0,", ",", "-", "0-", "-1", "0-99999", "99999", "100000", "0--1", "0 - 1", "a", "", " ",
    "all", "٣", "0;1", "0,1,", "1" * 400, "1.0", "0\n1", "0,1", "ALL",
]  # fmt: skip
TEXTS = [
    "", " ", "the a", "a" * 99, "the", "\udcff", "\x1b[2J", "\n", "<|endoftext|>", "é漢🙂", "-x", "the a b c d e f g",
    "a\nb\nc", "%s", "{}",
]  # fmt: skip
FILES = [
    "", ".", "..", "/", "x", "x.jpg", "x.png", "x.PNG", "x.pdf", "x.svg", ".png", "no/x.png", "file/x.png",
    "/dev/null/x.png", "/proc/x.png", "/dev/full", "a" * 300 + ".png", "x.png/", "x.png/y.png", "\udcff.png",
    "\n.png", "é漢.png", "~/x.png", "-.png", "x.png.gz",
]  # fmt: skip
MODELS = [
    "", ".", "/", "no/such", "no such", "gpt2", "gpt2-xl", "file", "\udcff", "../x", "a/b/c", "https://x/y", "-", "~",
    "/dev/null", "{broken}", "{untold}", "bundled/..", "x" * 300,
]  # fmt: skip
NAMES = [
    "", " ", "x", "all", "surname", "resid_post", "z", "noising", "logit_difference", "\udcff", "resid_pre,z", "-",
    "0",
]  # fmt: skip
DATA = ["", ".", "no.npz", "file", "/dev/null", "{result}", "{broken}", "{picture}", "\udcff", "-", "/proc/self/mem"]

OPTIONS = {  # module: (the arguments that end well, {option: (how many values, the odd ones)})
    "patching.demo": (
        ["--model", "{model}", "--clean", "x a", "--corrupted", "y a", "--answers", " a", " the", "--quiet", "--out",
        "out.png"],
        {
            "--experiment": (1, NAMES), "--list": (0, [""]), "--clean": (1, TEXTS), "--corrupted": (1, TEXTS),
            "--answers": (2, TEXTS),
            "--bos": (0, [""]), "--model": (1, MODELS), "--site": (1, NAMES), "--direction": (1, NAMES),
            "--metric": (1, NAMES),
            "--alpha": (1, NUMBERS), "--positions": (1, LISTS), "--layers": (1, LISTS), "--heads": (1, LISTS),
            "--one-by-one": (0, [""]),
            "--source": (1, NAMES), "--window": (1, NUMBERS), "--ablate": (1, LISTS),
            "--attribution": (0, [""]), "--lens": (0, [""]), "--direct-attribution": (0, [""]), "--out": (1, FILES),
            "--save": (0, [""]), "--report": (1, FILES), "--quiet": (0, [""]),
        },
    ),
    "minigpt2": (
        ["the thing", "--model", "{model}"],
        {
            "--model": (1, MODELS), "--top": (1, NUMBERS), "--tokens": (0, [""]), "--generate": (1, NUMBERS),
            "--past-end": (0, [""]), "--temperature": (1, NUMBERS), "--top-k": (1, NUMBERS), "--top-p": (1, NUMBERS), "--seed": (1, NUMBERS),
            "--lens": (1, FILES),
            "--attribution": (3, TEXTS), "--pattern": (3, NUMBERS),
        },
    ),
    "minigpt2.convert": (
        ["{model}/model.safetensors", "out", "--n-head", "2"],
        {"--n-head": (1, NUMBERS), "--vocabulary": (1, [*MODELS, "{model}", "none"]), "": (1, [*DATA, "x.pt"])},
    ),
    "patching.verify": (
        ["--model", "{model}", "--facts", "{facts}"],
        {"--model": (1, MODELS), "--only": (1, [*NAMES, "files", "patching"]), "--facts": (1, [*DATA, "{facts}"]),
        "--json": (0, [""])},
    ),
    "patching.draw": (["{result}", "--out", "out.png"], {"--out": (1, FILES), "": (1, DATA)}),
    "minigpt2.bundled.train": (
        ["--out", "out", "--steps", "1", "--n-layer", "1", "--n-embd", "8", "--n-vocab", "300", "--batch", "128",
        "--n-head", "2"],
        {
            "--out": (1, ["", ".", "file", "file/x", "/dev/null/x", "/proc/x", "\udcff", "a" * 300, "{model}"]),
            "--resume": (0, [""]),
            **{f"--{name}": (1, NUMBERS) for name in (
                "steps", "batch", "seed", "learning-rate", "warm-up", "beta1", "beta2", "weight-decay", "clip", "spread",
                "n-layer", "n-head", "n-embd", "n-ctx", "n-vocab",
            )},
        },
    ),
    "minigpt2.bundled.evaluate": (["--n", "1"], {"--model": (1, [*MODELS, "{model}"]), "--n": (1, NUMBERS)}),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model, a broken one, one without vocabulary, a result, a picture, a facts file: "{name}" in arguments."""
    root = tmp_path_factory.mktemp("commands")
    found = {name: root / name for name in ("model", "broken", "untold")}
    for name, folder in found.items():
        save_folder(folder, SIZES, random_weights(SIZES, np.float32))
        if name != "untold":
            tiny_vocabulary(folder)
    (found["broken"] / "model.safetensors").write_bytes(b"broken")
    pair = PromptPair.from_tokens([1, 2, 3], [1, 5, 3], (6, 7))
    found["result"] = save.save(sweep(random_model(), pair, layers=[0]), root / "result")
    found["picture"] = root / "picture.png"
    found["picture"].write_bytes(b"\x89PNG\r\n\x1a\n")
    found["facts"] = root / "facts.json"
    found["facts"].write_text(json.dumps({"sizes": {}, "sources": {}}))
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    interrupt = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, interrupt)


merges = {}


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """Training makes its vocabulary of four texts over and over, and learns each size once: the rest is repetition."""
    documents, learn = [document(random.Random(0)) for document in batches.DOCUMENTS], bpe.learn
    monkeypatch.setattr(batches, "DOCUMENTS", [lambda rng, text=text: text for text in documents])
    monkeypatch.setattr(bpe, "learn", lambda texts, n: merges.get(n) or merges.setdefault(n, learn(texts, n)))


class Terminal(io.TextIOWrapper):
    """What a command writes, as bytes, like a pipe: text that no encoding holds must not end it."""

    def __init__(self):
        super().__init__(io.BytesIO(), "utf-8")

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode("utf-8")


def run(module, arguments):
    """Run `python -m module arguments...` here: (exit status, stdout, stderr)."""
    cases["commands"] += 1
    shutil.rmtree("out", ignore_errors=True)  # or every training but the first were refused for it
    argv, out, err = sys.argv, Terminal(), Terminal()
    sys.argv = [module, *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited(30), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)  # runpy's own
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = argv
    return status, out.text(), err.text()


def check(module, arguments, places):
    arguments = [re.sub(r"^{(\w+)}", lambda m: places.get(m[1], m[0]), argument) for argument in arguments]
    status, out, err = run(module, arguments)
    check_end(status, out, err, (module, arguments))
    return status


def check_end(status, out, err, case):
    said = [line for line in err.split("\n") if line.startswith("error: ") or ": error: " in line]
    if status in (0, None):
        assert out and not said, (case, err)
    elif case[0] == "patching.verify" and status == 1 and not err:
        assert "fail" in out or "nothing was checked" in out or '"holds": false' in out, (case, out)
    else:
        assert type(status) is int and len(said) == 1 and len(said[0]) < 1500, (case, status, err)
        lines_in_arguments = any("\n" in argument for argument in case[1])
        assert err.rstrip("\n").endswith(said[0]) or "first difference" in err or lines_in_arguments, (case, err)
    assert "Traceback" not in err and "Error:" not in err.replace("\n", " ").split("error: ")[0], (case, err)


@pytest.mark.parametrize("module", OPTIONS)
def test_the_good_arguments_end_well(module, places):
    good = OPTIONS[module][0]
    assert check(module, good, places) == (1 if module == "patching.verify" else 0)  # there, no fact is nothing proven


def test_every_option_is_here(places):
    """The tables above follow the commands' own --help."""

    for module, (_, options) in OPTIONS.items():
        help_text = run(module, ["--help"])[1]
        assert set(re.findall(r"^  (?:-h, )?(--[\w-]+)", help_text, re.M)) - {"--help"} == {*options} - {""}, module


def changed(good, option, n, values):
    """The good arguments with one option set otherwise (the last one given counts), one value odd at a time."""
    if not n:
        return [[*good, option]]
    if option == "":  # a positional argument
        return [[value, *good[1:]] for value in values] + [[*good, value] for value in values]
    fine = ["1", "0", "out.png"] if option == "--pattern" else [" the", " a", "out.png"]
    lines = [[*good, option, *fine[:at], value, *fine[at + 1 : n]] for at in range(n) for value in values]
    too_few = [*good, option], [*good, option, *["1"] * (n - 1)]
    return [*lines, *too_few, [*good, f"{option}={values[0]}"], [*good, option[:-1], *["1"] * n]]


@pytest.fixture
def no_drawing(monkeypatch):
    """Figures are made, and not drawn: that takes a quarter of a second each."""

    def savefig(figure, target, **choices):
        target.write(b"drawn") if hasattr(target, "write") else open(target, "wb").close()

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.mark.parametrize(
    ("module", "option"), [(module, option) for module in OPTIONS for option in OPTIONS[module][1]]
)
def test_every_option_with_every_odd_value(module, option, places, request):
    if option != "--out":
        request.getfixturevalue("no_drawing")
    good, options = OPTIONS[module]
    for arguments in changed(good, option, *options[option]):
        check(module, arguments, places)


@pytest.mark.parametrize("module", OPTIONS)
def test_what_is_no_option(module, places):
    good, options = OPTIONS[module]
    for arguments in (
        [*good, "--nonsense"],
        [*good, "-x"],
        [*good, "--model"],
        ["--"],
        ["-"],
        ["--help=1"],
        [*good, "--=", "1"],
    ):
        check(module, arguments, places)
    check(module, [], places) if module in ("minigpt2", "patching.draw") else None


@pytest.mark.parametrize("module", OPTIONS)
def test_several_odd_options_together(module, places, no_drawing):
    rng, (good, options) = random.Random(module), OPTIONS[module]
    for _ in range((40 if module.startswith("patching") else 25) * EFFORT):
        arguments = good
        for option in rng.sample(list(options), min(len(options), rng.choice((2, 3, 5)))):
            arguments = rng.choice(changed(arguments, option, *options[option]))
        check(module, arguments, places)


# Files that commands read


def test_damaged_results(places, tmp_path, no_drawing):
    good, rng = open(places["result"], "rb").read(), random.Random(6)
    for _ in range(100 * EFFORT):
        data = bytearray(good)
        if rng.random() < 0.3:
            data = data[: rng.randrange(1, len(data))]
        for _ in range(rng.choice((0, 1, 1, 4))):
            data[rng.randrange(-1, len(data) - 1)] = rng.randrange(256)
        (tmp_path / "damaged.npz").write_bytes(data)
        check("patching.draw", ["damaged.npz", "--out", "/dev/null/x.png" if rng.random() < 0.9 else "out.png"], places)
        cases["results"] += 1
        try:
            save.load(tmp_path / "damaged.npz")
        except (ValueError, OSError) as error:
            assert "damaged.npz" in str(error)


def test_results_with_odd_fields(places, tmp_path, no_drawing):
    """Every field, and every part of one, in turn replaced by something of another kind: drawn, or refused."""
    with np.load(places["result"]) as file:
        text, values = str(file["about"]), file["values"]
    path, rng = tmp_path / "odd.npz", random.Random(10)
    for at in spots(json.loads(text)):
        for odd in rng.sample((*KINDS_OF_JSON, -1, 2, 1e400, 10**30, "a" * 9999, ["a"] * 3, [0], [-1], [0, 0]), 6):
            np.savez(path, about=np.array(json.dumps(replaced(json.loads(text), at, odd))), values=values)
            check("patching.draw", ["odd.npz", "--out", "out.png"], places)
    about = np.array(text)
    for odd in (
        values[0], values.T, values[None], values * np.nan, values * np.inf, values.astype(int), values.astype(str),
        values.astype(complex),
        values.astype("f2"), values.astype(">f8"), values.astype("M8[s]"), np.float32(1), np.zeros((0, 3)),
        values > 0, np.zeros(10**6),
    ):  # fmt: skip
        for arrays in ({"values": odd}, {"values": values, "logits": odd}, {"values": odd, "about": odd}):
            np.savez(path, **{"about": about} | arrays)
            check("patching.draw", ["odd.npz", "--out", "out.png"], places)


KINDS_OF_JSON = (None, True, 0, 1e308, "", "x", [], [None], {}, {"a": 1}, [[]])


def spots(part, at=()):
    """The way to every part of a JSON value, of lists and of long objects only the first few."""
    yield at
    for key in list(part) if isinstance(part, dict) else range(min(2, len(part))) if isinstance(part, list) else ():
        yield from spots(part[key], (*at, key))


def replaced(whole, at, odd):
    """A JSON value with one part replaced."""
    if not at:
        return odd
    part = whole
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = odd
    return whole


def test_odd_facts(places, tmp_path):
    """Every value of a facts file in turn replaced by one of another kind."""
    text = (ROOT / "tests" / "golden" / "stand_in_facts.json").read_text(encoding="utf-8")
    text = re.sub(r"(?<![\w.-])[1-9]\d\d+(?![\d.])", "200", text)  # ids that the small model has
    good = {kind: facts[:1] if isinstance(facts, list) else facts for kind, facts in json.loads(text).items()}
    good["tensors"] = [fact | {"crc32c": dict(list(fact["crc32c"].items())[:1])} for fact in good["tensors"]]
    good["sizes"] = {"n_layer": SIZES.n_layer}
    path, rng = tmp_path / "facts.json", random.Random(7)
    for at in spots(good):
        for odd in KINDS_OF_JSON if len(at) < 2 else rng.sample(KINDS_OF_JSON, 2):
            path.write_text(json.dumps(replaced(json.loads(json.dumps(good)), at, odd)))
            kind = at[0] if at and at[0] in KINDS else "files"
            check("patching.verify", ["--model", places["model"], "--facts", "facts.json", "--only", kind], places)


def test_a_broken_training_run(places, tmp_path):
    folder = tmp_path / "run"
    assert check("minigpt2.bundled.train", [*OPTIONS["minigpt2.bundled.train"][0], "--out", "run"], places) == 0
    state, rng = folder / "training.npz", random.Random(8)
    good = state.read_bytes()
    for length in [0, 10, 100, len(good) // 2, len(good) - 30, *(rng.randrange(len(good)) for _ in range(10 * EFFORT))]:
        state.write_bytes(good[:length])
        assert check("minigpt2.bundled.train", ["--resume", "--out", "run"], places) != 0
    for arrays in (
        {},
        {"settings": "{}"},
        {"settings": '{"steps": "x"}'},
        {"settings": "[]"},
        {"settings": np.array([{}], object)},
    ):
        np.savez(state, **arrays)
        assert check("minigpt2.bundled.train", ["--resume", "--out", "run"], places) != 0


# A sample as processes of their own


def test_a_sample_in_processes_of_their_own(places, tmp_path):
    rng = random.Random(9)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    for module, (good, options) in OPTIONS.items():
        option = rng.choice([option for option in options if options[option][0] == 1])
        arguments = rng.choice(changed(good, option, *options[option])[: len(options[option][1])])
        arguments = [
            places.get(argument[1:-1], argument) if argument[:1] == "{" else argument for argument in arguments
        ]
        cases["processes"] += 1
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], env=environment, cwd=tmp_path, capture_output=True, timeout=60
        )
        check_end(
            done.returncode,
            *(stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr)),
            (module, arguments),
        )
