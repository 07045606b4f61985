"""figures/ holds what its README lists, and each picture comes from the command that stands beside it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = [line.split(" | ") for line in (ROOT / "figures" / "README.md").read_text().splitlines() if ".png`" in line]


def commands():
    """{command: the pictures that it is said to make}, in the order of the README."""
    made = {}
    for pictures, command, _ in ROWS:
        if "`" in command:
            made[command.strip("`")] = []
        made[list(made)[-1]] += re.findall(r"`([^`]+\.png)`", pictures)
    return made


def test_the_folder_holds_the_listed_pictures_and_no_other():
    listed = [picture for pictures in commands().values() for picture in pictures]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "figures").glob("*.png"))
    for picture in listed:
        assert (ROOT / "figures" / picture).read_bytes().startswith(b"\x89PNG")


def test_make_figures_runs_the_listed_commands():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n\t\t", "")
    target = re.search(r"^figures:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
    assert [line.strip().replace("$(BIN)/", "") for line in target.splitlines()] == list(commands())


@pytest.mark.parametrize("command", commands())
def test_a_command_makes_its_pictures(command, tmp_path):
    (tmp_path / "figures").mkdir()
    arguments = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(commands()[command])
