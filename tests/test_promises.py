"""docs/promises.md promises nothing without a test, and the oldest versions are the same wherever they stand."""

import ast
import configparser
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def all_tests():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").glob("test_*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_promise_names_tests_that_there_are():
    rows = [line.strip("|").split("|") for line in PROMISES.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0].strip() != "promise"]
    assert len(rows) >= 16
    for promise, tests in rows:
        named = re.findall(r"`(?:tests/)?(\w+)(\.py)?`", tests)
        assert named, promise
        for name, is_file in named:
            assert (ROOT / "tests" / f"{name}.py").is_file() if is_file else name in all_tests(), name


def test_the_oldest_versions_are_those_that_the_installation_permits():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    permitted = setup["options"]["install_requires"].split()
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    tested = [line.replace("==", ">=") for line in lines if not line.startswith("#")]
    assert sorted(permitted) == sorted(tested)
