"""Ids are Hugging Face's, nothing is lost between text and ids, labels show every token, bad files are refused."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabulary import HARD_TEXTS, SHA256, find_genuine_vocabulary, genuine_vocabulary, random_texts, tiny_vocabulary

from minigpt2.tokenizer import SHOWN, Tokenizer, VocabularyError

GOLDEN = Path(__file__).parent / "golden" / "tokenizer.json"
needs_gpt2 = pytest.mark.skipif(find_genuine_vocabulary()[0] is None, reason=str(find_genuine_vocabulary()[1]))


@pytest.fixture(scope="module")
def gpt2():
    return Tokenizer(*genuine_vocabulary())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tokenizer(*tiny_vocabulary(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="ascii"))


def hugging_face(vocab, merges):
    transformers = pytest.importorskip("transformers", reason="the live comparison needs transformers")
    return transformers.GPT2Tokenizer(vocab=str(vocab), merges=str(merges))


# -- the same ids as Hugging Face's tokenizer and as others have published ---------------------------------------------

# ../shared/reference/official_gpt2_small.json, "tokenization": ids collected from public repositories that ran the
# official tokenizer; the first two texts are the clean and the corrupted prompt of the demo.
PUBLISHED = [
    (
        "Michelle Jones was a top-notch student. Michelle",
        [48736, 5437, 373, 257, 1353, 12, 1662, 354, 3710, 13, 16738],
    ),
    (
        "Michelle Smith was a top-notch student. Michelle",
        [48736, 4176, 373, 257, 1353, 12, 1662, 354, 3710, 13, 16738],
    ),
    (
        "Jessica Jones was a top-notch student. Michelle",
        [45572, 5437, 373, 257, 1353, 12, 1662, 354, 3710, 13, 16738],
    ),
    (
        "Michelle Smith was a top-notch student. Jessica",
        [48736, 4176, 373, 257, 1353, 12, 1662, 354, 3710, 13, 17352],
    ),
    ("hello world", [31373, 995]),
    ("hello <|endoftext|>", [31373, 220, 50256]),
    ("000000000", [10535, 830]),
    ("0000000000000000", [25645]),
    ("00000000000000000", [8269, 10535, 830]),
    (
        "56873+3184623=123456789-1000000000",
        [49211, 4790, 10, 36042, 3510, 1954, 28, 10163, 2231, 3134, 4531, 12, 16, 10535, 830],
    ),
    (
        "I am an amazing autoregressive, decoder-only, GPT-2 style transformer. One day I will exceed human level "
        "intelligence and take over the world!",
        [40, 716, 281, 4998, 1960, 382, 19741, 11, 875, 12342, 12, 8807, 11, 402, 11571, 12, 17, 3918, 47385, 13, 1881]
        + [1110, 314, 481, 7074, 1692, 1241, 4430, 290, 1011, 625, 262, 995, 0],
    ),
]


@pytest.mark.parametrize("text, ids", PUBLISHED)
def test_published_ids(gpt2, text, ids):
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


def test_golden_ids(gpt2, golden):
    remade = f"{GOLDEN.name} is remade by: {golden['made by']}"
    assert list(golden["vocabulary sha256"].values()) == list(SHA256.values()), remade
    assert [text for text, _ in golden["encode"][: len(HARD_TEXTS)]] == list(HARD_TEXTS), remade
    wrong = [(text, ids) for text, ids in golden["encode"] if gpt2.encode(text) != ids]
    assert not wrong, f"{len(wrong)} texts differ from {golden['versions']}, first {wrong[0]}; {remade}"


def test_golden_decoded_text(gpt2, golden):
    """Random ids: mostly broken UTF-8, which must become the same replacement characters."""
    wrong = [(ids, text) for ids, text in golden["decode"] if gpt2.decode(ids) != text]
    assert not wrong, f"{len(wrong)} id lists differ from {golden['versions']}, first {wrong[0]}"
    assert sum("\ufffd" in text for _, text in golden["decode"]) >= 10


@pytest.mark.reference
@needs_gpt2
def test_ids_equal_hugging_face_live(gpt2):
    reference = hugging_face(*genuine_vocabulary())
    texts = [*HARD_TEXTS, *random_texts(seed=1, n=6000)]
    for text, ids in zip(texts, reference(texts).input_ids, strict=True):
        assert gpt2.encode(text) == ids, repr(text)
    ordinary = reference(texts, split_special_tokens=True).input_ids
    for text, ids in zip(texts, ordinary, strict=True):
        assert gpt2.encode(text, allow_special=False) == ids, repr(text)


@pytest.mark.reference
@needs_gpt2
def test_every_kind_of_character_is_cut_as_hugging_face_cuts_it(gpt2):
    """Both are Rust, but with two regular expression engines and so two tables of what is a letter, number or space."""
    reference = hugging_face(*genuine_vocabulary())
    codes = [*range(0x3000), *range(0x3000, 0xD800, 7), *range(0xE000, 0x20000, 7), *range(0x20000, 0x110000, 997)]
    texts = [f"a{chr(code)}b {chr(code)}1{chr(code)}{chr(code)}. \n{chr(code)}x" for code in codes]
    for text, encoding in zip(texts, reference._tokenizer.encode_batch(texts), strict=True):
        assert gpt2.encode(text) == encoding.ids, repr(text)


@pytest.mark.reference
@needs_gpt2
def test_every_token_alone_is_cut_and_joined_as_hugging_face_does(gpt2):
    reference = hugging_face(*genuine_vocabulary())
    spellings = [gpt2.decode([token]) for token in range(gpt2.n_vocab)]
    assert spellings == reference.batch_decode([[token] for token in range(gpt2.n_vocab)])
    for text, encoding in zip(spellings, reference._tokenizer.encode_batch(spellings), strict=True):
        assert gpt2.encode(text) == encoding.ids, repr(text)


@pytest.mark.reference
def test_other_vocabularies_equal_hugging_face_too(tiny, tmp_path):
    texts = ["the other thing in  the   thin anthem", " the\n a <|endoftext|>", *random_texts(seed=2, n=200)]
    reference = hugging_face(*tiny_vocabulary(tmp_path))
    assert [tiny.encode(text) for text in texts] == reference(texts).input_ids


# -- nothing is lost ---------------------------------------------------------------------------------------------------


@settings(max_examples=250, derandomize=True, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(HARD_TEXTS), max_size=6).map("".join)))
@pytest.mark.parametrize("name", [pytest.param("gpt2", marks=needs_gpt2), "tiny"])
def test_text_survives_the_round_trip(request, name, text):
    tokenizer = request.getfixturevalue(name)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode("utf-8")
    assert tokenizer.decode(tokenizer.encode(text, allow_special=False)) == text


def test_ids_may_be_any_integers(tiny):
    assert tiny.decode(np.array(tiny.encode("the thing"))) == "the thing"
    assert tiny.decode(iter(tiny.encode("the"))) == "the"
    assert tiny.decode([]) == ""
    assert all(type(token) is int for token in tiny.encode("the thing"))


@pytest.mark.parametrize("text", [" " * 200_000 + "x", "\n" * 200_000, "a" * 100_000, "^" * 100_000, "漢" * 50_000])
def test_long_runs_are_encoded(tiny, text):
    """tiktoken before 0.13 needs time quadratic in the length of a word."""
    assert tiny.decode(tiny.encode(text)) == text


def test_a_longer_run_of_whitespace_than_tiktoken_can_hold_is_refused(tiny):
    with pytest.raises(ValueError, match="2000001 characters cannot be split.*whitespace.*shorten"):
        tiny.encode(" " * 2_000_000 + "x")


# -- the special token -------------------------------------------------------------------------------------------------


def test_end_of_text(gpt2, tiny, tmp_path):
    assert (gpt2.end_of_text, gpt2.n_vocab) == (50256, 50257)
    assert gpt2.encode("<|endoftext|>", allow_special=False) == [27, 91, 437, 1659, 5239, 91, 29]
    assert (tiny.end_of_text, tiny.n_vocab) == (263, 264)
    without = Tokenizer(*tiny_vocabulary(tmp_path, end_of_text=False))
    assert (without.end_of_text, without.bos) == (None, None)
    assert without.encode("<|endoftext|>") == [263]  # Hugging Face adds it to every GPT-2 vocabulary; no model has it
    assert without.decode(without.encode("a <|endoftext|>")) == "a <|endoftext|>"


def test_end_of_text_may_have_the_first_id(tmp_path):
    """Hugging Face's own BPE trainer puts special tokens first."""
    vocab, merges = tiny_vocabulary(tmp_path)
    ids = json.loads(vocab.read_text())
    vocab.write_text(json.dumps({token: (i + 1) % 264 for token, i in ids.items()}))
    tokenizer = Tokenizer(vocab, merges)
    assert tokenizer.encode(" the<|endoftext|>") == [259, 0]


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels(gpt2):
    labels = {
        " Smith": "␣Smith",
        "Smith": "Smith",
        "\n": "↵",
        "\n\n": "↵↵",
        "\t": "⇥",
        "\r": r"\x0d",
        "\x00": r"\x00",
        "\u00a0": r"\u00a0",
        "\u200b": r"\u200b",
        "\ufe0f": "◌\ufe0f",
        "é": "é",
        "の": "の",
        "<|endoftext|>": "<|endoftext|>",
    }
    assert {text: gpt2.visible(gpt2.single_token(text)) for text in labels} == labels
    assert gpt2.visible_tokens(gpt2.encode("top \U0001f469")) == ["top", r"␣\xf0\x9f\x91", r"\xa9"]


