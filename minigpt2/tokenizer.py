"""Text becomes token ids and back: a checkpoint's vocab.json and merges.txt, made into one tiktoken.Encoding.

tiktoken does the byte pair encoding, in Rust; nothing is fetched, the two files beside the weights are all it needs.
Here are the files' format, the checks that both describe the same vocabulary, and the names of tokens in figures and
tables (Tokenizer.visible). Training a vocabulary is bundled/bpe.py's.
"""

import json
import operator
import re
import unicodedata
from itertools import zip_longest
from pathlib import Path

import tiktoken

from .errors import VocabularyError

END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token: it stands between documents, and no merge makes it

# How GPT-2 cuts text into the words that are then merged separately; a word keeps the one space before it. The
# contractions are lower case only: "I'LL" is cut as "I", "'", "LL" (openai/gpt-2 src/encoder.py, Encoder.pat).
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

LONGEST = 1 << 24  # bytes of vocab.json or merges.txt; the longer of GPT-2's has 1 million

SURROGATE = re.compile("[\ud800-\udfff]")

# Visible stand-ins. No token of GPT-2 holds one of them (as some do "·" and "→"), and DejaVu Sans can draw them.
SHOWN = {" ": "␣", "\n": "↵", "\t": "⇥"}


class Tokenizer:
    """One vocabulary: `encoding` is its tiktoken.Encoding, `n_vocab` the number of its tokens, ids 0 to n_vocab - 1."""

    def __init__(self, vocab_path, merges_path, n_vocab=None):
        """Read the two files. n_vocab is the model's: it may have ids to spare, but none too few.

        Raises VocabularyError for files that are missing, broken, or not of one vocabulary.
        """
        ranks, special = read_vocabulary(Path(vocab_path), Path(merges_path))
        self.n_vocab = len(ranks) + len(special)
        if n_vocab is not None and self.n_vocab > n_vocab:
            raise VocabularyError(
                f"{vocab_path} has {self.n_vocab} tokens, more than the model's n_vocab of {n_vocab}: take the "
                "vocabulary and the weights from one checkpoint"
            )
        self.end_of_text = special.get(END_OF_TEXT)  # its id; None for a vocabulary without it
        name = str(vocab_path)
        self.encoding = tiktoken.Encoding(name, pat_str=WORDS, mergeable_ranks=ranks, special_tokens=special)

    def __repr__(self):
        return f"Tokenizer({self.encoding.name!r}, {self.n_vocab:,} tokens)"

    def encode(self, text, allow_special=True):
        """Turn text into token ids, list[int], as Hugging Face's GPT-2 tokenizer does.

        "<|endoftext|>" in the text becomes the special token; with allow_special=False it is text like any other.
        """
        if not isinstance(text, str):
            raise ValueError(f"encode takes text (str), got {type(text).__name__}; model.run takes token ids")
        if match := SURROGATE.search(text):
            raise ValueError(
                f"character {match.start()} of the text is {match[0]!a}, half of a UTF-16 pair, which is no character; "
                "read the text again with its true encoding, or with errors='replace'"
            )
        try:
            allowed = {END_OF_TEXT} if allow_special else set()
            return self.encoding.encode(text, allowed_special=allowed, disallowed_special=())
        except ValueError:  # the regular expression's stack is full; nothing else is left that could fail
            raise ValueError(
                f"the text of {len(text)} characters cannot be split: tiktoken gives up on about a million whitespace "
                "characters in a row; shorten that run"
            ) from None

    def decode(self, tokens):
        """Turn token ids into text; bytes that are no UTF-8 become U+FFFD, as a character cut between tokens leaves."""
        return self.encoding.decode(self.check_ids(tokens), errors="replace")

    def token_bytes(self, token):
        """Return the bytes of one token, which need not be whole characters."""
        return self.encoding.decode_single_token_bytes(*self.check_ids([token]))

    def visible(self, token):
        r"""Return one token's label for figures and tables: one line, never blank, different for every token of GPT-2.

        ␣ is a space, ↵ a newline, ⇥ a tab; \xNN a control character, or a byte that is no character by itself; \uNNNN
        another character that would not show. A combining mark without its base stands on ◌.
        """
        text = self.token_bytes(token).decode("utf-8", errors="backslashreplace")
        label = "".join(c if c.isprintable() and c != " " else SHOWN.get(c) or escaped(c) for c in text)
        return "◌" + label if unicodedata.category(label[0]).startswith("M") else label

    def visible_tokens(self, tokens):
        """Return the labels of several tokens, list[str]."""
        return [self.visible(token) for token in self.check_ids(tokens)]

    def single_token(self, text):
        """Return the id of the one token that is exactly this text, or raise a ValueError that shows its tokens."""
        tokens = self.encode(text)
        if len(tokens) == 1:
            return tokens[0]
        other = text[1:] if text.startswith(" ") else " " + text
        raise ValueError(
            f"{self.spelled(text)}, {self.spelled(other)}: choose a text that is one token (the space before a word is "
            "part of it)"
        )

    def spelled(self, text):
        labels = self.visible_tokens(self.encode(text))
        return f"{text!r} is {len(labels)} token{'s' * (len(labels) != 1)} ({'|'.join(labels)})"

    def check_ids(self, tokens):
        """Return token ids as list[int], or raise a ValueError naming the one that this vocabulary does not have."""
        try:
            ids = [operator.index(token) for token in tokens]
        except TypeError:
            raise ValueError(f"token ids must be a flat list of integers, got {str(tokens):.60}") from None
        for token in ids:
            if not 0 <= token < self.n_vocab:
                raise ValueError(f"token id {token} is not in the vocabulary: it has ids 0 to {self.n_vocab - 1}")
        return ids


