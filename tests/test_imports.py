"""Nothing imports upwards, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "matplotlib", "huggingface_hub", "tiktoken", "requests", "httpx", "tqdm")


def imported_after(statements):
    """Which modules a fresh interpreter has loaded after these statements."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statements}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("package", ["minigpt2", "patching"])
def test_importing_a_package_imports_nothing_heavy(package):
    loaded = imported_after(f"import {package}")
    assert not loaded & set(HEAVY)
    assert "numpy" in loaded and package in loaded


def test_the_model_loads_without_patching():
    assert "patching" not in imported_after(
        "import minigpt2, minigpt2.backward, minigpt2.checkpoint.weights, minigpt2.tokenizer"
    )


def test_a_folder_runs_without_hub_and_vocabulary(tmp_path):
    """Loading a folder and running ids needs neither huggingface_hub nor tiktoken."""
    from models import ODD, random_weights

    from minigpt2.checkpoint.weights import save_folder

    save_folder(tmp_path, ODD, random_weights(ODD))
    loaded = imported_after(f"from minigpt2 import GPT2; GPT2.from_pretrained({str(tmp_path)!r}).run([1, 2]).logits")
    assert not loaded & set(HEAVY)


FLOORS = [  # from the bottom up: a room imports its own files and those below it, never those above
    ["minigpt2/model.py", "minigpt2/errors.py", "minigpt2/atomic.py", "minigpt2/terminal.py"],
    ["minigpt2/checkpoint", "minigpt2/*.py"],
    ["minigpt2/bundled", "minigpt2/facts", "minigpt2/pictures"],
    ["minigpt2/__main__.py"],
    ["patching/*.py"],
    ["patching/ablations", "patching/circuits", "patching/pairs", "patching/__init__.py"],
    ["patching/explain"],
    ["patching/draw"],
    ["patching/page"],
    ["patching/demo", "patching/verify", "patching/circuits/__main__.py", "patching/pairs/__main__.py"],
]
EXCEPTED = {  # why an import upwards is right
    ("patching/result.py", "patching/draw/figure.py"): "_repr_png_, when a notebook shows a result",
}


def files_of(entry):
    found = ROOT.glob(entry) if entry.endswith(".py") else (ROOT / entry).rglob("*.py")
    return {path.relative_to(ROOT).as_posix() for path in found}


def floors():
    """The floor of every file; where two entries name a file, the one that names it in full counts."""
    floor = {}
    for entry in sorted((e for floor in FLOORS for e in floor), key=lambda entry: ("*" not in entry, entry)):
        level = next(i for i, entries in enumerate(FLOORS) if entry in entries)
        floor |= dict.fromkeys(files_of(entry), level)
    return floor


def imports_of(file, files):
    """The files of the two packages that a file imports anywhere, also inside functions, as (file, name or None)."""
    package = (ROOT / file).relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            modules = ["/".join([*start, *(node.module or "").split(".")]).rstrip("/")]
            modules = [f"{modules[0]}/{alias.name}" for alias in node.names] + modules
        elif isinstance(node, ast.Import):
            modules = [alias.name.replace(".", "/") for alias in node.names]
        else:
            continue
        named = [name for module in modules for name in (f"{module}.py", f"{module}/__init__.py") if name in files]
        yield from named[: len(named) - 1 or 1]  # a package is imported for a file in it, or for itself


def test_every_file_has_its_floor():
    everything = {
        path.relative_to(ROOT).as_posix() for top in ("minigpt2", "patching") for path in (ROOT / top).rglob("*.py")
    }
    assert set(floors()) == everything


@pytest.mark.parametrize("file", sorted(floors()))
def test_nothing_imports_upwards(file):
    """Also inside functions, which loading cannot show."""
    floor = floors()
    upwards = {name for name in imports_of(file, floor) if floor[name] > floor[file] and (file, name) not in EXCEPTED}
    assert not upwards


def test_the_exceptions_are_needed():
    assert [pair for pair in EXCEPTED if pair[1] not in imports_of(pair[0], floors())] == []


def test_no_files_import_each_other_in_a_circle():
    files = floors()
    arrows = {file: {name for name in imports_of(file, files) if (file, name) not in EXCEPTED} for file in files}
    packages = {file for file in files if file.endswith("/__init__.py")}  # which name the files that make them up
    left = {file: below - packages - {file} for file, below in arrows.items() if file not in packages}
    while free := {file for file, below in left.items() if not below & left.keys()}:
        left = {file: below for file, below in left.items() if file not in free}
    assert not left


def test_the_forward_pass_imports_only_math_dataclasses_typing_and_numpy():
    assert roots_of_imports(ROOT / "minigpt2" / "model.py") == {"math", "dataclasses", "typing", "numpy"}


def roots_of_imports(path):
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add(node.module.split(".")[0])
    return roots
