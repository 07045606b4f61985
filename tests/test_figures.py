"""figures/ holds what its README lists, and each picture comes from the command that stands beside it."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_story import published

from minigpt2.facts import load_facts

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    line.split(" | ") for line in (ROOT / "figures" / "README.md").read_text().splitlines() if line.startswith("| `")
]


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
@pytest.mark.slow
def test_a_command_makes_its_pictures(command, tmp_path):
    (tmp_path / "figures").mkdir()
    arguments = [sys.executable, *shlex.split(command)[1:]]
    if arguments[1].endswith(".py"):
        arguments[1] = ROOT / arguments[1]
    done = subprocess.run(arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(commands()[command])


def test_the_published_map_holds_the_published_numbers():
    """Its labels are the genuine vocabulary's, and its values those of the facts."""
    published_map = runpy.run_path(str(ROOT / "examples" / "published_map.py"))
    facts = load_facts()
    result, source = published_map["published"](facts)
    entry = facts["patching"][0]
    assert np.array_equal(result.values, np.array(entry["sites"]["resid_post"], np.float32))
    assert "tpln-practice2" in source and (result.clean_value, result.corrupted_value) == (
        entry["clean_value"], entry["corrupted_value"],
    )  # fmt: skip
    assert result.clean_labels == published(0).clean_labels and result.corrupted_labels == published(0).corrupted_labels
    assert result.tokens == published(0).tokens and result.answer_labels == published(0).answer_labels
