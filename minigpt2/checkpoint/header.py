"""The header of a safetensors file: where each tensor lies. Checked as the format's own library checks it, from one
open file (https://github.com/huggingface/safetensors, "Format").
"""

import json
import math
from typing import NamedTuple

from ..errors import CheckpointError
from ..terminal import brief

LONGEST_HEADER = 1 << 22  # bytes; GPT-2 small's has 14 thousand, one of 1,000 layers 2 million
BITS = dict(F64=64, I64=64, U64=64, C64=64, F32=32, I32=32, U32=32, F16=16, BF16=16, I16=16, U16=16, BOOL=8, U8=8, I8=8)
BITS |= dict(F8_E4M3=8, F8_E5M2=8, F8_E8M0=8, F6_E2M3=6, F6_E3M2=6, F4=4)  # all of safetensors' dtypes

LFS = b"version https://git-lfs"  # how a pointer begins (git-lfs docs/spec.md)


class Stored(NamedTuple):
    """Where one tensor lies."""

    file: object  # tensors.TensorFile
    offset: int  # in bytes, from the start of the file
    dtype: str  # safetensors' word for it
    shape: tuple

    @property
    def nbytes(self):
        return math.prod(self.shape) * BITS[self.dtype] // 8


def read_header(file):
    """Find every tensor of one safetensors file, whose layout is checked as the format's own library does.

    The file is the header's length in eight bytes, the header in JSON, and the tensors' bytes without gaps.
    """
    try:
        if file.read(len(LFS), 0) == LFS:
            raise CheckpointError(
                f"{file.path} is a Git LFS pointer, a few lines that stand for the file: run git lfs pull in its folder, "
                "or download the file itself"
            )
        length = int.from_bytes(file.read(8, 0), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"its header would have {length:,} bytes, more than the {LONGEST_HEADER:,} that are read")
        if 8 + length > file.size:
            raise ValueError(f"its header would have {length:,} bytes, and the file has {file.size:,}")
        text = file.read(length, 8).decode("utf-8")
        if not text.startswith("{"):
            raise ValueError("its header is not a JSON object")
        entries = json.loads(text, object_pairs_hook=each_once, parse_int=size, parse_constant=size)
        metadata = entries.pop("__metadata__", None)
        if not isinstance(metadata, dict | None) or not all(
            isinstance(text, str) for text in (metadata or {}).values()
        ):
            raise ValueError("its __metadata__ is not text by name")
        found = {name: read_entry(file, 8 + length, name, entry) for name, entry in entries.items()}
        check_no_gaps(found.values(), 8 + length, file.size)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{file.path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.path} is not a whole safetensors file ({brief(error)}): fetch it again") from None
    return found


def each_once(pairs):
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError("its header has a name twice")
    return fields


def size(text):
    """A number of the header, where all are sizes: not negative, as even -0 is, and not NaN."""
    if not text.isdecimal():
        raise ValueError(f"its header holds {text}")
    return int(text)


def read_entry(file, start, name, entry):
    """One tensor's entry in the header, as Stored; `start` is where the tensors' bytes begin."""

    def are_sizes(numbers):
        return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)

    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = map(fields.get, ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS or not are_sizes(shape) or not are_sizes(offsets):
        raise ValueError(f"its header's entry for {brief(name)} is {brief(entry)}")
    if len(offsets) != 2 or math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{brief(name)} with shape {brief(shape)} in {dtype} does not take the bytes {brief(offsets)}")
    return Stored(file, start + offsets[0], dtype, tuple(shape))


def check_no_gaps(tensors, start, size):
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != start:
            raise ValueError(f"its tensors overlap or leave a gap at byte {min(start, tensor.offset):,}")
        start += tensor.nbytes
    if start != size:
        raise ValueError(f"its tensors end at byte {start:,}, and the file has {size:,}")
