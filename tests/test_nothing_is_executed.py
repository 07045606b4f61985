"""A checkpoint is data. Every pickle here would create a file if it were loaded, and none of them is even opened."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import SMALL, byte_vocabulary, config_fields, make_arrays, safetensors_bytes, stored, write_folder
from hub_server import Repo, serving

ROOT = Path(__file__).resolve().parent.parent
OTHER = "0123456789abcdef0123456789abcdef01234567"

WATCHED = """
import os, sys
opened = []
def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        opened.append(os.path.basename(os.fsdecode(args[0])))
    elif event in ("pickle.find_class", "exec", "os.system", "subprocess.Popen") and ready:
        opened.append(event)
ready = False
import minigpt2.checkpoint.hub, minigpt2.tokenizer, patching.save
from minigpt2 import GPT2
sys.addaudithook(watch)
ready = True
try:
    {call}
    print("loaded")
except (ValueError, OSError) as error:
    print(f"{{type(error).__name__}}: {{error}}")
print(*opened, sep="\\n")
"""


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def bomb(path):
    """A pickle that creates `path` when it is loaded; it does, or nothing here would be tested."""
    data = pickle.dumps(Bomb(path))
    pickle.loads(data).close()
    assert path.is_file()
    path.unlink()
    return data


def watched(call, **environment):
    """Run a line of Python: (how it ended, the names of the files that were opened)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(call=call)], capture_output=True, text=True, timeout=60,
        env=kept | {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    end, *opened = done.stdout.splitlines()
    assert opened, "nothing was opened: the watch is blind"
    return end, opened


PICKLES = (
    "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pkl", "tf_model.h5", "training_args.bin",
    "rng_state.pth",
)  # fmt: skip


@pytest.fixture
def trapped(tmp_path):
    """A good folder with a pickle under every name that people use, and Python files that look like a part of it."""
    folder = write_folder(
        tmp_path / "model", {name: stored(array) for name, array in make_arrays().items()}, config_fields()
    )
    for name in PICKLES:
        (folder / name).write_bytes(bomb(tmp_path / "exploded"))
    for name in ("modeling_gpt2.py", "configuration_gpt2.py", "minigpt2.py", "numpy.py", "__init__.py", "conftest.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')\n")
    fields = config_fields(
        auto_map={"AutoModel": "modeling_gpt2.GPT2"}, trust_remote_code=True, torch_dtype="__import__('os')"
    )
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_a_folder_with_traps_loads_from_its_safetensors(trapped, tmp_path):
    end, opened = watched(f"GPT2.from_pretrained({str(trapped)!r}).run([1, 2])")
    assert end == "loaded" and "model.safetensors" in opened and not {*PICKLES, "pickle.find_class"} & {*opened}
    assert not [name for name in opened if name.endswith(".py") and (trapped / name).exists()]
    assert not (tmp_path / "exploded").exists()


def test_a_folder_with_nothing_but_pickles_gets_its_sentence(trapped, tmp_path):
    (trapped / "model.safetensors").unlink()
    end, opened = watched(f"GPT2.from_pretrained({str(trapped)!r})")
    assert end.startswith("CheckpointError: ") and "a pickle, which can run code and is never loaded" in end
    assert "config.json" in opened and not {*PICKLES} & {*opened} and not (tmp_path / "exploded").exists()


def test_a_pickle_under_the_name_of_safetensors_is_no_checkpoint(trapped, tmp_path):
    (trapped / "model.safetensors").write_bytes(bomb(tmp_path / "exploded"))
    end, opened = watched(f"GPT2.from_pretrained({str(trapped)!r})")
    assert "is not a whole safetensors file" in end and not (tmp_path / "exploded").exists()
    assert "pickle.find_class" not in opened


def test_a_repository_with_nothing_but_pickles_is_not_downloaded(tmp_path):
    files = {name: bomb(tmp_path / "exploded") for name in PICKLES}
    files |= {"config.json": json.dumps(config_fields()).encode(), "vocab.json": byte_vocabulary()[0].encode()}
    with serving({"a/pickle": Repo(OTHER, files)}) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}
        end, opened = watched("GPT2.from_pretrained('a/pickle')", **settings)
        assert end.startswith("CheckpointError: ") and "a pickle, which can run code and is never loaded" in end
        assert not {*PICKLES} & {*hub.paths(), *hub.paths("HEAD"), *opened} and not (tmp_path / "exploded").exists()


def test_results_and_training_runs_hold_no_pickle(tmp_path):
    trap = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    (tmp_path / "run").mkdir()
    np.savez(tmp_path / "result.npz", about=trap, values=trap)
    np.savez(tmp_path / "run" / "training.npz", settings=trap, parameters=trap, m=trap, v=trap, steps=trap)
    (tmp_path / "plain.npz").write_bytes(bomb(tmp_path / "exploded"))
    for call in (
        f"patching.save.load({str(tmp_path / 'result.npz')!r})",
        f"patching.save.load({str(tmp_path / 'plain.npz')!r})",
        f"import minigpt2.bundled.train as t; t.Training.resume(t.Path({str(tmp_path / 'run')!r}))",
    ):
        end, opened = watched(call)
        assert (
            end.startswith("ValueError: ")
            and "pickle.find_class" not in opened
            and not (tmp_path / "exploded").exists()
        ), end


def test_the_file_of_safetensors_that_is_read_here_is_the_real_format(tmp_path):
    """So that the refusals above are about what is in the files, and not about every file of this maker."""
    (tmp_path / "config.json").write_text(json.dumps(config_fields(SMALL)))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes({n: stored(a) for n, a in make_arrays().items()}))
    assert watched(f"GPT2.from_pretrained({str(tmp_path)!r})")[0] == "loaded"
