"""A vocabulary's files are read as Hugging Face reads them, or refused in a sentence that names the file and the key."""

import json
from pathlib import Path

import numpy as np
import pytest
from models import random_weights
from vocabulary import END_OF_TEXT
from vocabulary_files import (
    CASES,
    OLD_HEADER,
    REFUSED,
    SMALL,
    TEXTS,
    configured,
    gpt2,
    letters,
    one_file,
    token,
    two_files,
    with_tokens,
    write_files,
)

from minigpt2 import GPT2
from minigpt2.errors import VocabularyError
from minigpt2.fast_bpe import FastEncoder
from minigpt2.model import Config
from minigpt2.tokenizer import Tokenizer
from patching import PromptPair

GOLDEN = Path(__file__).parent / "golden" / "vocabularies.json"
SLOW = {  # tiktoken cannot follow these merges, so that bpe.py itself serves
    "three merges", "merges appended", "two merges for one token", "merges out of order", "a merge twice",
}  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="ascii"))


def read(folder, files):
    return Tokenizer.from_folder(write_files(folder, files))


@pytest.mark.parametrize("name", CASES)
def test_ids_are_hugging_faces(tmp_path, golden, name):
    remade = f"{GOLDEN.name} is remade by: {golden['made by']}"
    assert golden["texts"] == TEXTS and golden["ids"].keys() == CASES.keys(), remade
    tokenizer = read(tmp_path, CASES[name]())
    wrong = [(t, ids, tokenizer.encode(t)) for t, ids in zip(TEXTS, golden["ids"][name]) if tokenizer.encode(t) != ids]
    assert not wrong, f"{len(wrong)} texts differ from {golden['versions']}, first {wrong[0]}; {remade}"
    assert isinstance(tokenizer._encoder, FastEncoder) == (name not in SLOW)
    assert all(tokenizer.visible(i) and tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab))


@pytest.mark.reference
@pytest.mark.parametrize("name", CASES)
def test_ids_equal_hugging_face_live(tmp_path, monkeypatch, name):
    transformers = pytest.importorskip("transformers", reason="the live comparison needs transformers")
    tokenizer = read(tmp_path, CASES[name]())
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.n_vocab == len(reference)
    assert [tokenizer.encode(text) for text in TEXTS] == [reference(text).input_ids for text in TEXTS]
    if not tokenizer.adds_bos:
        split = [reference(text, split_special_tokens=True).input_ids for text in TEXTS]
        assert [tokenizer.encode(text, allow_special=False) for text in TEXTS] == split
    ids = np.random.default_rng(0).integers(tokenizer.n_vocab, size=(50, 8))
    text = [reference.decode(row, clean_up_tokenization_spaces=False) for row in ids]
    ascii_only = all(
        t.text.isascii() for p in tokenizer._added._passes for t in p[0].values()
    )  # it takes "é" for a byte
    assert not ascii_only or [tokenizer.decode(row) for row in ids] == text


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused(tmp_path, name):
    files, says = REFUSED[name]
    with pytest.raises(VocabularyError) as error:
        read(tmp_path, files())
    sentence = str(error.value)
    assert says in sentence and str(tmp_path) in sentence and "\n" not in sentence
    assert len(sentence) < 400 + 2 * len(str(tmp_path))


# The values of the issues that these came from, by hand

BY_HAND = [
    ("added_tokens.json", "<|BOS|>Great<|SEP|>", [50257, 13681, 50258]),
    ("add_prefix_space", "Hello world", [18435, 995]),
    ("add_bos_token", "Hello world", [50256, 15496, 995]),
    ("only tokenizer.json, as transformers 5 saves it", "Hello world", [15496, 995]),
    ("three merges", "abc", [64, 256]),
    ("RoBERTa's ids first", "Hello world", [15501, 1000]),
]


@pytest.mark.parametrize("name, text, ids", BY_HAND)
def test_values_by_hand(tmp_path, name, text, ids):
    assert read(tmp_path, CASES[name]()).encode(text) == ids


