"""Weights that are the file itself: the same numbers, where the file has them just so; else read as ever."""

import numpy as np
import pytest
from checkpoints import config_fields, make_arrays, stored, write_folder
from models import ODD, random_weights

from minigpt2 import GPT2
from minigpt2.checkpoint.weights import flatten, save_folder
from minigpt2.errors import CheckpointError


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mapped_model_is_the_same_one(tmp_path, dtype):
    save_folder(tmp_path, ODD, random_weights(ODD), dtype)
    mapped, read = (GPT2.from_pretrained(tmp_path, dtype, mapped=choice) for choice in (True, False))
    for name, array in flatten(mapped.weights).items():
        assert is_mapped(array) and not is_mapped(flatten(read.weights)[name]) and not array.flags.writeable
        np.testing.assert_array_equal(array, flatten(read.weights)[name])
    np.testing.assert_array_equal(mapped.run([1, 2, 3]).logits, read.run([1, 2, 3]).logits)
    other = np.float64 if dtype == np.float32 else np.float32
    assert not any(map(is_mapped, flatten(GPT2.from_pretrained(tmp_path, other, mapped=True).weights).values()))


@pytest.mark.parametrize(
    "kind, start, maps", [("F32", 0, True), ("F32", 1, False), ("F32", 2, False), ("F16", 0, False), ("BF16", 0, False)]
)
def test_only_what_lies_in_the_file_just_so_is_mapped(tmp_path, kind, start, maps):
    arrays = {name: stored(array, kind) for name, array in make_arrays().items()}
    folder = write_folder(tmp_path / "a", arrays, config_fields())
    from checkpoints import safetensors_bytes

    (folder / "model.safetensors").write_bytes(safetensors_bytes(arrays, start_mod_8=start))
    found = flatten(GPT2.from_pretrained(folder, mapped=True).weights)
    assert {is_mapped(array) for array in found.values()} == {maps}
    for name, array in flatten(GPT2.from_pretrained(folder).weights).items():
        np.testing.assert_array_equal(found[name], array)


def test_a_number_that_is_not_finite_is_refused_as_ever(tmp_path):
    arrays = make_arrays()
    arrays["wpe.weight"][3, 2] = np.inf
    folder = write_folder(tmp_path / "a", {name: stored(array) for name, array in arrays.items()}, config_fields())
    with pytest.raises(CheckpointError, match="wpe.weight.*not finite"):
        GPT2.from_pretrained(folder, mapped=True)
