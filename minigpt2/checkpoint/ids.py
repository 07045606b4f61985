"""The ids and the merges of a vocabulary, from vocab.json and merges.txt or out of tokenizer.json, checked."""

import json
from itertools import pairwise

from ..errors import VocabularyError
from ..terminal import brief
from .tensors import open_file

LONGEST = 1 << 24  # bytes of one file; the longest of GPT-2's has 1.4 million
LONGEST_TOKEN = 4096  # letters; GPT-2's longest token has 128
MOST_TOKENS = 1 << 20


def read_ids(path, ids):
    """Check {token in byte letters: id}, the ids being 0 to n - 1."""
    if not isinstance(ids, dict) or not ids or any(type(token_id) is not int for token_id in ids.values()):
        raise VocabularyError(f"{path} must hold one JSON object of token: id, with integer ids; is it a vocab.json?")
    if len(ids) > MOST_TOKENS or len(max(ids, key=len)) > LONGEST_TOKEN:
        raise VocabularyError(
            f"{path} has {len(ids):,} tokens, the longest of {len(max(ids, key=len)):,} letters; at most {MOST_TOKENS:,} "
            f"of {LONGEST_TOKEN:,} are read"
        )
    if "" in ids:
        raise VocabularyError(f"{path} has a token without a letter, id {ids['']}; fetch the file again")
    ordered = sorted(ids.values())
    if ordered[0] != 0 or any(b != a + 1 for a, b in pairwise(ordered)):
        raise VocabularyError(f"{path} has {len(ids)} tokens, but their ids are not 0 to {len(ids) - 1}, once each")
    return ids


def read_merges(path):
    """Read merges.txt: list of (left, right)."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [read_merge(f"line {i} of {path}", line) for i, line in lines if line and not line.startswith("#version")]


def read_merge(place, merge):
    pair = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) if isinstance(merge, list) else ()
    if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
        raise VocabularyError(f"{place} is {brief(merge)}; it must be two tokens with one space between them")
    return pair


def check_merges(path, ids, merges):
    if len(merges) > MOST_TOKENS:
        raise VocabularyError(f"{path} has {len(merges):,} merges; at most {MOST_TOKENS:,} are read")
    for number, (left, right) in enumerate(merges, start=1):
        if left not in ids or right not in ids or left + right not in ids:
            token = next(t for t in (left, right, left + right) if t not in ids)
            raise VocabularyError(
                f"merge {number} joins {brief(left)} and {brief(right)}, and {path} has no token {brief(token)}; take the ids and the merges from one checkpoint"
            )


def read_object(path):
    text = read_text(path)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path} is not JSON ({error}); fetch the file again") from None
    if not isinstance(fields, dict):
        raise VocabularyError(f"{path} must be one JSON object; fetch the file again")
    return fields


def read_text(path):
    try:
        with open_file(path) as file:
            data = file.read(LONGEST + 1)
        text = data.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise VocabularyError(f"cannot read {path}: {error.strerror}; give vocab.json and merges.txt") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is not UTF-8 text (byte {error.start}); fetch the file again") from None
    if len(data) > LONGEST:
        raise VocabularyError(f"{path} is longer than {LONGEST:,} bytes and no GPT-2's; fetch the file again")
    return text


def refused(path, key, value, why):
    return VocabularyError(f"{path}: {key} is {brief(value)}; {why}")
