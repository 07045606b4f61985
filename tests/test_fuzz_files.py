"""Damaged and hostile checkpoints: they load to exactly what is written in them, or are refused in one sentence."""

import json
import math
import os
import random
import struct
from dataclasses import asdict

import numpy as np
import pytest
from checkpoints import config_fields, make_arrays, safetensors_bytes, stored, write_folder
from fuzz import EFFORT, answer, little_memory  # noqa: F401 - a fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from vocabulary import tiny_vocabulary

from minigpt2.checkpoint.weights import flatten, load
from minigpt2.model import Config
from minigpt2.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

TINY = Config(n_layer=1, n_head=1, n_embd=2, n_ctx=3, n_vocab=5, d_mlp=7)
ARRAYS = make_arrays(TINY)
TENSORS = {name: stored(array) for name, array in ARRAYS.items()}
GOOD = safetensors_bytes(TENSORS)
N_HEADER = 8 + int.from_bytes(GOOD[:8], "little")  # bytes before the numbers
EDGES = (0, 1, -1, 2, 13, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30)
ODD = (
    None, True, False, 0.5, -0.0, 1e308, math.nan, math.inf, "", "1", "\0", "\x1b[2J", "a\nb", "é" * 9999, [], [[]],
    {},
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("fuzz"), TENSORS, config_fields(TINY))


# safetensors


def check_weights(folder, data, names=("model.safetensors",)):
    """Load data as the weights: they must be what a plain reading of the bytes gives. Returns whether they loaded."""
    (folder / "model.safetensors").write_bytes(data)
    loaded, refusal = answer("safetensors", load, folder)
    if refusal:
        assert str(folder) in refusal
        return False
    with safe_open(folder / "model.safetensors", "np"):
        pass  # what is read here, the format's own library accepts
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = 8 + int.from_bytes(data[:8], "little")
    for name, array in flatten(loaded[1]).items():
        entry = header.get(name) or header[f"transformer.{name}"]
        first, last = entry["data_offsets"]
        raw = data[start + first : start + last]
        plain = np.frombuffer(raw, {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}[entry["dtype"]])
        if entry["dtype"] == "BF16":
            plain = (plain.astype("<u4") << 16).view("<f4")
        np.testing.assert_array_equal(array, plain.reshape(entry["shape"]).astype(np.float32), err_msg=name)
        assert np.isfinite(array).all()
    return True


def packed(text, body=GOOD[N_HEADER:], length=None):
    text = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def header(**changes):
    entries = json.loads(GOOD[8:N_HEADER])
    return json.dumps(entries | changes)


def test_the_undamaged_file_loads(folder):
    assert check_weights(folder, GOOD)


def test_truncated_or_extended_at_every_interesting_length(folder):
    ends = [N_HEADER + entry["data_offsets"][1] for name, entry in json.loads(header()).items() if name in TENSORS]
    lengths = {*range(17), *(edge + d for edge in (N_HEADER, *ends) for d in (-4, -1, 0, 1)), *range(20, N_HEADER, 97)}
    for length in sorted(lengths - {len(GOOD)}):
        assert not check_weights(folder, (GOOD + b"\0" * 9)[:length]), length


def test_every_header_length(folder):
    for length in {*EDGES, *(2**k for k in range(64)), *range(N_HEADER - 12, N_HEADER)} - {N_HEADER - 8, 2**64, 10**30}:
        if length >= 0:
            assert not check_weights(folder, packed(GOOD[8:N_HEADER], length=length)), length


FIELDS = ("dtype", "shape", "data_offsets")
DTYPES = ("F8_E4M3", "F8_E5M2", "F4", "I8", "U8", "I64", "BOOL", "C64", "F128", "f32", "<f4", "O", "F64", "F16", "BF16")


def bad_values(field, good):
    if field == "dtype":
        return (*DTYPES, *ODD)
    numbers = [[*good[:i], edge, *good[i + 1 :]] for i in range(len(good)) for edge in EDGES]
    return [
        *numbers,
        *ODD,
        good[::-1],
        good[:1],
        good[1:],
        good * 2,
        [good],
        [str(n) for n in good],
        [0.5, 1],
        [0] * 4000,
    ]


