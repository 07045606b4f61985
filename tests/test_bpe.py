"""bpe.py is Hugging Face's byte-pair encoding, and tiktoken its equal wherever it is used."""

import random
import unicodedata
from functools import cache

import pytest
from vocabulary import HARD_TEXTS, random_texts
from vocabulary_files import gpt2, letters, with_tokens

from minigpt2 import bpe
from minigpt2.bpe import Encoder, join, join_long, spell, split, unspell
from minigpt2.fast_bpe import FastEncoder, fast_encoder

TEXTS = [*HARD_TEXTS, *random_texts(seed=3, n=1500)]
ALL_CODES = [*range(0xD800), *range(0xE000, 0x110000)]


@cache
def random_merges(seed):
    """(ids, merges) of a small vocabulary over the letters abc, its merges drawn at random: each part made before."""
    choose, tokens, merges = random.Random(seed), list("abc"[: 1 + seed % 3]), []
    for _ in range(choose.randrange(1, 9)):
        pair = choose.choice(tokens), choose.choice(tokens)
        if pair[0] + pair[1] not in tokens:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    return with_tokens(letters(), *(a + b for a, b in merges)), merges


def words(seed, n):
    choose = random.Random(seed)
    return ["".join(choose.choices("abc", k=choose.randrange(1, 16))) for _ in range(n)]


# The definition


def test_the_pair_of_the_lowest_rank_is_joined_first_and_of_equal_ones_the_leftmost():
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("a", "a"): 2}
    assert bpe.join("abc", ranks) == ["a", "bc"] and bpe.join("aaa", ranks) == ["aa", "a"] and bpe.join("", ranks) == []
    assert bpe.join("abab", {("ab", "a"): 0, ("a", "b"): 1}) == ["aba", "b"]  # one at a time: the new pair goes first


def test_a_token_is_not_joined_from_whatever_makes_its_bytes():
    """tiktoken joins a to bc, since "abc" is a token; the merges say ab to c, and never come to it."""
    ids, merges = with_tokens(letters(), "bc", "ab", "abc"), [("b", "c"), ("a", "b"), ("ab", "c")]
    assert Encoder(ids, merges).encode("abc") == [64, 256]
    encoder = fast_encoder(ids, merges) or Encoder(ids, merges)
    assert encoder.encode("abc") == [64, 256]


def test_long_words_are_joined_as_short_ones():
    for seed in range(300):
        merges = random_merges(seed)[1]
        ranks = {pair: rank for rank, pair in enumerate(random.Random(seed).sample(merges, len(merges)))}
        for word in words(seed, 10):
            assert join_long(word, ranks) == join(word, ranks)
    ranks = Encoder(*gpt2()).ranks
    for word in {word for text in TEXTS for word in split(text)}:
        assert join_long(spell(word), ranks) == join(spell(word), ranks), word


def test_bytes_and_letters_are_each_others_inverse():
    assert len(bpe.LETTERS) == 256 and spell(" \n é") == "ĠĊĠÃ©" and unspell("ĠĊĠÃ©") == " \n é".encode()
    for text in TEXTS:
        assert unspell(spell(text)) == text.encode("utf-8")
    assert (
        unspell("漢") == "漢".encode() and unspell("a b") == b"a b" and unspell("\xad") == "\xad".encode()
    )  # no byte letters


def test_words_are_the_text():
    for text in TEXTS:
        assert "".join(split(text)) == text
    assert split("I'll say I'LL,  3rd: naïve\n\n ½ x") == [
        "I", "'ll", " say", " I", "'", "LL", ",", " ", " 3", "rd", ":", " naïve", "\n\n", " ½", " x",
    ]  # fmt: skip


# Unicode


def boundaries(encode, kind, codes):
    """Whether each character goes on with the word of a letter, a digit or a sign that stands before it: list of bool.
    encode knows one token for that sign and the first byte of the character."""
    text = "\n".join(kind + chr(code) for code in codes)
    return [token > 255 for token in encode(text) if token > 255 or token == TOKEN_OF[kind]]


TOKEN_OF = {"a": 64, "1": 16, "!": 0}


