"""What people really hand over, and the sentence they get: each names the cause and what to do, for loading and for
GPT2(config, weights) alike."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import SMALL, config_fields, make_arrays, stored, write_folder
from models import ODD, cast, random_model, random_weights
from vocabulary import tiny_vocabulary

from minigpt2 import GPT2, CheckpointError
from minigpt2.checkpoint.config import read_config
from minigpt2.checkpoint.weights import flatten, nest
from minigpt2.model import Config
from minigpt2.terminal import width
from minigpt2.tokenizer import Tokenizer
from patching.prompts import aligned

ARRAYS = make_arrays()
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def as_stored(arrays, prefix=""):
    return {prefix + name: stored(array) for name, array in arrays.items()}


def sentence(call, *arguments):
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    return str(caught.value)


# Weights of one's own


def test_more_layers_than_there_are_weights_are_refused():
    message = sentence(GPT2, replace(ODD, n_layer=6), random_weights(ODD))
    assert "h.3.ln_1.weight is missing" in message and "the config says n_layer = 6, the weights 3" in message


@pytest.mark.parametrize("size", ["n_layer", "n_embd", "n_ctx", "n_vocab", "d_mlp"])
def test_every_size_is_compared_with_the_weights(size):
    config = replace(ODD, **{size: getattr(ODD, size) * 2})
    assert f"the config says {size} = {getattr(config, size)}" in sentence(GPT2, config, random_weights(ODD))


def exchanged(**changes):
    flat = flatten(random_weights(ODD))
    return nest(
        flat | {name.replace("__", "."): change(flat[name.replace("__", ".")]) for name, change in changes.items()}
    )


@pytest.mark.parametrize(
    "weights, says",
    [
        (None, "must be a minigpt2.model.Weights, got NoneType"),
        (flatten(random_weights(ODD)), "must be a minigpt2.model.Weights, got dict"),
        (exchanged(wpe__weight=lambda x: x.tolist()), "wpe.weight must be a NumPy array, got list"),
        (
            exchanged(wpe__weight=lambda x: x.astype(np.float32)),
            "one dtype, float32 or float64, and are float32, float64",
        ),
        (cast(random_weights(ODD), np.float16), "must be float32 or float64, not dtype('float16')"),
        (cast(random_weights(ODD), ">f4"), "must be float32 or float64, not dtype('>f4')"),
        (cast(random_weights(ODD), np.int64), "must be float32 or float64, not dtype('int64')"),
        (exchanged(h__1__attn__c_attn__bias=lambda x: x[:-1]), "h.1.attn.c_attn.bias has shape [41], not [42]"),
    ],
)
def test_weights_that_are_none_are_refused(weights, says):
    assert says in sentence(GPT2, ODD, weights)


@pytest.mark.parametrize(
    "config, says",
    [
        (None, "must be a minigpt2.Config, got NoneType"),
        (replace(ODD, n_head=3), "n_embd = 14 does not divide into n_head = 3"),
        (replace(ODD, n_head=0), "n_head is 0"),
        (replace(ODD, n_layer=2.0), "n_layer is 2.0"),
        (replace(ODD, layer_norm_epsilon=-1), "layer_norm_epsilon is -1"),
        (replace(ODD, layer_norm_epsilon=None), "layer_norm_epsilon is None"),
    ],
)
def test_a_config_that_no_gpt2_can_have_is_refused(config, says):
    assert says in sentence(GPT2, config, random_weights(ODD))


def test_arrays_need_not_be_contiguous():
    turned = nest({name: np.asfortranarray(array) for name, array in flatten(random_weights(ODD)).items()})
    np.testing.assert_allclose(
        GPT2(ODD, turned).run([1, 2]).logits, random_model().run([1, 2]).logits, rtol=0, atol=1e-12
    )


# Weights stored the other way round, or under other names


def turned(arrays):
    return {name: array.T if name.endswith(MATRICES) else array for name, array in arrays.items()}


def test_transposed_weights_are_called_so_and_the_square_ones_named(tmp_path):
    folder = write_folder(tmp_path, as_stored(turned(ARRAYS)))
    for message in (sentence(GPT2.from_pretrained, folder), sentence(GPT2, SMALL, nest(turned(ARRAYS)))):
        assert "transposed" in message and "the square attn.c_proj.weight of each layer" in message
        assert "attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj" in message and "python -m minigpt2.convert" in message


def test_transposing_what_the_shapes_show_alone_is_warned_of(tmp_path):
    """One layer's MLP the wrong way round: said with the number, and the advice names all four matrices."""
    arrays = ARRAYS | {"h.1.mlp.c_fc.weight": ARRAYS["h.1.mlp.c_fc.weight"].T}
    message = sentence(GPT2.from_pretrained, write_folder(tmp_path, as_stored(arrays)))
    assert "h.1.mlp.c_fc.weight has shape [56, 14], not [14, 56]" in message and ". 1 of the oblong" in message