@pytest.mark.parametrize("name", ["wte.weight", "h.0.mlp.c_fc.bias", "ln_f.bias"])
@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_header_entry(folder, name, field):
    good = json.loads(header())[name]
    for bad in bad_values(field, good[field]):
        if bad != good[field]:
            assert not check_weights(folder, packed(header(**{name: good | {field: bad}}))), bad
    for entry in ({key: good[key] for key in good if key != field}, good | {"more": 1}, *ODD):
        check_weights(folder, packed(header(**{name: entry})))


def test_names_and_metadata(folder):
    extra = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for name in (
        "",
        " ",
        "\n",
        "\x1b[31m",
        "h.1.ln_1.weight",
        "../wte.weight",
        "a" * 5000,
        "wte.weight\0",
        "é",
        "\u202e",
    ):
        assert not check_weights(folder, packed(header(**{name: extra})))
    for metadata in (*ODD, {"a": 1}, {"a": None}, {"a": {}}, {"format": "tf"}):
        check_weights(folder, packed(header(__metadata__=metadata)))


def test_json_that_json_readers_read_differently(folder):
    """A name twice, an entry twice: Python's and Rust's reader must not come to two different files."""
    good = header()
    twice = good[:-1] + ', "wte.weight": ' + json.dumps(json.loads(good)["wte.weight"]) + "}"
    moved = good[:-1] + ', "wpe.weight": ' + json.dumps(json.loads(good)["wte.weight"]) + "}"
    for text in (
        twice, moved, good.replace('"dtype": "F32"', '"dtype": "F32", "dtype": "F32"', 1), "\ufeff" + good, " " + good,
        good + " " * 7, good + "\0", good + "x", good + good, good.replace('"wte', '"\\ud800wte', 1),
        good.replace("[", "[ ", 1),
        good.replace('"wte', '"\\u0077te', 1), "[" * 100_000, '{"a":' * 500 + "{}" + "}" * 500, '{"a":' * 50_000, "",
        "{}", "null",
        "[]", "{", '{"a": NaN}', good.replace("[0,", "[0.0,", 1), good.replace("[0,", "[-0,", 1),
        good.replace("[0,", "[0e0,", 1),
        good.replace("[0,", "[" + "9" * 5000 + ",", 1), '{"' + "a" * 10**7 + '": 1}',
    ):  # fmt: skip
        check_weights(folder, packed(text))
    for raw in (b"\xff\xfe{}", good.encode("utf-16"), good.encode("latin-1")[:-1] + b"\xe9}", b"\x80\x04]."):
        check_weights(folder, packed(raw))


def test_random_bytes_in_the_header(folder):
    rng, loaded = random.Random(0), 0
    for _ in range(500 * EFFORT):
        data = bytearray(GOOD)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(N_HEADER)
            data[at] = rng.choice(
                (data[at] ^ 1 << rng.randrange(8), rng.randrange(256), rng.choice(b'{}[]",:0918\\ \0'))
            )
            if rng.random() < 0.2:
                del data[at]
        loaded += check_weights(folder, bytes(data))
    assert loaded < 100 * EFFORT


def test_random_bytes_in_the_numbers(folder):
    rng, loaded = random.Random(1), 0
    for _ in range(200 * EFFORT):
        data = bytearray(GOOD)
        for _ in range(rng.choice((1, 1, 9))):
            data[rng.randrange(N_HEADER, len(data))] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        loaded += check_weights(folder, bytes(data))
    assert loaded > 100 * EFFORT


def test_every_place_of_a_number_that_is_not_finite(folder):
    for at in range(N_HEADER, len(GOOD), 4):
        for number in (math.nan, math.inf, -math.inf):
            assert not check_weights(folder, GOOD[:at] + struct.pack("<f", number) + GOOD[at + 4 :])


def test_a_file_far_larger_than_memory(folder):
    """Sparse: it takes no room on the disk, and the numbers it declares, all zero, would take terabytes."""
    path, n = folder / "model.safetensors", 2**38
    for name in ("wte.weight", "extra"):
        text = header(**{name: {"dtype": "F32", "shape": [n, 2], "data_offsets": [0, n * 8]}}).encode()
        path.write_bytes(packed(text, b""))
        try:
            os.truncate(path, 8 + len(text) + n * 8)
        except OSError:
            pytest.skip("no file system for sparse files here")
        assert answer("safetensors", load, folder)[1]
    path.unlink()
    path.write_bytes(GOOD)


# config.json