def test_added_tokens_are_tokens_everywhere(tmp_path):
    tokenizer = read(tmp_path, CASES["added_tokens.json"]())
    assert (
        tokenizer.single_token("<|SEP|>") == 50258 and tokenizer.decode([50257, 13681, 50258]) == "<|BOS|>Great<|SEP|>"
    )
    assert tokenizer.visible_tokens([50257, 220, 50258]) == ["<|BOS|>", "␣", "<|SEP|>"] and tokenizer.n_vocab == 50259
    assert tokenizer.encode("<|BOS|>", allow_special=False) == [50257]  # added, but not special: as Hugging Face


def test_a_byte_that_no_token_has_is_refused_when_a_text_needs_it(tmp_path):
    """Byte-level vocabularies that were trained without an alphabet; Hugging Face drops such characters silently."""
    ids = {text: i for i, text in enumerate(["a", "b", "Ġ", "ab", END_OF_TEXT])}
    tokenizer = read(tmp_path, two_files(ids, [("a", "b")]))
    assert tokenizer.encode("ab a") == [3, 2, 0]
    with pytest.raises(ValueError, match="no token for byte 0xc3 of 'é'"):
        tokenizer.encode("ab é")


def test_hostile_vocabularies_are_read_or_refused_in_time(tmp_path):
    deep, ids = [], letters()
    for length in range(1, 4000):  # each token is the one before and a letter more: 8 MB, the proof's worst
        deep.append(("a" * length, "a"))
        ids["a" * (length + 1)] = len(ids)
    tokenizer = read(tmp_path, two_files(ids, deep))
    assert tokenizer.decode(tokenizer.encode("a" * 10_000)) == "a" * 10_000
    with pytest.raises(VocabularyError, match="longest of 32,768 letters; at most 1,048,576 of 4,096 are read"):
        read(tmp_path, two_files(with_tokens(letters(), "x" * 32768), []))
    with pytest.raises(VocabularyError, match="add 20,003 tokens; at most 10,000 are read"):
        read(tmp_path, two_files(letters(), [], added={f"<{i}>": 256 + i for i in range(20_000)}))
    many = read(tmp_path, two_files(letters(), [], added={f"<{i}>": 256 + i for i in range(9_000)}))
    assert many.encode("<8999><12" * 1000) == [9255, *many.encode("<12", allow_special=False)] * 1000


ODD = [
    None,
    True,
    5,
    1.5,
    "x",
    "\ud800",
    [],
    ["<a>"],
    [5],
    {},
    {"content": "\ud800"},
    {"content": 5},
    {"5": {}},
    {"type": "Sequence"},
]


def five_merges():
    added = [token(END_OF_TEXT, 261, normalized=True)]
    return two_files(*gpt2(5)) | one_file(*gpt2(5), added, {"model_max_length": 1024}, False, **OLD_HEADER)


def places():
    """Where a stranger can write something else: (file, keys down to it)."""
    whole = five_merges() | {"added_tokens.json": {}, "special_tokens_map.json": {}, "tokenizer_config.json": {}}
    yield from ((file, ()) for file in whole if file != "merges.txt")
    yield from (("tokenizer.json", (key,)) for key in whole["tokenizer.json"])
    yield from (("tokenizer.json", ("model", key)) for key in ("type", "vocab", "merges", "dropout", "unk_token"))
    yield from (("tokenizer.json", ("added_tokens", 0, key)) for key in ("id", "content", "lstrip", "special"))
    yield from (("tokenizer.json", ("pre_tokenizer", key)) for key in ("type", "add_prefix_space", "use_regex"))
    for key in (
        "tokenizer_class",
        "bos_token",
        "additional_special_tokens",
        "added_tokens_decoder",
        "add_bos_token",
        "x_token",
    ):
        yield from ((file, (key,)) for file in ("tokenizer_config.json", "special_tokens_map.json"))
    yield "added_tokens.json", ("<a>",)


def test_odd_values_anywhere_are_read_or_refused(tmp_path):
    """One sentence of our own, never an error from inside Python."""
    whole = five_merges()
    refused = 0
    for file, keys in places():
        for odd in ODD:
            files = json.loads(json.dumps(whole | {"tokenizer_config.json": {}}))
            holder, key = files, file
            for step in keys:
                holder.setdefault(key, {}) if isinstance(holder, dict) else None
                holder, key = holder[key], step
            holder[key] = odd
            texts = {name: content if name == "merges.txt" else json.dumps(content) for name, content in files.items()}
            write_files(tmp_path, texts)
            try:
                tokenizer = Tokenizer.from_folder(tmp_path)
                assert all(tokenizer.visible(i) for i in range(255, tokenizer.n_vocab))
                assert tokenizer.decode(tokenizer.encode("the man")).strip().endswith("the man")
            except VocabularyError as error:
                refused += 1
                assert str(tmp_path) in str(error) and "\n" not in str(error)
            for path in tmp_path.iterdir():
                path.unlink()
    assert refused > 200