@pytest.mark.parametrize(
    "prefix, author", [("_orig_mod.", "torch.compile"), ("module.", "Parallel"), ("base_model.model.", "PEFT")]
)
@pytest.mark.parametrize("inner", ["", "transformer."])
def test_a_prefix_before_every_name_is_recognised(tmp_path, prefix, author, inner):
    message = sentence(GPT2.from_pretrained, write_folder(tmp_path, as_stored(ARRAYS, prefix + inner)))
    assert f"Every name begins with {prefix!r}" in message and author in message and "minigpt2.convert" in message


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    write_folder(tmp_path, as_stored(ARRAYS))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:248dfc\nsize 548105171\n"
    (tmp_path / "model.safetensors").write_bytes(pointer)
    message = sentence(GPT2.from_pretrained, tmp_path)
    assert "model.safetensors is a Git LFS pointer" in message and "git lfs pull" in message


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_not_taken_for_a_model(tmp_path, whole):
    if whole:
        write_folder(tmp_path, as_stored(ARRAYS))
    (tmp_path / "adapter_config.json").write_text("{}")
    message = sentence(GPT2.from_pretrained, tmp_path)
    assert "adapter" in message and "merge_and_unload" in message


# The sizes' other names


def test_sizes_under_transformers_general_names_are_read(tmp_path):
    fields, names = (
        config_fields(),
        {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"},
    )
    names |= {"n_positions": "max_position_embeddings"}
    other = {names.get(key, key): value for key, value in fields.items()}
    assert not other.keys() & names.keys()
    write_folder(tmp_path, {}, other)
    assert read_config(tmp_path) == SMALL
    write_folder(tmp_path, {}, fields | other)
    assert read_config(tmp_path) == SMALL
    write_folder(tmp_path, {}, fields | other | {"hidden_size": 28})
    assert "hidden_size is 28 and n_embd is 14" in sentence(read_config, tmp_path)


@pytest.mark.reference
def test_the_names_are_those_that_transformers_maps():
    transformers = pytest.importorskip("transformers")
    from minigpt2.checkpoint.config import OTHER_NAMES

    assert OTHER_NAMES == transformers.GPT2Config.attribute_map


# The mark below two texts that do not align


def test_the_mark_stands_below_the_first_difference_after_wide_characters(tmp_path):
    config = Config(n_layer=1, n_head=1, n_embd=2, n_ctx=30, n_vocab=270, d_mlp=2)
    merges = "æ ¼", "å Ħ", "æ¼ ¢"
    tokenizer = Tokenizer(*tiny_vocabulary(tmp_path, merges))
    model = GPT2(config, random_weights(config), tokenizer)
    clean, corrupted = model.encode("漢漢1b"), model.encode("漢漢2bc")
    assert len(clean) == 4 and model.labels(clean)[0] == "漢"
    top, bottom, mark = aligned(model, clean, corrupted).split("\n")
    assert top.endswith(" 漢 | 漢 | 1 | b") and bottom.endswith(" 漢 | 漢 | 2 | b | c")
    for line, letter in ((top, "1"), (bottom, "2")):
        assert width(line.partition(letter)[0]) == width(mark.partition("^")[0])
    assert [width(part) for part in top.split("|")[:3]] == [width(part) for part in bottom.split("|")[:3]]


def test_an_error_lists_no_more_than_is_read(tmp_path):
    """A hostile file with a million names is one short sentence."""
    tensors = {f"x{i}\x1b[31m": stored(np.zeros(1)) for i in range(1000)}
    message = sentence(GPT2.from_pretrained, write_folder(tmp_path, tensors))
    assert message.isprintable() and re.search(r"and \d{4} more", message)
    assert json.loads((tmp_path / "config.json").read_text())["n_layer"] == 3