def check_config(folder, text, fields=None):
    (folder / "model.safetensors").write_bytes(GOOD)
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    loaded, refusal = answer("config.json", load, folder)
    if refusal:
        assert str(folder) in refusal
        return False
    config = asdict(loaded[0])
    assert {**config, "n_head": 1, "layer_norm_epsilon": 0} == {**asdict(TINY), "n_head": 1, "layer_norm_epsilon": 0}
    for key in ("n_head", "layer_norm_epsilon"):
        if fields is not None and key in fields:
            assert config[key] == fields[key] and TINY.n_embd % config["n_head"] == 0
    return True


KEYS = list(config_fields(TINY)) + [
    "n_ctx", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention", "tie_word_embeddings",
]  # fmt: skip
VALUES = (
    *EDGES, *ODD, "GPT2", "gpt2", "gelu", ["GPT2LMHeadModel"], ["BertModel"], [None], 3, 5, 7, 10**6, 10**7, 10**300,
    1e-5,
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_every_value_of_every_key(folder, key):
    for value in VALUES:
        fields = config_fields(TINY, **{key: value})
        check_config(folder, json.dumps(fields), fields)
    fields = config_fields(TINY)
    fields.pop(key, None)
    check_config(folder, json.dumps(fields))


def test_large_sizes_at_once_cost_nothing(folder):
    for n in (10**3, 10**5, 10**7):
        fields = config_fields(TINY, n_embd=n, n_positions=n, vocab_size=n, n_inner=n, n_layer=min(n, 1000))
        assert not check_config(folder, json.dumps(fields))


NUMBERS = st.sampled_from(EDGES) | st.integers() | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=9) | st.sampled_from(["gpt2", "GPT2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SEEDED = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=300 * EFFORT, **SEEDED)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), st.sets(st.sampled_from(KEYS), max_size=2))
def test_any_values_of_several_keys(folder, changes, left_out):
    fields = {key: value for key, value in config_fields(TINY, **changes).items() if key not in left_out}
    check_config(folder, json.dumps(fields), fields)


def odd_json(good):
    """Texts that are no JSON, or JSON of a surprising kind, or not in UTF-8."""
    yield from (
        "",
        " ",
        "{",
        "}",
        "[]",
        "null",
        "1",
        '"a"',
        "{}",
        "{}{}",
        "//",
        "{'a': 1}",
        '{"a": 01}',
        good + "x",
        good * 2,
    )
    yield from ("\ufeff" + good, good.encode("utf-16"), good.encode("utf-32"), b"\xff" + good.encode(), b"\0" * 4096)
    yield from (
        good[:-1] + bad + "}" for bad in (',"a":NaN', ',"a":1e999', ',"a":"\\ud800"', ',"\\ud800":1', ',"a":"\0"')
    )
    yield from (good[:-1] + f',"a":{digits}' + "}" for digits in ("9" * 4000, "9" * 5000, "-" + "9" * 5000))
    yield from ("[" * n + "]" * n for n in (100, 900, 960, 970, 980, 985, 990, 995, 1000, 5000, 10**6))
    yield from ('{"a":' * n + "1" + "}" * n for n in (100, 900, 960, 980, 990, 1000, 5000, 10**6))
    yield from (good[:n] for n in range(0, len(good), max(1, len(good) // 40)))


def test_texts_that_are_no_config(folder):
    good = json.dumps(config_fields(TINY))
    for text in odd_json(good):
        check_config(folder, text)
    for key in ("n_layer", "layer_norm_epsilon", "architectures", "model_type"):
        for n in (100, 900, 960, 970, 980, 990, 5000):
            check_config(folder, good.replace(f'"{key}": ', f'"{key}": {"[" * n}{"]" * n}, "x": '))


def test_a_key_twice_is_read_as_json_readers_do(folder):
    good = json.dumps(config_fields(TINY))
    assert not check_config(folder, good[:-1] + ', "n_layer": 2}') and check_config(
        folder, good[:-1] + ', "n_layer": 1}'
    )


def test_random_bytes_in_the_config(folder):
    rng, good = random.Random(2), json.dumps(config_fields(TINY)).encode()
    for _ in range(300 * EFFORT):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), rng.choice(b'{}[]",:019e.-\\ \0')))
        check_config(folder, bytes(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="special files are POSIX's")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_files_that_are_no_files(folder, name):
    """A folder, a pipe nobody writes to, a device without end, a link to itself or to nothing, and 64 GiB of zeros."""
    (folder / "config.json").write_text(json.dumps(config_fields(TINY)))
    (folder / "model.safetensors").write_bytes(GOOD)
    if "index" in name:
        (folder / "model.safetensors").unlink()
    path = folder / name
    makers = (
        path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to(path),
        lambda: path.symlink_to(folder / "nothing"), lambda: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR),
        1 << 36),
    )  # fmt: skip
    for make in makers:
        path.unlink(missing_ok=True)
        make()
        assert answer("no files", load, folder)[1]
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "config.json").write_text(json.dumps(config_fields(TINY)))
    (folder / "model.safetensors").write_bytes(GOOD)


