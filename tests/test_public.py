"""What users import: it is all there, it has type hints, and the installation says the same of it."""

import configparser
import importlib
import inspect
from pathlib import Path

import pytest

import minigpt2
import patching

ROOT = Path(__file__).resolve().parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
ENTRY_POINTS = {  # of modules that users import by name, beside what the packages hand out
    "minigpt2.backward": ["loss_and_gradients", "activation_gradients", "layer_gradients"],
    "minigpt2.generate": ["generate", "generate_plain", "choose"],
    "minigpt2.lens": ["logit_lens", "direct_logit_attribution", "LogitLens", "Attribution"],
    "patching.save": ["save", "load"],
    "patching.sources": ["other_run", "zero", "mean", "noise", "at", "steer", "of_run"],
}


def public():
    """Every public function, and every public method of a public class, by name."""
    things = {f"{p.__name__}.{name}": getattr(p, name) for p in (minigpt2, patching) for name in p.__all__}
    for module, names in ENTRY_POINTS.items():
        things |= {f"{module}.{name}": getattr(importlib.import_module(module), name) for name in names}
    for name, thing in things.items():
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                member = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
                if inspect.isfunction(member) and not key.startswith("_") and key not in NOT_PUBLIC:
                    yield f"{name}.{key}", member
        elif inspect.isfunction(thing):
            yield name, thing


NOT_PUBLIC = ("run_on", "writes", "d_head")  # what the packages themselves call, and a Config's own arithmetic


@pytest.mark.parametrize("name, function", list(public()))
def test_every_parameter_and_result_has_a_type(name, function):
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    assert [p.name for p in parameters if p.annotation is p.empty] == []
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("package", [minigpt2, patching])
def test_a_package_says_all_that_it_hands_out(package):
    """__all__ names what its __init__ imports, and everything in it exists."""
    imported = {
        name for name, thing in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    }  # fmt: skip
    assert imported <= set(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
    assert (Path(package.__file__).parent / "py.typed").exists()
    assert SETUP["options.package_data"][package.__name__] == "py.typed"


def test_the_version_is_that_of_setup_cfg():
    assert minigpt2.__version__ == SETUP["metadata"]["version"]


def test_the_commands_that_are_installed_are_there():
    scripts = SETUP["options.entry_points"]["console_scripts"].split("\n")[1:]
    targets = dict(line.split(" = ") for line in scripts)
    assert set(targets) == {"minigpt2", "minigpt2-demo"}
    for target in targets.values():
        module, function = target.split(":")
        assert inspect.isfunction(getattr(importlib.import_module(module), function))
