"""What a stranger wrote (file names, labels, files that are none, links, signals) can neither command a terminal nor hang
a command nor cost a file its permissions."""

import os
import signal
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from models import random_model, random_weights
from vocabulary import tiny_vocabulary

from minigpt2 import Config
from minigpt2.atomic import check_writable, replacing
from minigpt2.checkpoint.tensors import open_file
from minigpt2.checkpoint.weights import save_folder
from minigpt2.pictures.style import drawable, write
from minigpt2.terminal import brief, guarded, known_as, printable, warn
from patching import PromptPair, save, sweep

ROOT = Path(__file__).resolve().parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="pipes, links, permissions and signals are POSIX's")
HOSTILE = "a\x1b]0;owned\x07\x9b31m\u202egnp.exe\u2028b\r\x00\udce9\u2066"


# Text


def test_nothing_that_a_terminal_obeys_is_left():
    shown = printable(HOSTILE)
    assert shown.isprintable() and r"\x1b" in shown and r"\u202e" in shown and r"\udce9" in shown and r"\x9b" in shown
    assert printable("Ünïcödé 漢字 👩‍👩‍👧 ␣") == "Ünïcödé 漢字 👩‍👩‍👧 ␣"  # the joiners of an emoji stay
    assert printable("a\nb\t", keep="\n") == r"a" "\n" r"b\t"


def test_every_way_to_the_screen_goes_through_it(capsys):
    def main():
        warn(HOSTILE)
        raise ValueError(f"one line\n{HOSTILE}")

    assert guarded(main) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 3 and err.replace("\n", "").isprintable()
    assert brief(HOSTILE).isprintable() and brief(ValueError(HOSTILE)).isprintable()
    assert known_as(f"/tmp/{HOSTILE}".replace("\x00", "")).isprintable()


def test_a_picture_of_any_label_is_xml(tmp_path):
    from matplotlib.figure import Figure

    fig = Figure()
    fig.text(0.1, 0.5, drawable(HOSTILE + "\nb"))
    write(fig, tmp_path / "x.svg")
    ElementTree.parse(tmp_path / "x.svg")
    assert "\u202e" not in drawable(HOSTILE) and drawable("a\nb") == r"a\nb"


# Files that are none


