"""Where a role is in a text: the position of a number, of a piece of the clean text, or of its characters."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..prompts import PromptPair, beginning_of_sequence


class Span(NamedTuple):
    """A piece of the clean text by its characters: the role's position is that of the token that ends it."""

    start: int
    stop: int


def position(model, pair: PromptPair, spot: Any, role: str) -> int:
    """The position in the texts of a pair that a role's number, piece of text or Span means."""
    n = len(pair.tokens(model).clean)
    if isinstance(spot, int) and not isinstance(spot, bool):
        if not -n <= spot < n:
            raise ValueError(f"the role {role!r} is at position {spot}, and the text has {n} tokens (0 to {n - 1})")
        return spot % n
    if pair.ids is not None:
        raise ValueError(f"the role {role!r} is a piece of text, and the pair was made from token ids: give a number")
    span = spot if isinstance(spot, Span) else find(pair.clean, spot, role)
    ends = token_ends(model, pair)
    size = len(pair.clean[: span.stop].encode())
    return next(i for i, end in enumerate(ends) if end >= size)


def find(text: str, piece: Any, role: str) -> Span:
    """Where a piece stands in a text: it must be there once, or say which one is meant, "Mary#2"."""
    if not isinstance(piece, str) or not piece:
        raise ValueError(f"the role {role!r} needs a position or a piece of the clean text, got {piece!r:.60}")
    word, mark, which = piece.rpartition("#")
    counted = bool(mark and word and which.isdecimal() and piece not in text)
    word, which = (word, int(which)) if counted else (piece, 1)
    starts = [i for i in range(len(text)) if text.startswith(word, i)]
    if not counted and len(starts) > 1:
        raise ValueError(f"the role {role!r}: {word!r} is {len(starts)} times in the clean text; say {word + '#1'!r}")
    if not 1 <= which <= len(starts):
        raise ValueError(f"the role {role!r}: {piece!r} is not in the clean text")
    return Span(starts[which - 1], starts[which - 1] + len(word))


def token_ends(model, pair: PromptPair) -> list[int]:
    """How many bytes of the clean text end with each token; what stands before the text has none of it."""
    tokenizer, ids = model.tokenizer, pair.tokens(model).clean
    before = 1 if tokenizer.adds_bos or pair.bos and ids[0] == beginning_of_sequence(model) else 0
    sizes = [0] * before + [len(tokenizer.token_bytes(token)) for token in ids[before:]]
    extra = sum(sizes) - len(pair.clean.encode())  # a space that the vocabulary puts before every text
    ends, total = [], -extra
    for size in sizes:
        total += size
        ends.append(total if size else 0)
    return ends


MOST = 20  # faults that a message lists


def listed(what: str, faults: Iterable[str], skip: bool = False) -> str:
    """A message with one line for each fault."""
    faults = list(faults)
    more = [f"and {len(faults) - MOST} more"] if len(faults) > MOST else []
    remedy = "" if skip else "; mend them, or leave them out with skip=True"
    return "\n  ".join([what + remedy, *faults[:MOST], *more])
