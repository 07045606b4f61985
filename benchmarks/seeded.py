"""A model folder in the full GPT-2 small shape with seeded random weights: speed does not depend on their values."""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from minigpt2 import Config
from minigpt2.checkpoint.weights import expected_shapes, nest, save_folder

GPT2_SMALL = Config(n_layer=12, n_head=12, n_embd=768, n_ctx=1024, n_vocab=50257, d_mlp=3072)
# "Michelle Jones was a top-notch student. Michelle", and with Smith
PROMPT = [48736, 5437, 373, 257, 1353, 12, 1662, 354, 3710, 13, 16738]
CORRUPTED = [48736, 4176, *PROMPT[2:]]


def weights(config, seed=0):
    rng = np.random.default_rng(seed)
    flat = {}
    for name, shape in expected_shapes(config).items():
        flat[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        if name.endswith("weight") and ".ln_" in f".{name}":
            flat[name] += 1
    return nest(flat)


def folder():
    """The folder, made on first use and kept under the system's temporary directory."""
    path = Path(tempfile.gettempdir()) / "minigpt2-benchmarks" / "gpt2-small-seeded"
    if not (path / "model.safetensors").exists():
        path.mkdir(parents=True, exist_ok=True)
        save_folder(path, GPT2_SMALL, weights(GPT2_SMALL))
    return path


def interleaved(repeats, warm_up=True, **functions):
    """Median seconds of each function, called in turn so that a noisy moment hits all of them."""
    for f in functions.values() if warm_up else ():
        f()
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, f in functions.items():
            start = time.perf_counter()
            f()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine():
    import platform

    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}"
