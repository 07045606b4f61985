"""The tables of README.md and docs/names.md are true: every file, name and shape in them. Their code is test_docs.py's."""

import re
from pathlib import Path

import pytest
from models import random_model, random_tokens

from minigpt2.checkpoint.weights import expected_shapes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = (ROOT / "docs" / "names.md").read_text(encoding="utf-8")


def rows(text):
    """The cells of each row of the first table of a text, without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_it_is_short():
    assert len(README.splitlines()) <= 130


READING = rows(README.partition("\n## Read it in one sitting\n")[2].partition("\n## ")[0])


@pytest.mark.parametrize("file, lines", [row[:2] for row in READING])
def test_the_files_have_about_as_many_lines_as_it_says(file, lines):
    about = int(lines.removeprefix("about "))
    assert abs(len((ROOT / file.strip("`")).read_text().splitlines()) - about) <= max(15, 0.15 * about)


def test_the_reading_list_has_every_file_that_a_sweep_needs():
    """What sweeps.py imports of the project, and they in turn, is named in README: nobody has to open an unnamed file."""
    said = {row[0].strip("`") for row in READING} | set(re.findall(r"`((?:minigpt2|patching)/\w+\.py)`", README))
    needed = {"sweeps", *re.findall(r"^from \.(\w+) import", (ROOT / "patching" / "sweeps.py").read_text(), re.M)}
    needed |= {
        name
        for file in needed
        for name in re.findall(r"^from \.(\w+) import", (ROOT / "patching" / f"{file}.py").read_text(), re.M)
    }
    assert len(needed) > 5
    assert {f"patching/{name}.py" for name in needed - {"result"}} <= said  # result.py only holds what came out


def shape_of(written, config, n_seq):
    sizes = {**vars(config), "d_head": config.d_head, "n_seq": n_seq}
    parts = re.findall(r"(\d+ )?(\w+)", written)
    return tuple(int(times or 1) * sizes[name] for times, name in parts)


def test_every_name_of_the_names_table_has_its_shape():
    model = random_model()
    run = model.run(random_tokens(model.config, 5))
    checked = 0
    for checkpoint, here, _, shape in rows(NAMES):
        expected = shape_of(shape, model.config, 5)
        first, *others = re.findall(r"`([^`]+)`", here)
        first = first.replace("[3]", "[2]")  # the model at hand has three layers
        names = [first] + [
            other.replace("[3]", "[2]") if "." in other else re.sub(r"\w+(?=\[2\]$)", other, first) for other in others
        ]
        for name in names:
            array = eval(name, {"weights": model.weights, "run": run})  # names of our own README
            assert array.shape == expected, f"{name} is {array.shape}, the table says {shape}"
            checked += 1
        if checkpoint:
            name = checkpoint.strip("`")
            assert expected_shapes(model.config)[name.replace("h.3.", "h.2.")] == expected
            assert "`weights." + re.sub(r"h\.(\d)", r"h[\1]", name).removesuffix(".weight") in here.replace(
                ".weight`", "`"
            )
    assert checked == 8 + 5 + 5
