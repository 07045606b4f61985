"""A checkpoint in any form that real ones have loads to the same arrays; anything else is refused by name."""

import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    SMALL,
    byte_vocabulary,
    config_fields,
    make_arrays,
    make_weights,
    masks,
    safetensors_bytes,
    stored,
    write_folder,
)

from minigpt2 import GPT2
from minigpt2.checkpoint import tensors, weights
from minigpt2.checkpoint.config import read_config
from minigpt2.checkpoint.weights import CheckpointError, expected_shapes, flatten, load, nest, save_folder
from minigpt2.model import Config

ARRAYS = make_arrays()


def as_stored(arrays, dtype="F32", prefix=""):
    return {prefix + name: stored(array, dtype) for name, array in arrays.items()}


def assert_equal(weights, arrays, dtype=np.float32):
    loaded = flatten(weights)
    assert list(loaded) == list(arrays)
    for name, array in loaded.items():
        assert array.dtype == dtype and array.shape == arrays[name].shape, name
        assert np.array_equal(array, arrays[name].astype(dtype)), name


def refusal(folder, **kwargs):
    """The message of the CheckpointError that loading a folder must end with: one line."""
    with pytest.raises(CheckpointError) as caught:
        load(folder, **kwargs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


# What loads


PREFIXED = as_stored(ARRAYS, prefix="transformer.")
LM_HEAD = {"lm_head.weight": stored(ARRAYS["wte.weight"])}
FORMS = {
    "plain, as the official file": dict(tensors=as_stored(ARRAYS)),
    "prefixed": dict(tensors=PREFIXED),
    "with masks": dict(tensors=as_stored(ARRAYS) | masks()),
    "prefixed with masks and lm_head": dict(
        tensors=PREFIXED | {f"transformer.{name}": mask for name, mask in masks().items()} | LM_HEAD
    ),
    "tied lm_head": dict(tensors=as_stored(ARRAYS) | LM_HEAD),
    "lm_head instead of wte": dict(tensors={n: t for n, t in as_stored(ARRAYS).items() if n != "wte.weight"} | LM_HEAD),
    "shards": dict(tensors=PREFIXED, shards=3),
    "shards with lm_head elsewhere": dict(tensors=LM_HEAD | as_stored(ARRAYS), shards=2),
    "data at an odd byte": dict(tensors=as_stored(ARRAYS) | masks(), start_mod_8=3),
    "names in reverse": dict(tensors=dict(reversed(as_stored(ARRAYS).items()))),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_to_the_same_arrays(tmp_path, form, dtype):
    config, weights, source = load(write_folder(tmp_path, **FORMS[form]), dtype)
    assert config == SMALL
    assert_equal(weights, ARRAYS, dtype)
    assert source.folder == tmp_path and source.revision is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kept", ["F16", "BF16", "F32", "F64"])
def test_storage_types_widen_exactly(tmp_path, kept, dtype):
    exact = make_arrays(dtype=np.float64)
    if kept == "F16":
        want = {name: a.astype(np.float16).astype(dtype) for name, a in exact.items()}
    elif kept == "BF16":  # eight significant bits; checkpoints.stored cuts the others off
        parts = {name: np.frexp(a.astype(np.float32)) for name, a in exact.items()}
        want = {name: np.ldexp(np.trunc(m * 256) / 256, e).astype(dtype) for name, (m, e) in parts.items()}
    else:
        want = {name: a.astype({"F32": np.float32, "F64": np.float64}[kept]).astype(dtype) for name, a in exact.items()}
    _, weights, _ = load(write_folder(tmp_path, as_stored(exact, kept)), dtype)
    assert_equal(weights, want, dtype)


def test_tensors_longer_than_one_piece(tmp_path):
    """Reading goes by pieces of 2**18 numbers: one less, exactly one, one more, and several."""
    config = Config(n_layer=1, n_head=1, n_embd=512, n_ctx=511, n_vocab=1300, d_mlp=512)
    arrays = make_arrays(config)
    assert arrays["h.0.attn.c_proj.weight"].size == 2**18
    assert arrays["wpe.weight"].size < 2**18 < arrays["wte.weight"].size
    tensors = as_stored(arrays, "F64") | {"lm_head.weight": stored(arrays["wte.weight"], "F64")}
    _, weights, _ = load(write_folder(tmp_path, tensors, config_fields(config), start_mod_8=5))
    assert_equal(weights, arrays)
    other = arrays["wte.weight"].copy()
    other[-1, -1] += 1
    tensors["lm_head.weight"] = stored(other, "F64")  # an unembedding of its own, but for the last piece alike
    assert "differs from wte.weight" in refusal(write_folder(tmp_path, tensors, config_fields(config)))


def test_the_official_layout(tmp_path):
    """160 tensors, 12 of them masks, unprefixed, the data starting at a byte that is 3 mod 8, as 14291 is."""
    config = replace(SMALL, n_layer=12)
    arrays = make_arrays(config)
    buffers = {name: tensor for name, tensor in masks(config).items() if name.endswith(".bias")}
    tensors = dict(sorted((as_stored(arrays) | buffers).items()))
    assert len(tensors) == 160
    write_folder(tmp_path, tensors, config_fields(config), start_mod_8=3)
    with open(tmp_path / "model.safetensors", "rb") as file:
        assert (8 + int.from_bytes(file.read(8), "little")) % 8 == 14291 % 8
    loaded, weights, _ = load(tmp_path)
    assert loaded == config
    assert_equal(weights, arrays)


def test_arrays_are_read_only_aligned_and_contiguous(tmp_path):
    _, weights, _ = load(write_folder(tmp_path, as_stored(ARRAYS), start_mod_8=3))
    for name, array in flatten(weights).items():
        assert array.flags.c_contiguous and array.flags.aligned, name
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.reference
def test_names_and_shapes_are_the_references():
    """expected_shapes against Hugging Face's own GPT-2, with sizes that all differ."""
    transformers = pytest.importorskip("transformers")
    fields = config_fields()
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**fields))
    theirs = {n.removeprefix("transformer."): tuple(p.shape) for n, p in model.named_parameters()}
    assert expected_shapes(SMALL) == theirs


