"""Every script of examples/ runs as it stands, in a folder of its own, and prints what it is about."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def printed(name, folder, *arguments):
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [path.name for path in EXAMPLES])
def test_an_example_runs_as_it_stands(name, tmp_path):
    (tmp_path / "figures").mkdir()
    assert printed(name, tmp_path).strip()


def test_the_surname_heads_are_needed_together(tmp_path):
    """What the worked case shows: no head alone, all eight together."""
    out = printed("surname_heads.py", tmp_path, "pairs.png")
    intact = float(re.search(r"(-[\d.]+) with every head", out)[1])
    alone = [float(value) for value in re.findall(r"without \d\.\d: ([-+][\d.]+)", out)]
    together = float(re.search(r"without all eight: ([-+][\d.]+)", out)[1])
    assert len(alone) == 8 and all(value < 0.6 * intact for value in alone) and abs(together) < 0.1 * abs(intact)
    assert (tmp_path / "pairs.png").read_bytes().startswith(b"\x89PNG")


def test_zero_has_two_conventions_and_a_mean_is_another_thing(tmp_path):
    lines = printed("zero_ablation.py", tmp_path).splitlines()
    zero, folded, mean = [line.split(":")[0] for line in lines[::2]]
    assert (zero, folded) == ("zero", "TransformerLens's zero") and re.fullmatch(r"the mean of \d+ other texts", mean)
    assert len(set(lines[1::2])) == 3


def test_it_is_the_direction_that_carries_the_surname(tmp_path):
    rows = [
        [float(n) for n in re.findall(r"-?\d\.\d\d", line)] for line in printed("own_source.py", tmp_path).splitlines()
    ]
    assert [len(row) for row in rows] == [6, 6, 6]
    assert rows[1][0] > 0.95 and max(map(abs, rows[2])) < 0.05
