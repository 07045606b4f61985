r"""Byte-pair encoding, written out: how GPT-2 turns text into tokens.

    text -> split: words -> spell: one symbol per byte -> join: merged by the list of merges -> ids

Text is cut into words, each with the space before it. A word starts as its UTF-8 bytes, so that no text is without
tokens, and neighbours are joined in the order in which the vocabulary's training learned to join them: merges.txt.

Sennrich et al. 2016, section 3.2, "Byte Pair Encoding (BPE)"; on bytes and words as in Radford et al. 2019, section
2.2, and openai/gpt-2 src/encoder.py; one pair at a time as in Hugging Face's tokenizers (models/bpe/word.rs), whose
ids these are. This is the definition. tokenizer.py hands the work to tiktoken where fast_bpe.py proves it equal.
"""

import heapq
import re
import unicodedata
from functools import cache

NEVER = float("inf")


# Text -> words


# A contraction; letters, digits or other characters, each with one space before them; white space up to the last
# space. The contractions are lower case only: "I'LL" is cut as "I", "'", "LL". This is Encoder.pat of openai/gpt-2
# with \p{L}, \p{N} and \s written for ASCII, to be matched on the letters that Kinds puts in place of the text's.
WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)


class Kinds(dict):
    """For str.translate: a letter outside ASCII becomes "A", a number "0", white space a tab, everything else "!"."""

    def __missing__(self, code):
        category = later().get(code) or unicodedata.category(chr(code))[0]
        space = code in (0x85, 0xA0, 0x202F) or category == "Z"  # Unicode's White_Space, outside ASCII
        self[code] = code if code < 128 else {"L": "A", "N": "0"}.get(category, "\t" if space else "!")
        return self[code]


KINDS = Kinds()


def split(text):
    """Cut text into words, list[str]: GPT-2's, the same for every vocabulary. Joined, they are the text."""
    return [text[word.start() : word.end()] for word in WORDS.finditer(text.translate(KINDS))]


# A word -> symbols


def byte_letters():
    """Map the letter that stands for each byte in a vocabulary's files to that byte: printable bytes stand for
    themselves, the others are the letters from U+0100 on, so that a space is "Ġ" (src/encoder.py, bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {chr(256 + i): bytes([b]) for i, b in enumerate(others)}


LETTERS = byte_letters()
LETTER_OF_BYTE = {byte[0]: letter for letter, byte in LETTERS.items()}
BYTE_OF_LETTER = {code: 0x2FF for code in range(256)} | {ord(letter): byte[0] for letter, byte in LETTERS.items()}


def spell(word):
    """Write the UTF-8 bytes of a word in byte letters: " é" is "ĠÃ©"."""
    return word.encode("utf-8").decode("latin-1").translate(LETTER_OF_BYTE)


def unspell(token):
    """Return the bytes of a token that is written in byte letters; of one that is not, its own UTF-8."""
    try:
        return token.translate(BYTE_OF_LETTER).encode("latin-1")  # U+02FF, for what is no byte letter, is not in it
    except UnicodeEncodeError:
        return token.encode("utf-8", "surrogatepass")


# Symbols -> tokens


def join(symbols, ranks):
    """Join neighbours until no pair of them is in ranks, {(left, right): its place in the list of merges}: at each
    step the pair of the lowest rank, and of equal ones the leftmost."""
    symbols = list(symbols)
    while True:
        found = [ranks.get(pair, NEVER) for pair in zip(symbols, symbols[1:])]
        lowest = min(found, default=NEVER)
        if lowest == NEVER:
            return symbols
        at = found.index(lowest)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


def join_long(symbols, ranks):
    """join in n log n steps instead of n * n: the pairs wait in a heap, and a symbol that was joined to the one before
    it leaves a gap, with links over it."""
    symbols, n = list(symbols), len(symbols)
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = [(ranks[pair], at) for at, pair in enumerate(zip(symbols, symbols[1:])) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, at = heapq.heappop(heap)
        right = after[at]
        if symbols[at] is None or right == n or ranks.get((symbols[at], symbols[right])) != rank:
            continue  # one of the two was joined to another meanwhile
        symbols[at], symbols[right] = symbols[at] + symbols[right], None
        after[at] = after[right]
        if after[at] < n:
            before[after[at]] = at
        for a, b in ((before[at], at), (at, after[at])):
            if a >= 0 and b < n and (symbols[a], symbols[b]) in ranks:
                heapq.heappush(heap, (ranks[symbols[a], symbols[b]], a))
    return [symbol for symbol in symbols if symbol is not None]


class Encoder:
    """Text to ids by the definition: ids is {token: id}, merges a list of (left, right), all in byte letters."""

    def __init__(self, ids, merges):
        self.ids = ids
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}  # of a pair that is listed twice, the later
        self._known = {}  # word: its ids; a text repeats its words

    def encode(self, text):
        """Turn text into ids, list[int]; ValueError for a byte that the vocabulary does not have."""
        return [token for word in split(text) for token in self.encode_word(word)]

    def encode_word(self, word):
        if word in self._known:
            return self._known[word]
        symbols = spell(word)
        tokens = (join if len(symbols) < 16 else join_long)(symbols, self.ranks)  # short words: less to set up
        try:
            ids = [self.ids[token] for token in tokens]
        except KeyError as error:
            byte, character = unspell(error.args[0])[0], next(c for c in word if error.args[0] in spell(c))
            raise ValueError(
                f"the vocabulary has no token for byte {byte:#04x} of {character!r}: reword the text"
            ) from None
        if len(symbols) < 50:
            if len(self._known) >= 1 << 16:
                self._known.clear()
            self._known[word] = ids
        return ids


# Unicode

# Letters and numbers that came after Unicode 14.0, which is what Python 3.11 knows, up to 16.0, which is what
# tokenizers 0.23 and tiktoken 0.14 know: first and last code points (tests/test_bpe.py compares all 1.1 million).
LETTERS_SINCE_14 = """
1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 1123f-11240 11380-11389 1138b-1138b
1138e-1138e 11390-113b5 113b7-113b7 113d1-113d1 113d3-113d3 11bc0-11be0 11f02-11f02 11f04-11f10 11f12-11f33
1342f-1342f 13441-13446 13460-143fa 16100-1611d 16d40-16d6c 18cff-18cff 1b132-1b132 1b155-1b155 1df25-1df2a
1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0-1e5f0 2b739-2b739 2ebf0-2ee5d 31350-323af
"""
NUMBERS_SINCE_14 = """
10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 1ccf0-1ccf9 1d2c0-1d2d3 1e4f0-1e4f9
1e5f1-1e5fa
"""


@cache
def later():
    """{code point: "L" or "N"} of those."""
    ranges = [
        (kind, *r.split("-")) for kind, text in (("L", LETTERS_SINCE_14), ("N", NUMBERS_SINCE_14)) for r in text.split()
    ]
    return {code: kind for kind, first, last in ranges for code in range(int(first, 16), int(last, 16) + 1)}