@pytest.mark.parametrize("kind", TOKEN_OF)
def test_every_character_is_the_letter_number_or_sign_that_it_is_to_tiktoken(kind):
    """Python 3.11's own table of Unicode is two versions older. All 1.1 million are compared below."""
    edges = {code + i for code in bpe.later() for i in (-1, 0, 1)}
    codes = [
        code for code in ALL_CODES if (code < 0x3000 or code in edges or code % 17 == 0) and chr(code) not in TOKEN_OF
    ]
    lead = sorted({spell(chr(code))[0] for code in codes})
    ids, merges = with_tokens(letters(), *(kind + byte for byte in lead)), [(kind, byte) for byte in lead]
    fast = boundaries(fast_encoder(ids, merges).encode, kind, codes)
    ours = [len(split(kind + chr(code))) == 1 for code in codes]
    assert len(fast) == len(ours)
    wrong = [hex(code) for code, a, b in zip(codes, ours, fast) if a != b]
    assert not wrong, (len(wrong), wrong[:9], unicodedata.unidata_version)


@pytest.mark.reference
@pytest.mark.slow
def test_every_character_is_cut_as_hugging_face_cuts_it():
    tokenizers = pytest.importorskip("tokenizers")
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    for start in range(0, len(ALL_CODES), 5000):
        text = "".join(f"a{c}1{c}!{c}\n" for c in map(chr, ALL_CODES[start : start + 5000]))
        assert [spell(word) for word in split(text)] == [word for word, _ in cut(text)], hex(ALL_CODES[start])


# The fast twin


@pytest.mark.parametrize("text", [*TEXTS[::40], None])
def test_tiktoken_and_the_definition_give_the_same_ids_with_gpt2s_vocabulary(text):
    plain, fast = twins()
    assert isinstance(fast, FastEncoder)
    for each in TEXTS if text is None else [text]:
        assert fast.encode(each) == plain.encode(each), each


@cache
def twins():
    return Encoder(*gpt2()), fast_encoder(*gpt2())


def test_real_text(request):
    for path in [*request.config.rootpath.glob("*.md"), *request.config.rootpath.glob("minigpt2/*.py")]:
        plain, fast = (encoder.encode(path.read_text(encoding="utf-8")) for encoder in twins())
        assert plain == fast, path


def test_tiktoken_is_used_exactly_where_every_token_ends_in_its_own_pair():
    """fast_bpe's short walk along both edges against the sentence that it proves, and both encoders where it holds."""
    used = 0
    for seed in range(600):
        ids, merges = random_merges(seed)
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        holds = all(join(a + b, {p: r for p, r in ranks.items() if r < ranks[a, b]}) == [a, b] for a, b in merges)
        fast = fast_encoder(ids, merges)
        assert (fast is not None) == holds, merges
        if fast:
            used += 1
            assert all(fast.encode(word) == Encoder(ids, merges).encode(word) for word in words(seed, 10)), merges
    assert 200 < used < 550


@pytest.mark.parametrize("merges", [[("ab", "c"), ("a", "b")], [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]])
def test_what_tiktoken_cannot_hold_is_not_given_to_it(merges):
    assert fast_encoder(with_tokens(letters(), *dict.fromkeys(a + b for a, b in merges)), merges) is None
    assert fast_encoder({"a": 0, "b": 1, "ab": 2}, [("a", "b")]) is None  # 254 bytes are missing


def test_ids_need_not_follow_the_merges():
    ids, merges = gpt2(300)
    shuffled = dict(zip(ids, random.Random(0).sample(range(len(ids)), len(ids))))
    fast, plain = fast_encoder(shuffled, merges), Encoder(shuffled, merges)
    assert isinstance(fast, FastEncoder) and all(fast.encode(text) == plain.encode(text) for text in TEXTS[:300])


@pytest.mark.reference
def test_random_merge_lists_equal_hugging_face():
    tokenizers = pytest.importorskip("tokenizers")
    for seed in range(300):
        ids, merges = random_merges(seed)
        merges = random.Random(seed).sample(merges, len(merges))  # any order: what it is made of may come later
        reference = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
        for word in words(seed, 10):
            assert Encoder(ids, merges).encode(word) == reference.encode(word).ids, (merges, word)


def test_ten_thousand_characters_do_not_take_quadratic_time():
    """By the count of joins looked at, not by the clock: one word of n letters takes at most some n log n of them."""
    looked_up = 0

    class Counting(dict):
        def __contains__(self, pair):
            nonlocal looked_up
            looked_up += 1
            return super().__contains__(pair)

    ranks = Counting(twins()[0].ranks)
    for n in (1000, 8000):
        looked_up = 0
        join_long("".join(random.Random(n).choices("etaoinshrdlu", k=n)), ranks)
        assert n < looked_up < 5 * n
