"""A checkpoint's files become the arrays of model.py: config.json holds the sizes, model.safetensors (one file, or
shards with an index) the weights. Names and shapes are checked (shapes.py) before a weight is read.

Read next: config.py (the sizes), tensors.py (how the bytes are read), hub.py (how a name becomes a folder), vocabulary.py (the vocabulary).
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..atomic import replacing
from ..errors import CheckpointError
from ..shapes import check_dtype, check_shapes, expected_shapes, flatten, nest
from ..terminal import brief
from .config import read_config
from .memory import check_room
from .tensors import open_tensors, read_pieces, read_tensor


@dataclass(frozen=True)
class Source:
    """Where a model came from. tokenizer() makes its Tokenizer, or raises ValueError saying what is missing."""

    name: str
    revision: str | None  # the Hub's commit; None for a folder
    folder: Path
    tokenizer: Callable


BUNDLED = Path(__file__).parent.parent / "bundled"  # a folder of the user's by that name is ./bundled


def load(name_or_folder, dtype=np.float32, revision=None, mapped=False):
    """Load the checkpoint of a Hub name, of a folder, or of "bundled": (Config, Weights, Source).

    The arrays are read-only, C-contiguous and of `dtype`, float32 or float64. With mapped they are the file itself, where it
    has them just so, and processes of one machine share them. Raises CheckpointError or hub.HubError.
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
        config, weights = load_folder(folder, dtype, mapped)
        return config, weights, Source(name, None, folder, partial(load_tokenizer, folder.absolute()))
    if os.path.isfile(path):
        raise CheckpointError(f"{name} is a file: give the folder that holds config.json and model.safetensors")

    from . import cache, hub  # huggingface_hub takes 0.1 s to import, which a folder need not pay for

    check_dtype(dtype)
    folder, commit = hub.snapshot(name, revision)
    with cache.healing(folder):
        config, weights = load_folder(folder, dtype, mapped)
    return config, weights, Source(name, commit, folder, partial(fetch_tokenizer, name, folder))


def is_only_a_name(name):
    """Whether a folder is meant for something else: it is called "gpt2" or the like, and holds no model."""
    if os.path.isfile(os.path.join(name, "config.json")):
        return False
    from .hub import REPOSITORIES

    return name in REPOSITORIES


def load_folder(folder, dtype=np.float32, mapped=False):
    """Load a folder in the Hub's layout: (Config, Weights)."""
    check_dtype(dtype)
    config = read_config(folder)
    try:
        with open_tensors(folder) as stored:
            return config, nest(read_weights(config, stored, dtype, folder, mapped))
    except MemoryError as error:
        raise CheckpointError(f"the weights in {folder} do not fit into the memory there is ({brief(error)})") from None


def read_weights(config, stored, dtype, folder, mapped):
    """Read and check all weights, from Stored by name: arrays by checkpoint name."""
    if "wte.weight" not in stored and "lm_head.weight" in stored:  # safetensors' save_model keeps one of the two
        stored["wte.weight"] = stored.pop("lm_head.weight")
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    check_shapes(config, shapes, f"the weights in {folder}", "config.json")
    sizes = {name: math.prod(shape) for name, shape in expected_shapes(config).items()}
    check_room(sum(sizes.values()) * np.dtype(dtype).itemsize, f"the model in {folder} as {np.dtype(dtype)}")
    # Largest first, so that the two threads end together: wte alone is a third of GPT-2 small.
    names = sorted(sizes, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(2) as pool:
        arrays = pool.map(lambda name: read_tensor(name, stored[name], dtype, mapped), names)
        flat = dict(zip(names, arrays, strict=True))
    if "lm_head.weight" in stored:
        check_tied(stored["lm_head.weight"], flat["wte.weight"])
    return flat


def fetch_tokenizer(name, folder):
    """Make the Tokenizer of a snapshot of the Hub, its vocabulary downloaded first where it is not there yet."""
    from .cache import healing
    from .hub import vocabulary

    place = vocabulary(name, folder)
    with healing(place, (".json", ".txt")):
        return load_tokenizer(place)


def load_tokenizer(folder):
    """Make the Tokenizer of a folder that holds tokenizer.json, or vocab.json and merges.txt."""
    from .vocabulary import has_vocabulary

    if not has_vocabulary(folder):
        missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        raise CheckpointError(
            f"{folder} has no {' and no '.join(missing)} (and no tokenizer.json), so this model runs on token ids but "
            "reads no text: put the files of the tokenizer that it was trained with beside its weights (in transformers, "
            "tokenizer.save_pretrained(folder) writes them)"
        )
    from ..tokenizer import Tokenizer

    return Tokenizer.from_folder(folder)


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


def save_folder(folder, config, weights, dtype=np.float32, end_of_text=None):
    """Write config.json and model.safetensors as transformers' GPT2LMHeadModel.save_pretrained does.

    end_of_text is the id of <|endoftext|>, the last one unless given: GPT-2's vocabulary ends in it. Each file appears
    whole or not at all.
    """
    from safetensors.numpy import save_file

    folder, end = Path(folder), config.n_vocab - 1 if end_of_text is None else end_of_text
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
        "bos_token_id": end,
        "eos_token_id": end,
    }
    flat = {f"transformer.{name}": np.ascontiguousarray(array, dtype) for name, array in flatten(weights).items()}
    with replacing(folder / "model.safetensors") as weights_file, replacing(folder / "config.json") as config_file:
        config_file.write_text(json.dumps(fields, indent=2) + "\n")
        save_file(flat, weights_file, metadata={"format": "pt"})
        shutil.copymode(config_file, weights_file)  # safetensors gives it to its owner alone
