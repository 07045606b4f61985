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


@pytest.mark.parametrize("path", sorted((ROOT / "minigpt2").rglob("*.py")), ids=lambda path: path.name)
def test_no_file_of_the_model_imports_patching(path):
    """Also inside functions, which loading cannot show. verify.py alone, a command, asks patching for its facts."""
    allowed = {"patching"} if path.name == "verify.py" else set()
    assert roots_of_imports(path) & {"patching"} == allowed


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