def test_every_label_of_gpt2_is_one_visible_line_of_its_own(gpt2):
    labels = gpt2.visible_tokens(range(gpt2.n_vocab))
    assert len(set(labels)) == gpt2.n_vocab
    for token, label in enumerate(labels):
        assert label and label.isprintable() and " " not in label, (token, label)
        assert not unicodedata.category(label[0]).startswith("M"), (token, label)
        spelling = gpt2.token_bytes(token).decode("utf-8", errors="backslashreplace")
        kept = [c for c in spelling if c in label]
        changed = set(spelling) - set(kept)
        assert all(unicodedata.category(c)[0] in "CZ" for c in changed), (token, label, changed)
        if not changed and label != spelling:
            assert label == "◌" + spelling
    stand_ins = [*SHOWN.values(), "◌"]
    spelled = [gpt2.token_bytes(token).decode("utf-8", errors="ignore") for token in range(gpt2.n_vocab)]
    assert not [text for text in spelled if any(sign in text for sign in stand_ins)]


def test_dejavu_sans_can_draw_the_stand_ins():
    font_manager = pytest.importorskip("matplotlib.font_manager")
    from matplotlib.ft2font import FT2Font

    for family in ("DejaVu Sans", "DejaVu Sans Mono"):
        glyphs = FT2Font(font_manager.findfont(family, fallback_to_default=False)).get_charmap()
        assert not [sign for sign in [*SHOWN.values(), "◌"] if ord(sign) not in glyphs]