# The index of shards

ELSEWHERE = (
    "../good.safetensors", "..\\good.safetensors", "./good.safetensors", "{outside}", "//etc/passwd",
    "~/good.safetensors",
    "sub/../../good.safetensors", "sub/good.safetensors", "a\0.safetensors", "good.safetensors\0", "good.safetensors\n",
    "\ngood.safetensors", "%2e%2e/good.safetensors", "file:///etc/passwd", "C:\\good.safetensors",
    "$HOME/good.safetensors",
    "..", ".", "", " ", "/", "-", "good.safetensors/", "good.safetensors/.", "\u2215good.safetensors",
    "con.safetensors:x",
    "..safetensors", ".safetensors", "*.safetensors", "good.bin", "pytorch_model.bin", "\ud800.safetensors",
    "a" * 250 + ".safetensors", "a" * 5000 + ".safetensors", "\x1b[2J.safetensors", "\u202e.safetensors",
)  # fmt: skip


def test_an_index_is_never_followed_out_of_its_folder(tmp_path):
    """The file outside is a good one: what followed the path would load it."""
    inside = write_folder(tmp_path / "inside", TENSORS, config_fields(TINY))
    (inside / "model.safetensors").rename(tmp_path / "good.safetensors")
    (inside / "sub").mkdir()
    (inside / "sub" / "good.safetensors").write_bytes(GOOD)
    outside = str(tmp_path / "good.safetensors")
    for name in [*ELSEWHERE, *EDGES, *ODD]:
        name = outside if name == "{outside}" else name
        for weight_map in (dict.fromkeys(ARRAYS, name), {"wte.weight": name}):
            (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
            assert answer("index", load, inside)[1], name


def test_an_index_of_any_form(tmp_path):
    folder = write_folder(tmp_path, TENSORS, config_fields(TINY), shards=2)
    index = folder / "model.safetensors.index.json"
    good = index.read_text()
    maps = [dict.fromkeys(map(str, range(n)), "model-00001-of-00002.safetensors") for n in (0, 1, 10**5)]
    for text in [*odd_json(good), *(json.dumps({"weight_map": value}) for value in [*EDGES, *ODD, *maps])]:
        index.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        loaded, refusal = answer("index", load, folder)
        assert refusal or all(np.array_equal(flatten(loaded[1])[name], ARRAYS[name]) for name in ARRAYS)


def test_a_link_in_the_folder_is_the_users_own(tmp_path):
    """The Hub's cache is made of links out of the snapshot; a checkpoint's own text cannot make one."""
    folder = write_folder(tmp_path / "inside", TENSORS, config_fields(TINY))
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert answer("index", load, folder)[0]


# vocab.json and merges.txt

TEXT = "the thing in the end\n naïve  \t漢字<|endoftext|> 😀 a"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    paths = tiny_vocabulary(tmp_path_factory.mktemp("vocabulary"))
    return paths, *(path.read_text(encoding="utf-8") for path in paths)


def check_vocabulary(paths, vocab, merges):
    """Make a Tokenizer of both texts: it must read any text and give it back. Returns whether there was one."""
    for path, text in zip(paths, (vocab, merges)):
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    tokenizer, refusal = answer("vocabulary", Tokenizer, *paths)
    if refusal:
        assert any(str(path) in refusal for path in paths)
        return False
    tokens, refusal = answer("encoding", tokenizer.encode, TEXT)
    assert "has no token for byte" in refusal if refusal else tokenizer.decode(tokens) == TEXT
    assert all(tokenizer.visible(i) for i in range(tokenizer.n_vocab))
    return True


def test_the_undamaged_vocabulary_reads(vocabulary):
    assert check_vocabulary(*vocabulary)


def test_texts_that_are_no_vocabulary(vocabulary):
    paths, vocab, merges = vocabulary
    for text in odd_json(vocab):
        check_vocabulary(paths, text, merges)


def test_any_change_of_the_ids(vocabulary):
    paths, vocab, merges = vocabulary
    rng, tokens, loaded = random.Random(3), list(json.loads(vocab)), 0
    for _ in range(300 * EFFORT):
        ids = json.loads(vocab)
        for _ in range(rng.choice((1, 1, 2, 4))):
            a, b = rng.sample(tokens, 2)
            change = rng.randrange(6)
            if change == 0:
                ids.pop(a, None)
            elif change == 1:
                ids[a] = ids.get(b, 0)
            elif change == 2:
                ids[a], ids[b] = ids.get(b, 0), ids.get(a, 0)
            elif change == 3:
                ids[a] = rng.choice([*EDGES, *ODD])
            elif change == 4:
                ids[rng.choice(("", a + b, "\ud800", "\x1b", "Ġ" * 999, "<|endoftext|>", "a\nb"))] = rng.choice(
                    (264, 0, -1)
                )
            else:
                ids[a + "x"] = ids.pop(a, 0)
        loaded += check_vocabulary(paths, json.dumps(ids), merges)
    assert loaded < 100 * EFFORT  # two single bytes that exchange their ids are another, good vocabulary


def test_tokens_twice(vocabulary):
    paths, vocab, merges = vocabulary
    for extra in ('"th": 256', '"th": 257', '"the": 0', '"<|endoftext|>": 264', '"": 0'):
        check_vocabulary(paths, f"{vocab[:-1]}, {extra}}}", merges)
        check_vocabulary(paths, f"{{{extra}, {vocab[1:]}", merges)


def test_any_change_of_the_merges(vocabulary):
    paths, vocab, merges = vocabulary
    rng, odd = (
        random.Random(4),
        ("", " ", "a", "a b c", "t h", "th  e", "\ufeff", "#version: 0.2", "é x", "x \ud800", "<| >", "\t"),
    )
    for _ in range(300 * EFFORT):
        lines = merges.split("\n")
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(lines) + 1)
            change = rng.randrange(5)
            if change == 0 and lines:
                del lines[at - 1]
            elif change == 1:
                lines.insert(at, rng.choice(odd))
            elif change == 2 and lines:
                lines[at - 1] = "".join(rng.sample(lines[at - 1], len(lines[at - 1])))
            elif change == 3 and lines:
                lines.insert(at, rng.choice(lines))
            else:
                rng.shuffle(lines)
        check_vocabulary(paths, vocab, rng.choice(("\n", "\n", "\r\n", "\n\n", "\r", "\u2028", "\0")).join(lines))