def escaped(character):
    return f"\\x{ord(character):02x}" if character.isascii() else f"\\u{ord(character):04x}"


def byte_letters():
    """Map the letter that stands for each byte in both files to that byte: printable bytes stand for themselves, the
    others are the letters from U+0100 on, so that a space is "Ġ" (openai/gpt-2 src/encoder.py, bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {chr(256 + i): bytes([b]) for i, b in enumerate(others)}


def read_vocabulary(vocab_path, merges_path):
    """Read and compare both files: ({bytes of a token: its id}, {special token: its id}), or a VocabularyError.

    tiktoken knows no merge list: it joins the two neighbours whose joined bytes have the lowest id. That is the merge
    list's result only if the ids follow the order of the merges, so this is checked here.
    """
    ids = read_ids(vocab_path)
    made = read_merges(merges_path)
    special = {END_OF_TEXT: ids.pop(END_OF_TEXT)} if END_OF_TEXT in ids else {}
    letters = byte_letters()
    missing = [byte for letter, byte in letters.items() if letter not in ids]
    if missing:
        raise VocabularyError(
            f"{vocab_path} lacks {len(missing)} of the 256 single bytes, {missing[0]} first, which any text may need; "
            "take the file from a byte-level vocabulary such as GPT-2's"
        )
    by_id = sorted(ids.keys() - letters.keys(), key=ids.get)
    by_merge = [token for token in made if token not in letters]
    for number, (has, makes) in enumerate(zip_longest(by_id, by_merge), start=1):
        if has != makes:
            raise VocabularyError(
                f"{merges_path} and {vocab_path} disagree: merge {number} makes {makes!r:.60}, the next id stands for "
                f"{has!r:.60} (None: there are no more); take both files from one checkpoint"
            )
    return {spelling: ids[token] for token, spelling in made.items()}, special


def read_ids(path):
    """Read vocab.json: {token in byte letters: id}, the ids being 0 to n - 1."""
    text = read_text(path)
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path} is not JSON ({error}); fetch the file again") from None
    if not isinstance(ids, dict) or any(type(token_id) is not int for token_id in ids.values()):
        raise VocabularyError(f"{path} must be one JSON object of token: id, with integer ids; is it a vocab.json?")
    if sorted(ids.values()) != list(range(len(ids))):
        raise VocabularyError(f"{path} has {len(ids)} tokens, but their ids are not 0 to {len(ids) - 1}, once each")
    return ids


def read_merges(path):
    """Read merges.txt: {token in byte letters: its bytes}, the 256 bytes first, then what the merges make, in order."""
    made = byte_letters()
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line or number == 1 and line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if left not in made or right not in made:
            part = right if left in made else left
            raise VocabularyError(
                f"line {number} of {path} is {line!r:.60}: {part!r:.60} is neither a byte nor made by an earlier line; "
                "it must be two tokens with one space between them"
            )
        if left + right in made:
            raise VocabularyError(
                f"line {number} of {path} makes {left + right!r:.60} a second time; fetch the file again"
            )
        made[left + right] = made[left] + made[right]
    return made


def read_text(path):
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
        text = data.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise VocabularyError(f"cannot read {path}: {error.strerror}; give vocab.json and merges.txt") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is not UTF-8 text (byte {error.start}); fetch the file again") from None
    if len(data) > LONGEST:
        raise VocabularyError(f"{path} is longer than {LONGEST:,} bytes and no GPT-2's; fetch the file again")
    return text