def test_nest_and_flatten_are_inverse():
    weights = make_weights()
    flat = flatten(weights)
    assert list(flat) == list(expected_shapes(SMALL))
    assert all(flat[name] is array for name, array in flatten(nest(flat)).items())
    assert flat["h.2.mlp.c_proj.weight"] is weights.h[2].mlp.c_proj.weight
    assert flat["h.1.ln_2.bias"] is weights.h[1].ln_2.bias


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_save_folder_is_read_back(tmp_path, dtype):
    config, weights = replace(SMALL, layer_norm_epsilon=3e-4, d_mlp=31), make_weights(replace(SMALL, d_mlp=31))
    save_folder(tmp_path / "new", config, weights, dtype)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]
    loaded, read, _ = load(tmp_path / "new", np.float64)
    assert loaded == config
    assert_equal(read, {name: array.astype(dtype) for name, array in flatten(weights).items()}, np.float64)


@pytest.mark.reference
def test_save_folder_is_read_by_transformers(tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    weights = make_weights()
    save_folder(tmp_path, SMALL, weights)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    tokens = [3, 1, 4, 1, 5]
    with torch.no_grad():
        logits = theirs.double()(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(GPT2.from_pretrained(tmp_path, np.float64).run(tokens).logits - logits).max() < 1e-10


@pytest.mark.reference
def test_a_transformers_checkpoint_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config_fields()))
    model.save_pretrained(tmp_path, max_shard_size="10kB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    config, weights, _ = load(tmp_path)
    assert config == SMALL
    assert_equal(weights, {n.removeprefix("transformer."): p.detach().numpy() for n, p in model.named_parameters()})


def test_an_interrupted_save_leaves_the_old_files(tmp_path, monkeypatch):
    save_folder(tmp_path, SMALL, make_weights(seed=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_folder(tmp_path, SMALL, make_weights(seed=2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_links_out_of_a_snapshot_are_followed(tmp_path):
    """The Hub's cache holds each snapshot as links to ../../blobs."""
    real = write_folder(tmp_path / "real", as_stored(ARRAYS), shards=2)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots/0123").mkdir(parents=True)
    for number, path in enumerate(real.iterdir()):
        path.rename(tmp_path / f"blobs/{number}")
        (tmp_path / "snapshots/0123" / path.name).symlink_to(f"../../blobs/{number}")
    assert_equal(load(tmp_path / "snapshots/0123")[1], ARRAYS)


# Sizes


def test_config_reads_every_size(tmp_path):
    other = Config(n_layer=5, n_head=3, n_embd=21, n_ctx=17, n_vocab=23, d_mlp=19, layer_norm_epsilon=2e-6)
    write_folder(tmp_path, {}, config_fields(other))
    assert read_config(tmp_path) == other


def test_config_defaults(tmp_path):
    """n_ctx stands for n_positions in early files; n_inner null is 4 n_embd; a missing activation is gelu_new."""
    fields = config_fields(n_inner=None, n_ctx=13, activation_function="gelu_pytorch_tanh")
    del fields["n_positions"], fields["layer_norm_epsilon"], fields["architectures"]
    write_folder(tmp_path, {}, fields)
    assert read_config(tmp_path) == SMALL
    del fields["activation_function"], fields["n_inner"]
    write_folder(tmp_path, {}, fields)
    assert read_config(tmp_path) == SMALL


BAD_FIELDS = [
    (dict(n_layer=0), "n_layer is 0"),
    (dict(n_layer=-3), "n_layer is -3"),
    (dict(n_layer="3"), "n_layer is '3'"),
    (dict(n_layer=3.0), r"n_layer is 3\.0"),
    (dict(n_layer=True), "n_layer is True"),
    (dict(n_layer=None), "n_layer is None"),
    (dict(n_layer=10**9), "n_layer is 1000000000"),
    (dict(vocab_size=10**18), "vocab_size is 1000000000000000000"),
    (dict(n_positions=[13]), r"n_positions is \[13\]"),
    (dict(n_inner=0), "n_inner is 0"),
    (dict(n_embd=15), "n_embd = 15 .* n_head = 2"),
    (dict(n_embd=10**30), "n_embd is 10000"),
    (dict(layer_norm_epsilon="1e-5"), "layer_norm_epsilon is '1e-5'"),
    (dict(layer_norm_epsilon=float("nan")), "layer_norm_epsilon is nan"),
    (dict(layer_norm_epsilon=-1e-5), "layer_norm_epsilon is -1e-05"),
    (dict(activation_function="gelu"), "activation_function is 'gelu'; .*'gelu_new'"),
    (dict(activation_function=["gelu_new"]), "activation_function is"),
    (dict(model_type="llama"), "model_type is 'llama'"),
    (dict(model_type=None), "model_type is None"),
    (dict(architectures=["BertModel"]), r"architectures is \['BertModel'\]"),
    (dict(architectures="GPT2"), "architectures is 'GPT2'"),
    (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
    (dict(scale_attn_weights=False), "scale_attn_weights is False"),
    (dict(scale_attn_weights=1), "scale_attn_weights is 1"),
    (dict(add_cross_attention=True), "add_cross_attention is True"),
    (dict(tie_word_embeddings=False), "tie_word_embeddings is False"),
]


@pytest.mark.parametrize("changes, says", BAD_FIELDS, ids=[json.dumps(changes) for changes, _ in BAD_FIELDS])
def test_a_config_that_is_no_gpt2_is_refused(tmp_path, changes, says):
    folder = write_folder(tmp_path, as_stored(ARRAYS), config_fields(**changes))
    message = refusal(folder)
    assert "config.json" in message
    with pytest.raises(CheckpointError, match=says):
        load(folder)


@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "model_type"])
def test_a_missing_size_is_named(tmp_path, key):
    fields = config_fields()
    del fields[key]
    assert key in refusal(write_folder(tmp_path, as_stored(ARRAYS), fields))


@pytest.mark.parametrize(
    "text, says",
    [
        (b"", "cannot be read as JSON"),
        (b'{"n_layer": 3', "cannot be read as JSON"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"n_layer": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b"[1, 2]", "instead of a JSON object"),
        (b"null", "instead of a JSON object"),
    ],
)
def test_a_broken_config_is_refused(tmp_path, text, says):
    write_folder(tmp_path, as_stored(ARRAYS))
    (tmp_path / "config.json").write_bytes(text)
    assert says in refusal(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path):
    assert "has no config.json" in refusal(tmp_path)


def test_an_absurd_config_costs_nothing(tmp_path):
    """The largest sizes that are read as numbers at all must not allocate before the file is compared with them."""
    sizes = dict(n_layer=1000, n_embd=10_000_000, vocab_size=10_000_000, n_positions=10_000_000, n_inner=10_000_000)
    folder = write_folder(tmp_path, as_stored(ARRAYS), config_fields(**sizes))
    assert "n_vocab = 10000000, the weights 11" in refusal(folder)


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(n_layer=4), "(config.json says n_layer = 4, the weights 3)"),
        (dict(n_layer=2), "(config.json says n_layer = 2, the weights 3)"),
        (dict(vocab_size=12), "(config.json says n_vocab = 12, the weights 11)"),
        (dict(n_positions=1024), "(config.json says n_ctx = 1024, the weights 13)"),
        (dict(n_embd=16), "(config.json says n_embd = 16, the weights 14)"),
        (dict(n_inner=55), "(config.json says d_mlp = 55, the weights 56)"),
    ],
)
def test_a_config_that_the_weights_contradict(tmp_path, changes, says):
    assert says in refusal(write_folder(tmp_path, as_stored(ARRAYS), config_fields(**changes)))


# Names, shapes, numbers


@pytest.mark.parametrize("name", list(ARRAYS))
def test_a_missing_tensor_is_named(tmp_path, name):
    tensors = as_stored({other: array for other, array in ARRAYS.items() if other != name})
    assert f"{name} is missing" in refusal(write_folder(tmp_path, tensors))


@pytest.mark.parametrize("name", list(ARRAYS))
def test_a_wrong_shape_is_named_with_both_shapes(tmp_path, name):
    shape = list(ARRAYS[name].shape)
    wrong = np.zeros([*shape[:-1], shape[-1] + 1])
    message = refusal(write_folder(tmp_path, as_stored(ARRAYS) | {name: stored(wrong)}))
    assert f"{name} has shape {list(wrong.shape)}, not {shape}" in message


def test_a_transposed_linear_layer_is_refused(tmp_path):
    turned = {name: a.T if name.endswith("c_fc.weight") else a for name, a in ARRAYS.items()}
    assert "h.0.mlp.c_fc.weight has shape [56, 14], not [14, 56]" in refusal(write_folder(tmp_path, as_stored(turned)))


@pytest.mark.parametrize("name", ["h.3.attn.bias", "h.0.attn.rotary", "score.weight", "lm_head.bias", "transformer."])
def test_an_extra_tensor_is_named(tmp_path, name):
    extra = {name: stored(np.zeros(14))}
    message = refusal(write_folder(tmp_path, as_stored(ARRAYS) | extra))
    assert f"{name.removeprefix('transformer.')!r} is not part of it" in message


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    twice = as_stored(ARRAYS) | {"transformer.wpe.weight": stored(ARRAYS["wpe.weight"])}
    assert "wpe.weight is there twice" in refusal(write_folder(tmp_path, twice))


@pytest.mark.parametrize("name", ["wte.weight", "h.1.ln_2.bias", "ln_f.weight", "h.2.mlp.c_proj.weight"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path, name, number, dtype):
    array = ARRAYS[name].copy()
    array.reshape(-1)[-1] = number
    tensors = as_stored(ARRAYS) | {name: stored(array, dtype)}
    assert f"{name} in " in (message := refusal(write_folder(tmp_path, tensors))) and "not finite" in message


def test_a_float64_too_large_for_float32_is_refused(tmp_path):
    arrays = make_arrays(dtype=np.float64)
    arrays["wpe.weight"][2, 3] = 1e200
    folder = write_folder(tmp_path, as_stored(arrays, "F64"))
    assert "wpe.weight" in (message := refusal(folder)) and "not finite in float32" in message
    assert load(folder, np.float64)[1].wpe[2, 3] == 1e200


@pytest.mark.parametrize("change", ["value", "last value", "shape"])
def test_an_unembedding_of_its_own_is_refused(tmp_path, change):
    lm_head = ARRAYS["wte.weight"].copy()
    if change == "shape":
        lm_head = lm_head[:-1]
    else:
        lm_head.reshape(-1)[-1 if change == "last value" else 0] += 1
    message = refusal(write_folder(tmp_path, as_stored(ARRAYS) | {"lm_head.weight": stored(lm_head)}))
    assert "lm_head.weight" in message and "differs from wte.weight" in message


def test_integers_are_refused(tmp_path):
    tensors = as_stored(ARRAYS) | {"wpe.weight": stored(np.zeros((13, 14)), "I64")}
    assert "wpe.weight in" in (message := refusal(write_folder(tmp_path, tensors))) and "stored as I64" in message


@pytest.mark.parametrize("dtype", [np.float16, np.int32, "bfloat16", ">f4", None, object, "nonsense"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    assert "float32 or float64" in refusal(write_folder(tmp_path, as_stored(ARRAYS)), dtype=dtype)


# Files


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1, -100])
def test_a_truncated_file_is_refused(tmp_path, length):
    write_folder(tmp_path, as_stored(ARRAYS))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: length if length >= 0 else len(file.read_bytes()) + length])
    assert "model.safetensors is not a whole safetensors file" in refusal(tmp_path)