# Models and pairs

N_VOCAB = 957  # GPT-2's first 700 merges and <|endoftext|>


def reader(folder, **config):
    config_of = Config(n_layer=2, n_head=2, n_embd=8, n_ctx=40, n_vocab=N_VOCAB, d_mlp=16)
    tokenizer = read(folder, configured(**config) if config else two_files(*gpt2(SMALL)))
    return GPT2(config_of, random_weights(config_of), tokenizer, name="reader")


def test_ids_beyond_the_model_are_encoded_and_cannot_be_run(tmp_path):
    model = reader(tmp_path, pad_token="[PAD]")
    assert model.encode("he[PAD]") == [*model.encode("he"), 957] and model.labels([957, 958]) == ["[PAD]", "<958>"]
    assert model.run(model.encode("he")).logits.shape == (1, N_VOCAB)
    with pytest.raises(ValueError, match="957"):
        model.run(model.encode("he[PAD]"))


PAIR = dict(clean="he can", corrupted="he was", answers=(" in", " on"))


def test_a_bos_that_the_tokenizer_adds_is_not_put_there_twice(tmp_path):
    plain = PromptPair(**PAIR, bos=True).tokens(reader(tmp_path))
    adding = reader(tmp_path, add_bos_token=True)
    for bos in (True, False):
        assert PromptPair(**PAIR, bos=bos).tokens(adding) == plain
    assert plain.clean[0] == 956 and plain.clean[1] != 956


def test_answers_get_neither_bos_nor_space(tmp_path):
    plain, other = reader(tmp_path), reader(tmp_path, add_bos_token=True, add_prefix_space=True)
    for answer in (" in", "in", "an"):
        [token_id] = plain.encode(answer)
        assert other.tokenizer.single_token(answer) == token_id
    assert PromptPair(**PAIR).tokens(other).answers == PromptPair(**PAIR).tokens(plain).answers


def test_the_answers_ids_by_hand(tmp_path):
    tokenizer = read(tmp_path, two_files(*gpt2(), config={"add_bos_token": True, "add_prefix_space": True}))
    answers = " Jones", "Smith", "<|endoftext|>"
    assert [tokenizer.continuation(answer) for answer in answers] == [[5437], [17919], [50256]]
    assert tokenizer.encode("Smith") == [50256, 4176]


def test_another_bos_stands_in_front(tmp_path):
    model = reader(tmp_path, bos_token="!")
    assert PromptPair(**PAIR, bos=True).tokens(model).clean[0] == model.encode("!")[0] == 0


def test_no_warnings_where_there_is_nothing_to_warn_of(tmp_path):
    model = reader(tmp_path, add_bos_token=True)
    assert PromptPair(**PAIR).warnings(model) == PromptPair(**PAIR, bos=True).warnings(model) == []
    assert PromptPair.from_tokens([956, 956, 1], [956, 956, 2], (3, 4)).warnings(model) == []


@pytest.mark.parametrize(
    "changed, says",
    [
        (dict(clean="he can ", corrupted="he was "), ["the clean text ends in a space", "the corrupted text ends in a space"]),
        (dict(clean="he in can", corrupted="he in was", answers=("in", " on")), ["the answer 'in' has no space, and in the text it has one: ' in'"]),
        (dict(clean=END_OF_TEXT + "he can", corrupted=END_OF_TEXT + "he was", bos=True),
         ["the clean text begins with <|endoftext|> twice", "the corrupted text begins with <|endoftext|> twice"]),
    ],
)  # fmt: skip
def test_warnings(tmp_path, changed, says):
    found = PromptPair(**(PAIR | changed)).warnings(reader(tmp_path))
    assert len(found) == len(says) and all(sentence.startswith(begin) for sentence, begin in zip(found, says)), found
