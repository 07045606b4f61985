"""A model that does not fit into memory is refused, with both numbers, before anything is allocated."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import SMALL, config_fields, make_arrays, stored, write_folder

from minigpt2.checkpoint import memory, weights
from minigpt2.checkpoint.weights import expected_shapes, load
from minigpt2.errors import CheckpointError
from minigpt2.model import Config

MIB = 1 << 20
MEMINFO = "MemTotal:  32 kB\nMemAvailable:   {} kB\nSwapFree:  {} kB\n"


def system(root, available=1000, swap=0, **files):
    """A pretended /proc and /sys, in MiB; files by path with "/" written as "__"."""
    files = {"proc__meminfo": MEMINFO.format(available * 1024, swap * 1024)} | files
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))
    return sorted((room // MIB, limit.split(" (")[0]) for room, limit in memory.limits(root))


GROUP = "the limit of this container or control group"


def test_the_machine_and_its_swap(tmp_path):
    assert system(tmp_path, 700, 50)[0] == (750, "this machine")


def test_control_groups_of_version_2_and_all_above(tmp_path):
    """The page cache counts as used there and can be given up; "max" is no limit."""
    base = "sys__fs__cgroup__a"
    found = system(
        tmp_path, 900, 30, proc__self__cgroup="0::/a/b\n",
        **{
            f"{base}__memory.max": 500 * MIB, f"{base}__memory.current": 400 * MIB,
            f"{base}__memory.stat": f"anon 3\ninactive_file {60 * MIB}\nactive_file {40 * MIB}\n",
            f"{base}__memory.swap.max": 20 * MIB,
            f"{base}__b__memory.max": "max", f"{base}__b__memory.current": 100 * MIB,
        },
    )  # fmt: skip
    assert found[0] == (500 - 400 + 60 + 40 + 20, GROUP) and len(found) == 2


def test_control_groups_of_version_1(tmp_path):
    base = "sys__fs__cgroup__memory"
    found = system(
        tmp_path, 900, 0, proc__self__cgroup="5:cpu:/x\n4:memory:/docker/1\n",
        **{
            f"{base}__memory.limit_in_bytes": 2**63 - 4096, f"{base}__memory.usage_in_bytes": 70 * MIB,
            f"{base}__docker__1__memory.limit_in_bytes": 300 * MIB,
            f"{base}__docker__1__memory.usage_in_bytes": 120 * MIB,
            f"{base}__docker__1__memory.stat": f"total_inactive_file {5 * MIB}\n",
        },
    )  # fmt: skip
    assert found[0] == (185, GROUP)


def test_a_path_outside_of_the_container_is_passed_over(tmp_path):
    """Inside a container the group's path may be the host's, and only the mount's own root is there."""
    files = {"sys__fs__cgroup__memory.max": 200 * MIB, "sys__fs__cgroup__memory.current": 50 * MIB}
    assert system(tmp_path, 900, 0, proc__self__cgroup="0::/kubepods/pod1\n", **files)[0] == (150, GROUP)


def test_this_process_has_room():
    """The real limits of this machine, whatever they are."""
    assert min(memory.limits())[0] > 10 * MIB
    memory.check_room(MIB, "a small thing")


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, {name: stored(array) for name, array in make_arrays().items()})
    need = 8 * sum(math.prod(shape) for shape in expected_shapes(SMALL).values())
    monkeypatch.setattr(memory, "limits", lambda: iter([(need, "this machine")]))
    load(folder, "float64")
    monkeypatch.setattr(memory, "limits", lambda: iter([(2 * need, "this machine"), (need - 1, "a test")]))
    monkeypatch.setattr(weights, "read_tensor", lambda *_: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match=r"as float64 takes 0 MiB of memory, and a test leaves 0 MiB"):
        load(folder, "float64")


LIMITED = """
import resource, sys
from minigpt2 import GPT2
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    GPT2.from_pretrained(sys.argv[1])
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process is limited as Linux does it")
def test_a_few_kilobytes_cannot_ask_for_more_than_the_limit(tmp_path):
    """A sparse file of 5 GB takes 8 kB of the disk; its zeros are numbers like any others."""
    config = Config(n_layer=1, n_head=1, n_embd=1024, n_ctx=8, n_vocab=1_200_000, d_mlp=8)
    header, end = {}, 0
    for name, shape in expected_shapes(config).items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * math.prod(shape)]}
        end += 4 * math.prod(shape)
    text = json.dumps(header).encode()
    (tmp_path / "config.json").write_text(json.dumps(config_fields(config)))
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(tmp_path / "model.safetensors", 8 + len(text) + end)
    command = [sys.executable, "-c", LIMITED, tmp_path]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert f"as float32 takes {end / MIB:,.0f} MiB of memory, and the limit of this process (ulimit -v) leaves" in (
        done.stdout + done.stderr
    )
