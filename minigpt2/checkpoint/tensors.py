"""The bytes of a checkpoint folder: JSON and safetensors, read as if a stranger had written them.

A checkpoint is data: nothing in it is executed, no pickle is opened, no path in it is followed out of its folder.
Read next: weights.py, which says what the tensors found here must be.
"""

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..terminal import brief

LONGEST_JSON = 1 << 24  # bytes; the longest JSON of a GPT-2, its vocabulary, has 1 MB


def open_file(path):
    """Open a stranger's file to read its bytes. OSError for what is not a file: a pipe may make a reader wait for ever."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def read_json(path):
    """Read a JSON object from a file."""
    try:
        with open_file(path) as file:
            text = file.read(LONGEST_JSON + 1)
        if len(text) > LONGEST_JSON:
            raise ValueError(f"it is longer than {LONGEST_JSON:,} bytes")
        fields = json.loads(text)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({brief(error)}): fetch it again") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds {brief(fields)} instead of a JSON object: fetch it again")
    return fields


class Stored(NamedTuple):
    """Where one tensor lies."""

    path: Path
    offset: int  # in bytes, from the start of the file
    dtype: str  # safetensors' word for it
    shape: tuple


STORED_AS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
PIECE = 1 << 18  # numbers read at a time, few enough to stay in the processor's cache while widened and checked


def weight_files(folder):
    """The safetensors files that hold a folder's weights; CheckpointError unless all are there."""
    folder = Path(folder)
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = shard_names(index)
        for name in names:
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder} has no {name}, which {index.name} lists: fetch it again")
        return [folder / name for name in names]
    if any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{folder} has its weights only as pytorch_model.bin, a pickle, which can run code and is never loaded: "
            "save_pretrained of a recent transformers writes model.safetensors instead"
        )
    raise CheckpointError(f"{folder} has no model.safetensors: a model folder holds config.json and model.safetensors")


def shard_names(index):
    """The file names in a model.safetensors.index.json, each checked to lie in the index's own folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map from tensors to files: fetch it again")
    for name in weight_map.values():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,200}\.safetensors", name, re.ASCII):
            raise CheckpointError(f"{index} lists {brief(name)}: only .safetensors files in the same folder are read")
    return sorted(set(weight_map.values()))


def read_headers(folder):
    """Find every tensor of a folder: dict of Stored by name, the prefix "transformer." taken off."""
    found = {}
    for path in weight_files(folder):
        for name, tensor in read_header(path).items():
            name = name.removeprefix("transformer.")
            if name in found:
                raise CheckpointError(f"{name} is there twice, in {found[name].path} and in {path}: remove one")
            found[name] = tensor
    return found


LFS = b"version https://git-lfs"  # how a pointer begins (git-lfs docs/spec.md)


def read_header(path):
    """Find every tensor of one safetensors file; safetensors checks sizes, offsets and overlaps first."""
    try:
        with open_file(path) as file:
            if file.read(len(LFS)) == LFS:
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, a few lines that stand for the file: run git lfs pull in its folder, or "
                    "download the file itself"
                )
            with safe_open(path, "np"):
                pass
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or brief(error)}") from None
    except CheckpointError:
        raise
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({brief(error)}): fetch it again") from None
    header.pop("__metadata__", None)
    return {
        name: Stored(path, 8 + length + at["data_offsets"][0], at["dtype"], tuple(at["shape"]))
        for name, at in header.items()
    }


def read_pieces(name, tensor, dtype):
    """Yield (start, numbers) through one tensor as `dtype`, refusing numbers that are not finite.

    safetensors' own arrays would be views of a memory map, whose pages count as memory beside the copy that alignment
    needs (the official file's data starts at an odd byte), and it has no bfloat16 for NumPy.
    """
    if tensor.dtype not in STORED_AS:
        raise CheckpointError(f"{name} in {tensor.path} is stored as {tensor.dtype}, not as {' or '.join(STORED_AS)}")
    size = math.prod(tensor.shape)
    buffer = np.empty(min(PIECE, size), STORED_AS[tensor.dtype])
    with open_file(tensor.path) as file:
        file.seek(tensor.offset)
        for start in range(0, size, PIECE):
            piece = buffer[: size - start]
            if file.readinto(piece) != piece.nbytes:
                raise CheckpointError(f"{tensor.path} ends inside {name}: fetch it again")
            if tensor.dtype == "BF16":  # the upper half of a float32
                piece = (piece.astype(np.uint32) << 16).view(np.float32)
            with np.errstate(over="ignore"):
                piece = piece.astype(dtype, copy=False)
            if not np.isfinite(piece).all():
                raise CheckpointError(f"{name} in {tensor.path} holds a number that is not finite in {piece.dtype}")
            yield start, piece


def can_map(tensor, dtype):
    """Whether the bytes in the file are an array of `dtype` as they lie: the same numbers, at a multiple of their size. Not
    so in the official file of GPT-2 small, whose data starts at an odd byte; so in all that save_folder writes."""
    stored = np.dtype(STORED_AS.get(tensor.dtype, "V1"))
    return tensor.dtype != "BF16" and stored == dtype and tensor.offset % stored.itemsize == 0


def read_tensor(name, tensor, dtype, mapped=False):
    """Read one tensor into a read-only array of `dtype`; with mapped, where it is stored just so, map the file instead."""
    if mapped and can_map(tensor, dtype):
        for _ in read_pieces(name, tensor, dtype):  # which refuses what is not finite, and leaves the pages in the cache
            pass
        return np.asarray(np.memmap(tensor.path, dtype, "r", tensor.offset, tensor.shape))
    array = np.empty(tensor.shape, dtype)
    flat = array.reshape(-1)
    for start, piece in read_pieces(name, tensor, dtype):
        flat[start : start + piece.size] = piece
    array.flags.writeable = False
    return array