@posix
@pytest.mark.parametrize("module, option", [("patching.draw", None), ("patching.verify", "--facts")])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path, module, option):
    os.mkfifo(tmp_path / "pipe.npz")
    command = [sys.executable, "-m", module, *([option] if option else []), str(tmp_path / "pipe.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and "not a regular file" in done.stderr and "Traceback" not in done.stderr


@posix
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            open_file(path)
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    with open_file(tmp_path / "link") as file:
        assert file.read() == b"abc"


# Files that are written


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "x.txt"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as temporary:
        assert not stat.S_IMODE(temporary.stat().st_mode) & ~mode  # nor is the new one open to more while it is written
        temporary.write_text("new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_link_stays_one_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("old", "none yet"):
        target, link = tmp_path / "there" / name, tmp_path / f"link to {name}"
        link.symlink_to(target)
        if name == "old":
            target.write_text("old")
        check_writable(link)
        with replacing(link) as temporary:
            temporary.write_text("new")
        assert link.is_symlink() and target.read_text() == "new"
    assert len(list((tmp_path / "there").iterdir())) == 2


@posix
def test_what_is_not_a_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for write_to in (check_writable, lambda path: replacing(path).__enter__()):
        with pytest.raises(OSError, match="cannot write .*not a regular file"):
            write_to(tmp_path / "pipe.png")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.png"]


@posix
@pytest.mark.parametrize(
    "name", ["x" * 252 + ".png", "é" * 130 + ".png", "x" * 256 + "/a.png", "new/" + "x" * 256 + "/a.png"]
)
def test_a_name_that_is_too_long_is_refused_beforehand(tmp_path, name):
    with pytest.raises(OSError, match="cannot write .*(255 are allowed|too long)"):
        check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    check_writable(tmp_path / ("x" * 251 + ".png"))


@posix
@pytest.mark.parametrize("option", ["--lens", "--direct-attribution", "--save"])
def test_names_made_of_the_pictures_are_checked_before_any_work(tmp_path, option):
    command = [
        sys.executable,
        "-m",
        "patching.demo",
        "--model",
        "bundled",
        "--out",
        "x" * 249 + ".png",
        option,
        "--quiet",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if option == "--save":
        command[command.index("--out") + 1] = "x" * 251 + ".png"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "name too long" in done.stderr and list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_read_name_the_reason(tmp_path, monkeypatch):
    """As root, too: the system's refusal is put in place of the open."""
    import minigpt2.checkpoint.tensors

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    model = random_model(dtype=np.float32)
    save_folder(tmp_path, model.config, model.weights)
    from minigpt2.checkpoint.weights import load
    from minigpt2.errors import CheckpointError

    for name in ("config.json", "model.safetensors"):
        real = open_file
        monkeypatch.setattr(
            minigpt2.checkpoint.tensors, "open_file", lambda path: refuse(path) if path.name == name else real(path)
        )
        with pytest.raises(CheckpointError, match=f"{name} cannot be read: Permission denied"):
            load(tmp_path)


# Signals


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = Config(n_layer=12, n_head=4, n_embd=32, n_ctx=64, n_vocab=264, d_mlp=64)
    save_folder(folder, config, random_weights(config, np.float32))
    tiny_vocabulary(folder)
    return folder


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_ends_a_command_leaves_no_temporary_file(folder, tmp_path, name):
    (tmp_path / "out.png").write_bytes(b"old")
    texts = ["--clean", "x" * 40 + " a", "--corrupted", "y" + "x" * 39 + " a", "--answers", " a", " the"]
    command = [sys.executable, "-m", "patching.demo", "--model", str(folder), "--quiet", *texts, "--site", "z"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--out", "out.png"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None and len(os.listdir(tmp_path)) == 1:
        time.sleep(0.0005)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name) and b"Traceback" not in err, (out, err)
    assert os.listdir(tmp_path) == ["out.png"] and (tmp_path / "out.png").read_bytes() == b"old"


@posix
def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup starts a command."""
    code = (
        "import os, signal, sys; from minigpt2.terminal import guarded; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "sys.exit(guarded(lambda: os.kill(os.getpid(), signal.SIGHUP)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@posix
@pytest.mark.parametrize(
    "module", ["minigpt2", "minigpt2.convert", "patching.demo", "patching.draw", "patching.verify"]
)
def test_an_interrupt_while_a_command_is_imported_is_no_traceback(tmp_path, module):
    """Ctrl-C comes while NumPy is imported, the longest part: a module of that name raises what Python would."""
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", module, "x"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode in (-signal.SIGINT, 130) and "Traceback" not in done.stderr


def test_a_fault_while_a_command_is_imported_keeps_its_traceback(tmp_path):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('broken')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "minigpt2", "x"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" in done.stderr and "RuntimeError: broken" in done.stderr


def test_handlers_are_taken_back():
    before = signal.getsignal(signal.SIGTERM)
    assert guarded(lambda: None) == 0 and guarded(lambda: 1 // 1 and None) == 0
    assert signal.getsignal(signal.SIGTERM) == before


# A saved result


def test_an_axis_name_in_a_result_is_shown_without_its_escapes(tmp_path, capsys):
    from patching.draw.__main__ import main

    model = random_model()
    path = save.save(sweep(model, PromptPair.from_tokens([1, 2, 3], [1, 4, 3], (5, 6))), tmp_path / "r")
    with np.load(path) as file:
        arrays = dict(file)
    about = str(arrays.pop("about")).replace('"layer":', '"la\\u001b[31myer":')
    np.savez(path, about=np.array(about), **arrays)
    sys_argv, sys.argv = sys.argv, ["plot", str(path)]
    try:
        assert guarded(main) == 1
    finally:
        sys.argv = sys_argv
    err = capsys.readouterr().err
    assert "\x1b" not in err and r"\x1b[31m" in err and err.count("\n") == 1
