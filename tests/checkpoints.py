"""Small seeded checkpoints in every form that real ones have, written byte by byte and not by the code under test."""

import json
import math

import numpy as np

from minigpt2.checkpoint.weights import expected_shapes, nest
from minigpt2.model import Config

SMALL = Config(n_layer=3, n_head=2, n_embd=14, n_ctx=13, n_vocab=11, d_mlp=56)  # no two sizes alike


def make_arrays(config=SMALL, seed=0, dtype=np.float32):
    """Random weights by checkpoint name."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.2, shape).astype(dtype) for name, shape in expected_shapes(config).items()}


def make_weights(config=SMALL, seed=0, dtype=np.float32):
    return nest(make_arrays(config, seed, dtype))


def config_fields(config=SMALL, **changes):
    """What config.json of such a model says."""
    fields = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.n_ctx,
        "vocab_size": config.n_vocab,
        "n_inner": config.d_mlp,
        "layer_norm_epsilon": config.layer_norm_epsilon,
    }
    return fields | changes


def stored(array, dtype="F32"):
    """An array as safetensors keeps it: (dtype, shape, bytes)."""
    if dtype == "BF16":  # the upper half of a float32, cut off
        data = (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2")
    else:
        data = np.ascontiguousarray(array, {"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1", "I64": "<i8"}[dtype])
    return dtype, list(np.shape(array)), data.tobytes()


def safetensors_bytes(tensors, start_mod_8=None):
    """A safetensors file of {name: stored(...)}; its data starts at start_mod_8 (mod 8) where that is given."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    if start_mod_8 is not None:
        text += b" " * ((start_mod_8 - len(text)) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def masks(config=SMALL):
    """The buffers that older transformers saved beside the weights: the causal mask, and its minus infinity."""
    mask = np.tril(np.ones((1, 1, config.n_ctx, config.n_ctx)))
    return {f"h.{layer}.attn.bias": stored(mask, "U8") for layer in range(config.n_layer)} | {
        f"h.{layer}.attn.masked_bias": stored(np.array(-math.inf)) for layer in range(config.n_layer)
    }


def write_folder(folder, tensors, fields=None, shards=1, start_mod_8=None):
    """Write a folder in the Hub's layout from {name: stored(...)}; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_fields() if fields is None else fields))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, start_mod_8))
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[shard::shards]}
        (folder / file).write_bytes(safetensors_bytes(part, start_mod_8))
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def byte_vocabulary():
    """vocab.json and merges.txt of a vocabulary of the 256 bytes and <|endoftext|>, as text: no merges at all."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    vocab = {letter: token for token, letter in enumerate([*letters, "<|endoftext|>"])}
    return json.dumps(vocab), "#version: 0.2\n"
