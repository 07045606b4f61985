"""Text becomes token ids and back, and each token gets a label for figures and tables (Tokenizer.visible).

How text becomes tokens is bpe.py's, what a checkpoint's files say of its vocabulary checkpoint/vocabulary.py's; nothing is fetched.
"""

import operator
import os
import re
import unicodedata
from collections.abc import Iterable

from . import bpe
from .added_tokens import AddedTokens
from .checkpoint.added import END_OF_TEXT
from .checkpoint.vocabulary import read_folder, read_pair
from .errors import VocabularyError  # noqa: F401 - what making a Tokenizer raises
from .fast_bpe import fast_encoder

SURROGATE = re.compile("[\ud800-\udfff]")

# Visible stand-ins. No token of GPT-2 holds one of them (as some do "·" and "→"), and DejaVu Sans can draw them.
SHOWN = {" ": "␣", "\n": "↵", "\t": "⇥"}


class Tokenizer:
    """One vocabulary: `n_vocab` is the number of its tokens, ids 0 to n_vocab - 1, which may be more than a model has.

    `end_of_text` is the id of <|endoftext|>, `bos` that of the token that may stand before a text (in GPT-2 the same);
    None for a vocabulary without. `adds_bos` and `prefix_space` say whether encode puts that, or a space, there.
    """

    def __init__(self, vocab_path: str | os.PathLike[str], merges_path: str | os.PathLike[str]):
        """Read vocab.json and merges.txt and nothing beside them; from_folder reads all that a checkpoint has.

        Raises VocabularyError for files that are missing, broken, not of one vocabulary or not understood.
        """
        self._use(read_pair(vocab_path, merges_path))

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> "Tokenizer":
        """Read the vocabulary of a checkpoint's folder: tokenizer.json, or vocab.json and merges.txt, and with them
        the added tokens and settings of tokenizer_config.json. Raises VocabularyError as the constructor does."""
        tokenizer = cls.__new__(cls)
        tokenizer._use(read_folder(folder))
        return tokenizer

    def _use(self, vocabulary):
        self.path = vocabulary.path
        self.prefix_space, self.adds_bos = vocabulary.prefix_space, vocabulary.adds_bos
        self._encoder = fast_encoder(vocabulary.ids, vocabulary.merges) or bpe.Encoder(
            vocabulary.ids, vocabulary.merges
        )
        self._added = AddedTokens(vocabulary.added)
        self._tokens = {number: token for token, number in vocabulary.ids.items()}  # in byte letters
        self._texts = {token.id: token.text for token in vocabulary.added}
        self.n_vocab = len(self._tokens.keys() | self._texts.keys())
        known = {token.text: token.id for token in vocabulary.added if not token.assumed or token.id in self._tokens}
        self.end_of_text = known.get(END_OF_TEXT)
        self.bos = vocabulary.bos if vocabulary.adds_bos or vocabulary.bos in known.values() else None

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.path)!r}, {self.n_vocab:,} tokens)"

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Turn text into token ids, list[int], as Hugging Face's GPT-2 tokenizer does.

        "<|endoftext|>" in the text, and every other special token, becomes that token; with allow_special=False it is
        text like any other.
        """
        before = [self.bos] if self.adds_bos else []
        return before + self._encode(text, allow_special, self.prefix_space)

    def continuation(self, text: str) -> list[int]:
        """Turn text that goes on from another, an answer after a prompt, into ids: nothing is put before it."""
        return self._encode(text, allow_special=True, prefix_space=False)

    def _encode(self, text, allow_special, prefix_space):
        if not isinstance(text, str):
            raise ValueError(f"encode takes text (str), got {type(text).__name__}; model.run takes token ids")
        if match := SURROGATE.search(text):
            raise ValueError(
                f"character {match.start()} of the text is {match[0]!a}, half of a UTF-16 pair, which is no character; "
                "read the text again with its true encoding, or with errors='replace'"
            )
        ids = []
        for piece in self._added.cut(text, allow_special):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._encoder.encode(" " + piece if prefix_space and piece[0] != " " else piece)
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Turn token ids into text; bytes that are no UTF-8 become U+FFFD, as a character cut between tokens leaves."""
        return b"".join(self._bytes(token) for token in self.check_ids(tokens)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token, which need not be whole characters."""
        return self._bytes(*self.check_ids([token]))

    def _bytes(self, token):
        return (
            self._texts[token].encode("utf-8", "surrogatepass")
            if token in self._texts
            else bpe.unspell(self._tokens[token])
        )

    def visible(self, token: int) -> str:
        r"""Return one token's label for figures and tables: one line, never blank, different for every token of GPT-2.

        ␣ is a space, ↵ a newline, ⇥ a tab; \xNN a control character, or a byte that is no character by itself; \uNNNN
        another character that would not show. A combining mark without its base stands on ◌.
        """
        text = self.token_bytes(token).decode("utf-8", errors="backslashreplace")
        label = "".join(c if c.isprintable() and c != " " else SHOWN.get(c) or escaped(c) for c in text)
        return "◌" + label if unicodedata.category(label[0]).startswith("M") else label

    def visible_tokens(self, tokens: Iterable[int]) -> list[str]:
        """Return the labels of several tokens, list[str]."""
        return [self.visible(token) for token in self.check_ids(tokens)]

    def single_token(self, text: str) -> int:
        """Return the id of the one token that is exactly this text, or raise a ValueError that shows its tokens.

        Exactly this text, also where encode puts a space or a BOS before a text: an answer continues a prompt.
        """
        tokens = self.continuation(text)
        if len(tokens) == 1:
            return tokens[0]
        other = text[1:] if text.startswith(" ") else " " + text
        raise ValueError(
            f"{self.spelled(text)}, {self.spelled(other)}: choose a text that is one token (the space before a word is "
            "part of it)"
        )

    def spelled(self, text: str) -> str:
        labels = self.visible_tokens(self.continuation(text))
        return f"{text!r} is {len(labels)} token{'s' * (len(labels) != 1)} ({'|'.join(labels)})"

    def check_ids(self, tokens: Iterable[int]) -> list[int]:
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