# -- single tokens -----------------------------------------------------------------------------------------------------


def test_single_token(gpt2):
    assert [gpt2.single_token(text) for text in (" Jones", " Smith", "Smith")] == [5437, 4176, 17919]


@pytest.mark.parametrize(
    "text, message",
    [
        ("Jessicas", "'Jessicas' is 2 tokens (Jess|icas), ' Jessicas' is 2 tokens (␣Jess|icas): choose a text"),
        ("jealous", "'jealous' is 2 tokens (j|ealous), ' jealous' is 1 token (␣jealous): choose a text"),
        (" ealous", "' ealous' is 3 tokens (␣e|al|ous), 'ealous' is 1 token (ealous): choose a text"),
        (" Jones ", "' Jones ' is 2 tokens (␣Jones|␣), 'Jones ' is 2 tokens (Jones|␣): choose"),
        ("", "'' is 0 tokens ()"),
    ],
)
def test_not_a_single_token(gpt2, text, message):
    with pytest.raises(ValueError) as error:
        gpt2.single_token(text)
    assert message in str(error.value)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, b"bytes", 5, ["a"]])
def test_encode_takes_text_only(tiny, text):
    with pytest.raises(ValueError, match=f"encode takes text .str., got {type(text).__name__}"):
        tiny.encode(text)


@pytest.mark.parametrize("text", ["ab\ud83d", "ab\ud83d\ude00", "ab\udfff <|endoftext|>"])
def test_half_characters_are_refused(tiny, text):
    """tiktoken alone would encode U+FFFD in their place, and the text would not survive."""
    with pytest.raises(ValueError, match=r"character 2 of the text is '\\ud"):
        tiny.encode(text)


@pytest.mark.parametrize("token", [264, -1, 2**40])
def test_ids_out_of_range_are_refused(tiny, token):
    for read in (tiny.decode, tiny.visible_tokens, lambda ids: tiny.token_bytes(ids[-1])):
        with pytest.raises(ValueError, match=f"token id {token} is not in the vocabulary: it has ids 0 to 263"):
            read([5, token])


@pytest.mark.parametrize("tokens", [5, None, "abc", [1.0], [[1, 2]], ["1"]])
def test_ids_that_are_no_integers_are_refused(tiny, tokens):
    with pytest.raises(ValueError, match="token ids must be a flat list of integers"):
        tiny.decode(tokens)


def edit_vocabulary(change):
    def edit(vocab, merges):
        ids = json.loads(vocab.read_text(encoding="utf-8"))
        change(ids)
        vocab.write_text(json.dumps(ids), encoding="utf-8")

    return edit


def edit_merges(change):
    return lambda vocab, merges: merges.write_text(change(merges.read_text(encoding="utf-8")), encoding="utf-8")


def swap(ids, a, b):
    ids[a], ids[b] = ids[b], ids[a]


