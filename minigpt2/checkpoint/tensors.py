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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from ..errors import CheckpointError
from ..terminal import brief
from .header import read_header

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


class TensorFile:
    """An open safetensors file, read by position, from several threads.

    It is opened once, so that what was checked is what is read, even if another file takes its name meanwhile; and not, unless
    asked for, mapped into memory, where a file that another program shortens ends the process.
    """

    def __init__(self, path):
        self.path = path
        self.file = open_file(path)
        self.before = self.state()
        self.size = self.before.st_size
        self.lock = Lock()

    def state(self):
        return os.fstat(self.file.fileno())

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        """Close it; CheckpointError if it was changed while it was open, which may be why there is another error."""
        now = self.state()
        self.file.close()
        changed = (now.st_size, now.st_mtime_ns) != (self.size, self.before.st_mtime_ns)
        if changed and (kind is None or issubclass(kind, (CheckpointError, OSError))):
            raise CheckpointError(f"{self.path} was changed while it was read: load it again once it is complete")

    def read_into(self, array, offset):
        """Fill a contiguous array with the bytes from `offset` on; returns how many there were."""
        view, done = memoryview(array).cast("B"), 0
        while done < len(view):
            if hasattr(os, "preadv"):
                n = os.preadv(self.file.fileno(), [view[done:]], offset + done)
            else:  # Windows
                with self.lock:
                    self.file.seek(offset + done)
                    n = self.file.readinto(view[done:])
            if n == 0:
                break
            done += n
        return done

    def read(self, n, offset):
        data = bytearray(n)
        return bytes(data[: self.read_into(data, offset)])


@contextmanager
def open_tensors(folder):
    """Give every tensor of a folder, dict of Stored by name (the prefix "transformer." taken off), while the block runs.

    Raises CheckpointError if one of the files was changed during the block.
    """
    with ExitStack() as stack:
        files = []
        for path in weight_files(folder):
            try:
                file = TensorFile(path)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
            files.append(stack.enter_context(file))
        yield find_tensors(files)


def find_tensors(files):
    found = {}
    for file in files:
        for name, tensor in read_header(file).items():
            name = name.removeprefix("transformer.")
            if name in found:
                raise CheckpointError(
                    f"{name} is there twice, in {found[name].file.path} and in {file.path}: remove one"
                )
            found[name] = tensor
    return found


def read_pieces(name, tensor, dtype):
    """Yield (start, numbers) through one tensor as `dtype`, refusing numbers that are not finite.

    safetensors' own arrays would be views of a memory map, whose pages count as memory beside the copy that alignment
    needs (the official file's data starts at an odd byte), and it has no bfloat16 for NumPy.
    """
    path = tensor.file.path
    if tensor.dtype not in STORED_AS:
        raise CheckpointError(f"{name} in {path} is stored as {tensor.dtype}, not as {' or '.join(STORED_AS)}")
    size = math.prod(tensor.shape)
    buffer = np.empty(min(PIECE, size), STORED_AS[tensor.dtype])
    for start in range(0, size, PIECE):
        piece = buffer[: size - start]
        if tensor.file.read_into(piece, tensor.offset + start * buffer.itemsize) != piece.nbytes:
            raise CheckpointError(f"{path} ends inside {name}: fetch it again")
        if tensor.dtype == "BF16":  # the upper half of a float32
            piece = (piece.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            piece = piece.astype(dtype, copy=False)
        if not np.isfinite(piece).all():
            raise CheckpointError(f"{name} in {path} holds a number that is not finite in {piece.dtype}")
        yield start, piece


def can_map(tensor, dtype):
    """Whether the bytes in the file are an array of `dtype` as they lie: the same numbers, at a multiple of their size. Not
    so in the official file of GPT-2 small, whose data starts at an odd byte; so in all that save_folder writes."""
    stored = np.dtype(STORED_AS.get(tensor.dtype, "V1"))
    return tensor.dtype != "BF16" and stored == dtype and tensor.offset % stored.itemsize == 0


def read_tensor(name, tensor, dtype, mapped=False):
    """Read one tensor into a read-only array of `dtype`; with mapped, where it is stored just so, map the file instead."""
    if mapped and can_map(tensor, dtype):
        for _ in read_pieces(
            name, tensor, dtype
        ):  # which refuses what is not finite, and leaves the pages in the cache
            pass
        return np.asarray(np.memmap(tensor.file.file, dtype, "r", tensor.offset, tensor.shape))
    array = np.empty(tensor.shape, dtype)
    flat = array.reshape(-1)
    for start, piece in read_pieces(name, tensor, dtype):
        flat[start : start + piece.size] = piece
    array.flags.writeable = False
    return array