def test_merges_in_other_encodings(vocabulary):
    paths, vocab, merges = vocabulary
    assert check_vocabulary(paths, vocab, merges.replace("\n", "\r\n")) and check_vocabulary(
        paths, vocab, merges + "\n\n"
    )
    for data in (b"", b"\0", b"\xff", merges.encode("utf-16"), merges.encode() + b"\xc3", b"a" * 10**6, b"\n" * 10**6):
        assert not check_vocabulary(paths, vocab, data)
    with pytest.raises(ValueError, match=f"not UTF-8 text .byte {10**5 * 4}."):
        paths[1].write_bytes(b"t h\n" * 10**5 + b"\xff")
        Tokenizer(*paths)
    growing = "\n".join(f"{'a' * 2**k} {'a' * 2**k}" for k in range(16))
    assert not check_vocabulary(paths, vocab, growing)


def test_random_bytes_in_the_vocabulary(vocabulary):
    paths, *texts = vocabulary
    rng = random.Random(5)
    for _ in range(300 * EFFORT):
        damaged = [bytearray(text.encode()) for text in texts]
        data = rng.choice(damaged)
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), rng.choice(b'"\\,:{} \n\r019')))
        check_vocabulary(paths, *map(bytes, damaged))


def test_a_vocabulary_without_end(vocabulary):
    paths, vocab, merges = vocabulary
    for path in paths:
        check_vocabulary(paths, vocab, merges)
        os.truncate(path, 1 << 36)  # sparse
        assert answer("vocabulary", Tokenizer, *paths)[1]
        path.unlink()
