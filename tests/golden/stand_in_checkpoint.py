"""A small checkpoint in the official file's form, made anew by each test from its seed, the same bytes everywhere.

It has GPT-2's own vocabulary, and no two sizes are the same. As in the official file there is no prefix, the causal
masks stand among the weights, and the data starts at an odd byte. What Hugging Face computes on it is in
stand_in_facts.json (make_stand_in.py). RandomState.random_sample is frozen by NumPy's compatibility policy.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from minigpt2.checkpoint.weights import expected_shapes
from minigpt2.model import Config

HERE = Path(__file__).resolve().parent
SIZES = {"n_layer": 3, "n_head": 2, "n_embd": 10, "n_ctx": 41, "n_vocab": 50257, "d_mlp": 28}
SCALES = {"wte": 1, "wpe": 0.3, "c_attn": 0.8, "c_fc": 0.9, "c_proj": 0.5, "bias": 0.3, "ln": 0.4}


def tensors(seed=2019):
    """The stand-in's arrays by checkpoint name: large enough to make the tanh and the erf GELU differ, and heads look."""
    draw, arrays = np.random.RandomState(seed).random_sample, {}
    for name, shape in expected_shapes(Config(**SIZES)).items():
        kind = "bias" if name.endswith("bias") else name.split(".")[-2]
        array = (2 * draw(shape) - 1) * SCALES["ln" if kind.startswith("ln") else kind]
        arrays[name] = (array + kind.startswith("ln")).astype("<f4")
    mask = np.tril(np.ones((1, 1, SIZES["n_ctx"], SIZES["n_ctx"]), "<f4"))
    return arrays | {f"h.{layer}.attn.bias": mask for layer in range(SIZES["n_layer"])}


def write_weights(folder, arrays):
    """model.safetensors by hand, so that its bytes depend on no library's version."""
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    head = json.dumps(header, separators=(",", ":"))
    head += " " * (len(head) % 2 == 0)  # the data starts at an odd byte
    data = b"".join(array.tobytes() for array in arrays.values())
    Path(folder, "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head.encode() + data)


def write_stand_in(folder, vocabulary):
    """Write the checkpoint into folder; vocabulary is (vocab path, merges path), or None for a folder without."""
    renamed = {"n_vocab": "vocab_size", "d_mlp": "n_inner"}
    fields = {renamed.get(name, name): size for name, size in SIZES.items()} | {
        "n_positions": SIZES["n_ctx"], "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "bos_token_id": 50256, "eos_token_id": 50256,
    }  # fmt: skip
    Path(folder, "config.json").write_bytes(json.dumps(fields, indent=2).encode())
    write_weights(folder, tensors())
    for path, name in zip(vocabulary or (), ("vocab.json", "merges.txt")):
        shutil.copyfile(path, Path(folder, name))
