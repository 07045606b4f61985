"""The tables of README.md are true: every name, shape and count of lines in them. Its code is test_docs.py's."""

import re
from pathlib import Path

import pytest
from models import random_model, random_tokens

from minigpt2.checkpoint.weights import expected_shapes
from patching import SITES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(heading):
    """The cells of each row of the table below a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_files_have_as_many_lines_as_it_says():
    said = {row[0].strip("`"): int(row[1]) for row in rows("Read it in one sitting")}
    assert len(said) >= 6
    assert said == {name: len((ROOT / name).read_text().splitlines()) for name in said}


def shape_of(written, config, n_seq):
    sizes = {**vars(config), "d_head": config.d_head, "n_seq": n_seq}
    parts = re.findall(r"(\d+ )?(\w+)", written)
    return tuple(int(times or 1) * sizes[name] for times, name in parts)


def test_every_name_of_the_table_has_its_shape():
    model = random_model()
    run = model.run(random_tokens(model.config, 5))
    checked = 0
    for checkpoint, here, _, shape in rows("Names"):
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


@pytest.mark.parametrize("site", SITES)
def test_every_site_stands_in_the_table(site):
    (shape,) = [row[1] for row in rows("The two sweeps") if f"`{site}`" in row[0]]
    names = {"layer": "n_layer", "head": "n_head", "position": "n_seq", "source": "n_seq"}
    assert shape == f"[{', '.join(names[axis] for axis in SITES[site].axes)}]"
