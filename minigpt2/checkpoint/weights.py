"""A checkpoint's files become the arrays of model.py: config.json holds the sizes, model.safetensors (one file, or
shards with an index) the weights. Names and shapes are checked against one table, expected_shapes, before a weight
is read.

Read next: config.py (the sizes), tensors.py (how the bytes are read), hub.py (how a name becomes a folder), tokenizer.py (the vocabulary).
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..atomic import replacing
from ..errors import CheckpointError
from ..model import MLP, Affine, Attn, Block, Weights
from .config import read_config
from .memory import check_room
from .tensors import brief, open_tensors, read_pieces, read_tensor


@dataclass(frozen=True)
class Source:
    """Where a model came from. tokenizer() makes its Tokenizer, or raises ValueError saying what is missing."""

    name: str
    revision: str | None  # the Hub's commit; None for a folder
    folder: Path
    tokenizer: Callable


BUNDLED = Path(__file__).parent.parent / "bundled"  # a folder of the user's by that name is ./bundled


def load(name_or_folder, dtype=np.float32, revision=None):
    """Load the checkpoint of a Hub name, of a folder, or of "bundled": (Config, Weights, Source).

    The arrays are read-only, C-contiguous and of `dtype`, float32 or float64. Raises CheckpointError or hub.HubError.
    """
    if not isinstance(name_or_folder, (str, bytes, os.PathLike)):
        raise CheckpointError(f"a model has a name or a folder, and {brief(name_or_folder)} is neither")
    name = os.fsdecode(name_or_folder)
    path = BUNDLED if name == "bundled" else os.path.expanduser(name)
    if os.path.isdir(path) and not is_only_a_name(name):
        folder = Path(path)
        if revision is not None:
            raise CheckpointError(
                f"revision {brief(revision)} chooses among versions on the Hub, but {name} is a folder"
            )
        config, weights = load_folder(folder, dtype)
        return config, weights, Source(name, None, folder, partial(load_tokenizer, folder, config.n_vocab))
    if os.path.isfile(path):
        raise CheckpointError(f"{name} is a file: give the folder that holds config.json and model.safetensors")

    from . import cache, hub  # huggingface_hub takes 0.1 s to import, which a folder need not pay for

    check_dtype(dtype)
    folder, commit = hub.snapshot(name, revision)
    with cache.healing(folder):
        config, weights = load_folder(folder, dtype)
    return config, weights, Source(name, commit, folder, partial(fetch_tokenizer, name, folder, config.n_vocab))


def is_only_a_name(name):
    """Whether a folder is meant for something else: it is called "gpt2" or the like, and holds no model."""
    if os.path.isfile(os.path.join(name, "config.json")):
        return False
    from .hub import REPOSITORIES

    return name in REPOSITORIES


def load_folder(folder, dtype=np.float32):
    """Load a folder in the Hub's layout: (Config, Weights)."""
    check_dtype(dtype)
    config = read_config(folder)
    try:
        with open_tensors(folder) as stored:
            return config, nest(read_weights(config, stored, dtype, folder))
    except MemoryError as error:
        raise CheckpointError(f"the weights in {folder} do not fit into the memory there is ({brief(error)})") from None


def read_weights(config, stored, dtype, folder):
    """Read and check all weights, from Stored by name: arrays by checkpoint name."""
    if "wte.weight" not in stored and "lm_head.weight" in stored:  # safetensors' save_model keeps one of the two
        stored["wte.weight"] = stored.pop("lm_head.weight")
    check_shapes(config, {name: tensor.shape for name, tensor in stored.items()}, folder)
    sizes = {name: math.prod(shape) for name, shape in expected_shapes(config).items()}
    check_room(sum(sizes.values()) * np.dtype(dtype).itemsize, f"the model in {folder} as {np.dtype(dtype)}")
    # Largest first, so that the two threads end together: wte alone is a third of GPT-2 small.
    names = sorted(sizes, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(2) as pool:
        arrays = pool.map(lambda name: read_tensor(name, stored[name], dtype), names)
        flat = dict(zip(names, arrays, strict=True))
    if "lm_head.weight" in stored:
        check_tied(stored["lm_head.weight"], flat["wte.weight"])
    return flat


def check_dtype(dtype):
    try:
        known = dtype is not None and np.dtype(dtype) in (np.float32, np.float64)
    except (TypeError, ValueError):
        known = False
    if not known:
        raise CheckpointError(f"weights are loaded as float32 or float64, not as {dtype!r}")


def fetch_tokenizer(name, folder, n_vocab):
    """Make the Tokenizer of a snapshot of the Hub, its vocabulary downloaded first where it is not there yet."""
    from .cache import healing
    from .hub import vocabulary

    place = vocabulary(name, folder)
    with healing(place, (".json", ".txt")):
        return load_tokenizer(place, n_vocab)


def load_tokenizer(folder, n_vocab):
    """Make the Tokenizer of a folder that holds vocab.json and merges.txt."""
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} has no {' and no '.join(missing)}, so this model runs on token ids but reads no text: put the "
            "vocab.json and merges.txt that it was trained with beside its weights (from a tokenizer of transformers, "
            "tokenizer.backend_tokenizer.model.save(folder) writes them)"
        )
    from ..tokenizer import Tokenizer

    return Tokenizer(folder / "vocab.json", folder / "merges.txt", n_vocab=n_vocab)


# Names and shapes


