"""A command that is interrupted, or that may not write, says so in one line and leaves every older file as it was.

Real processes, real signals, real full disks. What is interrupted during the sweep is test_demo.py's.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import random_weights
from vocabulary import tiny_vocabulary

from minigpt2 import Config
from minigpt2.checkpoint.weights import save_folder

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and resource limits are POSIX's"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = Config(n_layer=12, n_head=4, n_embd=32, n_ctx=64, n_vocab=264, d_mlp=64)
    save_folder(folder, config, random_weights(config, np.float32))
    tiny_vocabulary(folder)
    return folder


def demo(model, *arguments):
    """The command line of a demo with many cells, which takes matplotlib a moment to draw."""
    texts = ["--quiet", "--clean", "x" * 40 + " a", "--corrupted", "y" + "x" * 39 + " a", "--answers", " a", " the"]
    return [sys.executable, "-m", "patching.demo", "--model", str(model), *texts, *arguments]


def start(command, folder, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes, **options)


def old_files(folder, *names):
    """Files of an earlier run, to be kept byte for byte."""
    for name in names:
        (folder / name).write_bytes(f"the old {name}".encode())
    return {name: (folder / name).read_bytes() for name in names}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt_when(folder, process, begun, seconds=60):
    """Send SIGINT as soon as begun(names in the folder) is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if begun({entry.name for entry in os.scandir(folder)}):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.0005)
    return process.communicate(timeout=60)


@pytest.mark.parametrize("name", ["out.png", "out.svg", "out.pdf"])
def test_an_interrupt_while_the_picture_is_written(model, tmp_path, name):
    old = old_files(tmp_path, name)
    process = start(demo(model, "--site", "z", "--out", name), tmp_path)
    out, err = interrupt_when(tmp_path, process, lambda names: names - old.keys())  # the picture under a temporary name
    assert process.returncode == 130 and len(err.split("\n")) <= 3 and err.strip().startswith("interrupted"), (out, err)
    assert content(tmp_path) == old


def test_an_interrupt_between_the_files_leaves_each_old_or_new(model, tmp_path):
    """The picture is in place, the saved result is on its way: no file is half of either."""
    names = ("out.png", "out.npz", "out.json", "out.csv", "out.html")
    old = old_files(tmp_path, *names)
    command = demo(model, "--site", "pattern_entry", "--layers", "0", "--save", "--out", "out.png")
    process = start(command, tmp_path)
    inode = (tmp_path / "out.png").stat().st_ino
    out, err = interrupt_when(tmp_path, process, lambda _: (tmp_path / "out.png").stat().st_ino != inode)
    assert process.returncode in (130, 0) and "Traceback" not in err, (out, err)  # 0: it was faster
    now = content(tmp_path)
    assert set(now) == set(names) and now["out.html"] == old["out.html"] and now["out.png"].startswith(b"\x89PNG")
    for name in ("out.npz", "out.json", "out.csv"):
        assert now[name] == old[name] or len(now[name]) > 1000, name


def test_a_second_interrupt_is_no_traceback(model, tmp_path):
    command = [argument for argument in demo(model, "--site", "pattern_entry", "--one-by-one") if argument != "--quiet"]
    process = start(command, tmp_path)
    for line in process.stdout:
        if "Token index" in line:  # the tables are out, the sweep begins
            break
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and not list(tmp_path.iterdir()), (out, err)


# Disks

COMMANDS = {
    "demo": lambda model: demo(model, "--out", "out.png"),
    "demo --save": lambda model: demo(model, "--save", "--site", "z", "--out", "out.svg"),
    "demo --report": lambda model: demo(model, "--report", "out.html", "--out", "out.png"),
    "minigpt2 --lens": lambda model: [
        sys.executable,
        "-m",
        "minigpt2",
        "the",
        "--model",
        str(model),
        "--lens",
        "out.png",
    ],
}
OLD = ("out.png", "out.svg", "out.npz", "out.json", "out.csv", "out.html")


def assert_one_line(process, says):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.startswith("error: ") and err.count("\n") == 1 and says in err, (out, err)


@pytest.mark.parametrize("name", COMMANDS)
def test_files_that_may_not_grow(model, tmp_path, name):
    """A quota: the system ends each file after 4 kB."""
    import resource

    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    old = old_files(tmp_path, *OLD)
    assert_one_line(start(COMMANDS[name](model), tmp_path, preexec_fn=limit), "File too large")
    assert content(tmp_path) == old


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid(), reason="only root on Linux can mount a disk")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(model, small_disk, name):
    old = old_files(small_disk, *OLD)
    (small_disk / "full").write_bytes(b"x" * 32_000)
    process = start(COMMANDS[name](model), small_disk)
    assert_one_line(process, "No space left on device")
    now = content(small_disk)
    new = {file for file in OLD if now[file] != old[file]}  # numbers are saved first, each of them whole
    assert new <= {"out.svg", "out.npz", "out.json", "out.csv"} and set(now) == {*OLD, "full"}
    assert "out.npz" not in new or now["out.npz"].startswith(b"PK") and b"about.npy" in now["out.npz"][-200:]


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid(), reason="only root on Linux can mount a disk")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_read_only(model, small_disk, name):
    old = old_files(small_disk, *OLD)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert_one_line(start(COMMANDS[name](model), small_disk), "cannot write")
    assert content(small_disk) == old
