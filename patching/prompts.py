"""A pair of prompts and the two answers that tell them apart: are they aligned, position by position?"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from minigpt2 import GPT2
from minigpt2.terminal import fit, width


@dataclass(frozen=True)
class PromptPair:
    """A clean and a corrupted text, and the next token that each makes likely.

    answers are (clean answer, corrupted answer), each one token, or a tuple of such answers, of which any will do; a
    leading space is part of it: " Jones". bos puts the vocabulary's BOS, in GPT-2 <|endoftext|>, before both texts, unless
    its files put it there already; an answer gets neither BOS nor space. Nothing is tokenised until there is a model: see
    `tokens`.
    """

    clean: str
    corrupted: str
    answers: tuple  # of two texts, or of two ids
    bos: bool = False
    ids: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # (clean ids, corrupted ids) when made from tokens

    @classmethod
    def from_tokens(cls, clean: Sequence[int], corrupted: Sequence[int], answers: Sequence[int]) -> "PromptPair":
        """A pair given as token ids, for models without a vocabulary: two lists of ids, and two answer ids."""
        try:
            return cls(None, None, tuple(answers), ids=(tuple(clean), tuple(corrupted)))  # type: ignore[arg-type]
        except TypeError:
            given = ", ".join(type(part).__name__ for part in (clean, corrupted, answers))
            raise ValueError(f"from_tokens takes two lists of token ids and two answer ids, got {given}") from None

    def __post_init__(self):
        if not isinstance(self.answers, (tuple, list)) or len(self.answers) != 2:
            got = len(self.answers) if isinstance(self.answers, (tuple, list)) else type(self.answers).__name__
            raise ValueError(f"answers must be two, (clean answer, corrupted answer), got {got}")
        if not all(map(len, self.sets)):
            raise ValueError("answers must be two, (clean answer, corrupted answer), and one of them is an empty set")
        if self.ids is None and not all(
            isinstance(text, str) for text in (self.clean, self.corrupted, *self.sets[0], *self.sets[1])
        ):
            raise ValueError("PromptPair takes texts and texts as answers; PromptPair.from_tokens takes token ids")

    def __repr__(self) -> str:
        clean, corrupted = self.ids or (self.clean, self.corrupted)
        return f"PromptPair({clean!r} -> {self.answers[0]!r}, {corrupted!r} -> {self.answers[1]!r})"

    @property
    def sets(self) -> Any:
        """The answers of each side, (clean answers, corrupted answers): one each, or several of which any will do."""
        return tuple(tuple(some) if isinstance(some, (tuple, list)) else (some,) for some in self.answers)

    def answer_sets(self, model: GPT2) -> Any:
        """The token ids of `sets`, or a ValueError."""
        one = model.tokenizer.single_token if self.ids is None else lambda token: token
        sets = tuple(tuple(int(model.check_tokens([one(answer)])[0]) for answer in some) for some in self.sets)
        if both := set(sets[0]) & set(sets[1]):
            raise ValueError(f"both answers are token {min(both)}: the metric compares two different tokens")
        for some in sets:
            if len(set(some)) < len(some):
                raise ValueError(f"a set of answers has token {max(some, key=some.count)} twice")
        return sets

    def tokens(self, model: GPT2, may_be_equal: bool = False) -> "PairTokens":
        """Tokenise with the model's vocabulary and check. Returns PairTokens, or raises ValueError with the remedy.

        may_be_equal: the two runs differ in something else than their tokens, such as what is overwritten in them.
        """
        if self.ids is None:
            bos = [beginning_of_sequence(model)] if self.bos and not model.tokenizer.adds_bos else []
            texts = [bos + model.encode(text) for text in (self.clean, self.corrupted)]
            answers = self.answer_sets(model)
        else:
            texts, answers = [list(ids) for ids in self.ids], None
        clean, corrupted = map(model.check_tokens, texts)
        if len(clean) != len(corrupted):
            raise ValueError(
                f"clean has {len(clean)} tokens, corrupted {len(corrupted)}: patching compares position by position, so "
                f"reword one of them.\n{aligned(model, clean, corrupted)}"
            )
        answers = [some[0] for some in answers or self.answer_sets(model)]
        tokens = PairTokens(tuple(map(int, clean)), tuple(map(int, corrupted)), (int(answers[0]), int(answers[1])))
        if not (tokens.differing or may_be_equal):
            raise ValueError("clean and corrupted are the same tokens, so there is nothing to patch; change a token")
        return tokens

    def until(self, model: GPT2, position: int) -> "PromptPair":
        """This pair as token ids, cut after a position: the metric is then read there, which later tokens cannot change."""
        tokens, n = self.tokens(model), len(self.tokens(model).clean)
        if isinstance(position, bool) or not isinstance(position, int) or not -n <= position < n:
            raise ValueError(
                f"at is where the metric is read, a position from 0 to {n - 1} (or -{n} to -1), got {position!r:.40}"
            )
        stop = position % n + 1
        return PromptPair.from_tokens(tokens.clean[:stop], tokens.corrupted[:stop], self.answer_sets(model))

    def warnings(self, model: GPT2) -> list[str]:
        """Say what in the texts is seldom meant, list of sentences: a space at the end, an answer without its space, a
        BOS twice. A pair of token ids gets none."""
        if self.ids is not None:
            return []
        texts, found = {"clean": self.clean, "corrupted": self.corrupted}, []
        for name, text in texts.items():
            if text.endswith(" "):
                found.append(
                    f"the {name} text ends in a space, which is part of the word that follows it: end the text with a word, "
                    "and begin the answers with the space"
                )
        for answer in dict.fromkeys(self.sets[0] + self.sets[1]):
            spaced = re.compile(rf" {re.escape(answer)}(?!\w)")
            if answer[:1].isalnum() and any(spaced.search(text) and not text[-1].isspace() for text in texts.values()):
                found.append(
                    f"the answer {answer!r} has no space, and in the text it has one: {' ' + answer!r} is another token"
                )
        tokens, bos = self.tokens(model), model.tokenizer.bos
        for name in texts:
            if bos is not None and getattr(tokens, name)[:2] == (bos, bos):
                found.append(f"the {name} text begins with {model.labels([bos])[0]} twice: take one of them away")
        return found


class TokenIds(NamedTuple):
    clean: tuple[int, ...]  # n_seq ids
    corrupted: tuple[int, ...]  # n_seq ids
    answers: tuple[int, int]  # (clean answer, corrupted answer), of a set of them its first


class PairTokens(TokenIds):
    """The token ids of a pair."""

    @cached_property
    def differing(self) -> tuple[int, ...]:
        """The positions at which the two texts differ, in ascending order."""
        return tuple(pos for pos, (a, b) in enumerate(zip(self.clean, self.corrupted)) if a != b)

    @property
    def first_difference(self) -> int:
        return self.differing[0]


def beginning_of_sequence(model):
    tokenizer = model.tokenizer
    token = tokenizer.end_of_text if tokenizer.bos is None else tokenizer.bos
    if token is None:
        raise ValueError(f"bos=True begins with <|endoftext|>, and the vocabulary of {model.name} has no such token")
    return token


def aligned(model, clean, corrupted):
    """Both tokenisations in columns, one line each, the first difference marked below."""
    top, bottom = model.labels(clean), model.labels(corrupted)
    pairs = [(a, b, max(width(a), width(b))) for a, b in zip(top, bottom)]
    n = len(pairs)
    line = lambda name, cells, rest: f"  {name:<10} " + " | ".join([*cells, *rest])  # noqa: E731
    mark = next((i for i in range(n) if clean[i] != corrupted[i]), n)
    offset = 2 + 10 + 1 + sum(w + 3 for _, _, w in pairs[:mark])
    return "\n".join(
        [
            line("clean", [fit(a, w) for a, _, w in pairs], top[n:]),
            line("corrupted", [fit(b, w) for _, b, w in pairs], bottom[n:]),
            " " * offset + f"^ first difference, position {mark}",
        ]
    )