def expected_shapes(config):
    """Name and shape of every weight of a GPT-2: what a checkpoint must hold."""
    c = config
    block = {
        "ln_1": (c.n_embd,),
        "attn.c_attn": (c.n_embd, 3 * c.n_embd),
        "attn.c_proj": (c.n_embd, c.n_embd),
        "ln_2": (c.n_embd,),
        "mlp.c_fc": (c.n_embd, c.d_mlp),
        "mlp.c_proj": (c.d_mlp, c.n_embd),
    }
    affine = {f"h.{layer}.{name}": shape for layer in range(c.n_layer) for name, shape in block.items()}
    shapes = {"wte.weight": (c.n_vocab, c.n_embd), "wpe.weight": (c.n_ctx, c.n_embd)}
    for name, shape in (affine | {"ln_f": (c.n_embd,)}).items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[-1:]
    return shapes


def check_shapes(config, shapes, folder):
    """Refuse a checkpoint that does not hold exactly expected_shapes, naming what differs."""
    expected = expected_shapes(config)
    # Also in real files: the causal mask, which older transformers saved among the weights, and wte a second time.
    known = {f"h.{layer}.attn.{mask}" for layer in range(config.n_layer) for mask in ("bias", "masked_bias")}
    known |= expected.keys() | {"lm_head.weight"}
    faults = [f"{name} is missing" for name in expected if name not in shapes]
    faults += [f"{brief(name)} is not part of it" for name in shapes if name not in known]
    faults += [
        f"{name} has shape {brief(list(shapes[name]))}, not {list(shape)}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"the weights in {folder} are not the GPT-2 of its config.json: {'; '.join(faults[:3])}{more}"
            + contradictions(config, shapes)
        )


def contradictions(config, shapes):
    """Say which sizes in config.json the weights themselves speak against, if any."""
    sizes = {"n_layer": len({name.split(".")[1] for name in shapes if re.match(r"h\.\d+\.", name)})}
    for size, name, axis in (
        ("n_vocab", "wte.weight", 0),
        ("n_embd", "wte.weight", 1),
        ("n_ctx", "wpe.weight", 0),
        ("d_mlp", "h.0.mlp.c_fc.weight", 1),
    ):
        if len(shapes.get(name, ())) == 2:
            sizes[size] = shapes[name][axis]
    said = {size: getattr(config, size) for size in sizes}
    return "".join(f" (config.json says {k} = {said[k]}, the weights {sizes[k]})" for k in sizes if said[k] != sizes[k])


def nest(flat):
    """Arrays by checkpoint name -> Weights."""

    def affine(name):
        return Affine(flat[f"{name}.weight"], flat[f"{name}.bias"])

    def block(h):
        attn = Attn(affine(f"{h}.attn.c_attn"), affine(f"{h}.attn.c_proj"))
        mlp = MLP(affine(f"{h}.mlp.c_fc"), affine(f"{h}.mlp.c_proj"))
        return Block(affine(f"{h}.ln_1"), attn, affine(f"{h}.ln_2"), mlp)

    n_layer = len({name.split(".")[1] for name in flat if name.startswith("h.")})
    h = tuple(block(f"h.{layer}") for layer in range(n_layer))
    return Weights(flat["wte.weight"], flat["wpe.weight"], h, affine("ln_f"))


def flatten(weights):
    """Weights -> arrays by checkpoint name, in the order of expected_shapes: the inverse of nest."""
    flat = {"wte.weight": weights.wte, "wpe.weight": weights.wpe}

    def visit(name, part):
        for field, value in part._asdict().items():
            if isinstance(value, tuple):
                visit(f"{name}.{field}", value)
            else:
                flat[f"{name}.{field}"] = value

    for layer, h in enumerate(weights.h):
        visit(f"h.{layer}", h)
    visit("ln_f", weights.ln_f)
    return flat


# Loading's last check, and saving


def check_tied(lm_head, wte):
    """Refuse an unembedding of its own: GPT-2 unembeds with wte."""
    flat = wte.reshape(-1)
    if lm_head.shape != wte.shape or not all(
        np.array_equal(piece, flat[start : start + piece.size])
        for start, piece in read_pieces("lm_head.weight", lm_head, wte.dtype)
    ):
        raise CheckpointError(
            f"lm_head.weight in {lm_head.file.path} differs from wte.weight: a GPT-2 whose unembedding is not its embedding "
            "is not computed here"
        )


def save_folder(folder, config, weights, dtype=np.float32):
    """Write config.json and model.safetensors as transformers' GPT2LMHeadModel.save_pretrained does.

    Each file appears whole or not at all.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    fields = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.n_ctx,
        "n_ctx": config.n_ctx,
        "vocab_size": config.n_vocab,
        "n_inner": config.d_mlp,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "tie_word_embeddings": True,
        "bos_token_id": config.n_vocab - 1,  # <|endoftext|>, the last of GPT-2's vocabulary
        "eos_token_id": config.n_vocab - 1,
    }
    flat = {f"transformer.{name}": np.ascontiguousarray(array, dtype) for name, array in flatten(weights).items()}
    with replacing(folder / "model.safetensors") as weights_file, replacing(folder / "config.json") as config_file:
        config_file.write_text(json.dumps(fields, indent=2) + "\n")
        save_file(flat, weights_file, metadata={"format": "pt"})
        shutil.copymode(config_file, weights_file)  # safetensors gives it to its owner alone