def damaged_header(**changes):
    """The small checkpoint's bytes with wpe.weight's header entry changed."""
    data = safetensors_bytes(as_stored(ARRAYS))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["wpe.weight"] |= changes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "data",
    [
        damaged_header(data_offsets=[0, 13 * 14 * 4]),
        damaged_header(data_offsets=[10**15, 10**15 + 13 * 14 * 4]),
        damaged_header(data_offsets=[700, 100]),
        damaged_header(data_offsets=[-1, 5]),
        damaged_header(shape=[2**40, 2**40]),
        damaged_header(shape=[-13, -14]),
        damaged_header(shape="13"),
        damaged_header(dtype="F128"),
        (2**63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}" + b"left over",
        b"\x00" * 4096,
    ],
)
def test_a_corrupt_header_is_refused(tmp_path, data):
    write_folder(tmp_path, as_stored(ARRAYS))
    (tmp_path / "model.safetensors").write_bytes(data)
    assert "model.safetensors is not a whole safetensors file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../model.safetensors", "a/b.safetensors", "a\\b.safetensors", "..", "", "x.bin", 7, None]
)
def test_an_index_pointing_elsewhere_is_refused(tmp_path, name):
    """The file outside is a good one, so that following the path would load."""
    write_folder(tmp_path, as_stored(ARRAYS))
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "config.json").rename(folder / "config.json")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(ARRAYS, name)}))
    assert "only .safetensors files in the same folder are read" in refusal(folder)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_an_index_without_a_map_is_refused(tmp_path, index):
    write_folder(tmp_path, as_stored(ARRAYS), shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "no weight_map" in refusal(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write_folder(tmp_path, as_stored(ARRAYS), shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "no model-00002-of-00003.safetensors" in refusal(tmp_path)


def test_a_pickle_is_never_loaded(tmp_path):
    write_folder(tmp_path, as_stored(ARRAYS))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    message = refusal(tmp_path)
    assert "pickle" in message and "save_pretrained" in message


def test_a_folder_without_weights_and_a_file_are_refused(tmp_path):
    write_folder(tmp_path, as_stored(ARRAYS))
    assert "is a file: give the folder" in refusal(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(tmp_path)


def test_a_revision_of_a_folder_is_refused(tmp_path):
    assert "is a folder" in refusal(write_folder(tmp_path, as_stored(ARRAYS)), revision="main")


def test_a_long_header_is_refused_unread(tmp_path):
    """99 MB of JSON took 38 s and 2.2 GB; GPT-2 small's header has 14 kB."""
    write_folder(tmp_path, as_stored(ARRAYS))
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write((99 << 20).to_bytes(8, "little") + b'{"a": [')
        file.truncate(200 << 20)
    assert "its header would have 103,809,024 bytes, more than the 4,194,304 that are read" in refusal(tmp_path)


# Files that change while they are read


def changing(monkeypatch, change):
    """Make the first tensor that is read be followed by `change`, which another program might do just then."""
    read, changes = weights.read_tensor, [change]

    def read_and_change(*args):
        array = read(*args)
        if changes:
            changes.pop()()
        return array

    monkeypatch.setattr(weights, "read_tensor", read_and_change)


@pytest.mark.parametrize("how", ["other bytes", "shorter", "longer", "empty"])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_file_that_changes_while_it_is_read_is_one_sentence(tmp_path, monkeypatch, how, shards):
    folder = write_folder(tmp_path, as_stored(ARRAYS), shards=shards)
    path = sorted(folder.glob("*.safetensors"))[-1]
    data = path.read_bytes()
    other = {"other bytes": data[:-8] + b"\xff" * 8, "shorter": data[:-8], "longer": data + data, "empty": b""}[how]
    os.utime(path, (1, 1))  # so that the change is later, whatever the clock's grain
    changing(monkeypatch, lambda: path.write_bytes(other))
    assert f"{path} was changed while it was read: load it again" in refusal(folder)


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, as_stored(ARRAYS))
    (tmp_path / "new").write_bytes(b"another file")
    changing(monkeypatch, lambda: os.replace(tmp_path / "new", folder / "model.safetensors"))
    assert_equal(load(folder)[1], ARRAYS)


def test_each_file_is_opened_once(tmp_path, monkeypatch):
    folder, opened = write_folder(tmp_path, as_stored(ARRAYS), shards=2), []
    plain = tensors.open_file
    monkeypatch.setattr(tensors, "open_file", lambda path: opened.append(path.name) or plain(path))
    load(folder)
    assert sorted(opened) == sorted(path.name for path in folder.iterdir())


COPIED_OVER = """
import shutil, sys, threading
from pathlib import Path
from minigpt2.checkpoint.weights import load
folder, stop, ends = Path(sys.argv[1]), threading.Event(), set()
def copy():
    while not stop.is_set():
        for name in ("small", "large"):
            shutil.copyfile(folder / name, folder / "model.safetensors")
thread = threading.Thread(target=copy)
thread.start()
for _ in range(200):
    try:
        load(folder)
        ends.add("loaded")
    except ValueError as error:
        ends.add(type(error).__name__)
stop.set()
thread.join()
print(*sorted(ends))
"""


def test_a_file_that_others_copy_over_kills_nothing(tmp_path):
    """A memory map of a file that becomes shorter ends the process (SIGBUS)."""
    folder = write_folder(tmp_path, as_stored(ARRAYS))
    (folder / "model.safetensors").rename(folder / "small")
    (folder / "large").write_bytes((folder / "small").read_bytes() + b"\0" * (8 << 20))
    (folder / "model.safetensors").write_bytes(b"")
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", COPIED_OVER, folder], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"CheckpointError", "loaded"} and "CheckpointError" in done.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX's")
def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        tensors.open_file(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or not os.geteuid(), reason="root may read every file")
def test_an_unreadable_file_is_not_called_missing(tmp_path):
    write_folder(tmp_path, as_stored(ARRAYS))
    (tmp_path / "model.safetensors").chmod(0)
    assert "model.safetensors cannot be read: Permission denied" in refusal(tmp_path)


# Vocabulary, memory, imports


def test_a_folder_without_vocabulary_runs_on_ids(tmp_path):
    model = GPT2.from_pretrained(write_folder(tmp_path, as_stored(ARRAYS)))
    assert model.run([1, 2, 3]).logits.shape == (3, SMALL.n_vocab)
    with pytest.raises(ValueError, match=r"has no vocab\.json and no merges\.txt"):
        model.encode("a")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no merges\.txt"):
        model.encode("a")


def test_a_folder_with_vocabulary_encodes(tmp_path):
    config = replace(SMALL, n_vocab=257)
    model = GPT2.from_pretrained(write_folder(tmp_path, as_stored(make_arrays(config)), config_fields(config)))
    vocab, merges = byte_vocabulary()
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    assert model.decode(model.encode("aé<|endoftext|>")) == "aé<|endoftext|>"
    assert len(model.encode("aé<|endoftext|>")) == 4


MEASURE = """
import re, sys
from minigpt2.checkpoint.weights import flatten, load
def peak():  # getrusage's ru_maxrss would start from the parent's, which fork passes on
    return 1024 * int(re.search("VmHWM: *([0-9]+)", open("/proc/self/status").read().replace("\\t", " "))[1])
before = peak()
_, weights, _ = load(sys.argv[1], sys.argv[2])
print((peak() - before) / sum(a.nbytes for a in flatten(weights).values()))
print(*[name for name in ("huggingface_hub", "tiktoken", "httpx2", "requests") if name in sys.modules])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("kept, dtype", [("F32", "float32"), ("F32", "float64"), ("F64", "float32")])
def test_loading_holds_the_weights_once(tmp_path, kept, dtype):
    """Not twice, as with a memory map and copies of it, or with a whole tensor in another type: wte is a third, as in
    GPT-2 small. The rest is the reader's buffers. And a folder needs neither the Hub's client nor the tokenizer's."""
    config = Config(n_layer=8, n_head=4, n_embd=256, n_ctx=256, n_vocab=20_000, d_mlp=1024)  # 11.5 million weights
    tensors = as_stored(make_arrays(config), kept)
    tensors["lm_head.weight"] = tensors["wte.weight"]
    folder = write_folder(tmp_path, tensors, config_fields(config))
    command = [sys.executable, "-c", MEASURE, folder, dtype]
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    ratio, imported = result.stdout.split("\n")[:2]
    assert 0.9 < float(ratio) < 1.25, f"peak memory grew by {ratio} of the weights"
    assert imported == ""


# Saved again


def test_a_saved_folder_is_whole_and_readable_by_whom_its_folder_is(tmp_path):
    save_folder(tmp_path / "new", SMALL, make_weights())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]
    assert_equal(load(tmp_path / "new")[1], ARRAYS, np.float32)
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in (*(tmp_path / "new").iterdir(), tmp_path / "plain")}
    assert len(modes) == 1


def test_a_loaded_model_can_be_sent_to_another_process(tmp_path):
    model = GPT2.from_pretrained(write_folder(tmp_path, as_stored(ARRAYS)))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.run([1, 2]).logits, model.run([1, 2]).logits)
    with pytest.raises(CheckpointError, match="no vocab.json"):
        again.encode("text")