BROKEN = {
    "no vocab.json": (lambda v, m: v.unlink(), "cannot read .*vocab.json: No such file"),
    "no merges.txt": (lambda v, m: m.unlink(), "cannot read .*merges.txt: No such file"),
    "vocab.json is a folder": (lambda v, m: (v.unlink(), v.mkdir()), "cannot read .*vocab.json"),
    "not JSON": (lambda v, m: v.write_text('{"a": 0,'), "vocab.json is not JSON"),
    "empty": (lambda v, m: v.write_text(""), "vocab.json is not JSON"),
    "nested too deeply": (lambda v, m: v.write_text("[" * 200_000), "vocab.json is not JSON"),
    "not UTF-8": (lambda v, m: v.write_bytes(b'{"\xff": 0}'), "vocab.json is not UTF-8 text .byte 2."),
    "merges not UTF-8": (lambda v, m: m.write_bytes(b"t h\n\xff"), "merges.txt is not UTF-8 text .byte 4."),
    "a list": (lambda v, m: v.write_text("[1, 2]"), "must be one JSON object"),
    "ids are text": (edit_vocabulary(lambda ids: ids.update(th="256")), "with integer ids"),
    "ids are true": (edit_vocabulary(lambda ids: ids.update({'"': True})), "with integer ids"),
    "an id twice": (edit_vocabulary(lambda ids: ids.update(th=257)), "264 tokens, but their ids are not 0 to 263"),
    "a gap in the ids": (edit_vocabulary(lambda ids: ids.pop("th")), "263 tokens, but their ids are not 0 to 262"),
    "a negative id": (edit_vocabulary(lambda ids: ids.update(th=-1)), "264 tokens, but their ids are not 0 to 263"),
    "another token": (
        edit_vocabulary(lambda ids: ids.update(xy=ids.pop("the"))),
        "merge 2 joins 'th' and 'e', .* no token 'the'",
    ),
    "one token more": (edit_vocabulary(lambda ids: ids.update(xy=264)), "ends before the merge that makes 'xy'"),
    "an empty token": (edit_vocabulary(lambda ids: ids.update({"": 264})), "a token without a letter, id 264"),
    "a token too long": (
        edit_vocabulary(lambda ids: ids.update({"a" * 5000: 264})),
        "longest of 5,000 letters; at most .* 4,096",
    ),
    "merges cut short": (edit_merges(lambda text: text[:-5]), "ends before the merge that makes 'ĠĠ'"),
    "merges cut very short": (edit_merges(lambda text: text[:18]), "ends before the merge that makes 'the'"),
    "no merges": (edit_merges(lambda text: ""), "ends before the merge that makes 'th'"),
    "one merge more": (edit_merges(lambda text: text + "a b\n"), "merge 8 joins 'a' and 'b', .* no token 'ab'"),
    "a merge of other tokens": (edit_merges(lambda text: text.replace("th e", "e e")), "merge 2 .* no token 'ee'"),
    "a merge of one": (edit_merges(lambda text: text.replace("i n\n", "in\n")), "line 6 .* is 'in'"),
    "a merge of three": (
        edit_merges(lambda text: text.replace("i n\n", "i n g\n")),
        "line 6 .*'i n g'; it must be two",
    ),
    "spaces unspelled": (
        edit_merges(lambda text: text.replace("Ġ", " ")),
        "line 4 of .*'  the'; it must be two tokens",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_refused(tmp_path, fault):
    paths = tiny_vocabulary(tmp_path)
    spoil, message = BROKEN[fault]
    spoil(*paths)
    with pytest.raises(VocabularyError, match=message) as error:
        Tokenizer(*paths)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + 2 * len(str(tmp_path))


def test_files_of_two_vocabularies_are_refused(tmp_path):
    _, merges = genuine_vocabulary()
    vocab, _ = tiny_vocabulary(tmp_path)
    with pytest.raises(
        VocabularyError, match="merge 1 joins 'Ġ' and 't', .* no token 'Ġt'; take .* from one checkpoint"
    ):
        Tokenizer(vocab, merges)


def test_windows_line_ends_and_no_version_line_are_accepted(tmp_path):
    vocab, merges = tiny_vocabulary(tmp_path)
    lines = merges.read_text(encoding="utf-8").split("\n")[1:]
    merges.write_bytes("\r\n".join(lines).encode())
    assert Tokenizer(vocab, merges).encode(" the") == [258]


def test_a_merge_of_the_number_sign_is_no_header(tmp_path):
    tokenizer = Tokenizer(*tiny_vocabulary(tmp_path, merges=("# #", "## #")))
    assert tokenizer.encode("###") == [257]


def test_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    monkeypatch.setattr("socket.getaddrinfo", None)
    assert Tokenizer(*tiny_vocabulary(tmp_path)).encode(" the") == [258]
