"""Documents to batches of token ids, each with the weight of every prediction in the loss.

A row of a batch is either documents one after the other with <|endoftext|> between them, cut where the row ends, or one
sequence of random tokens over and over. Every other row starts with <|endoftext|>; the rest start with their first
document, since the examples are run without it. A batch depends on (seed, step) alone: that makes training resumable.
"""

import functools
import random

import numpy as np

from . import corpus, words

LENGTHS = {32: 5, 64: 3, 128: 2}  # predictions a row, and how often: mostly short, but every position gets its turn
DOCUMENTS = [corpus.recall, corpus.indirect_object, corpus.fact, corpus.story]
DOCUMENT_ODDS = [40, 35, 10, 15]
RANDOM_ROWS = 0.25

ANSWER = 3.0  # weight of a word that the text determines
WORD = 1.0  # of any other word
NOISE = 0.05  # of a random token that nothing determines


def encode_document(text, encode):
    """Token ids and their weights as targets; corpus.py's marks go, each giving its weight to the token behind it."""
    tokens, weights = [], []
    for i, part in enumerate(text.split(corpus.MARK)):
        ids = encode(part)
        tokens += ids
        weights += [ANSWER if i else WORD] + [WORD] * (len(ids) - 1)
    return tokens, weights


def text_row(rng, encode, end_of_text, n):
    """n tokens of documents, and their weights."""
    tokens, weights = ([end_of_text], [WORD]) if rng.random() < 0.5 else ([], [])
    while len(tokens) < n:
        ids, w = encode_document(rng.choices(DOCUMENTS, DOCUMENT_ODDS)[0](rng), encode)
        tokens += [*ids, end_of_text]
        weights += [*w, WORD]
    return tokens[:n], weights[:n]


@functools.cache
def held_out_names(encode):
    """The held-out full names as pairs of tokens, which even random tokens must not make."""
    pairs = set()
    for first in words.FIRST_NAMES:
        for last in words.SURNAMES:
            if corpus.held_out_name(first, last):
                pairs |= {(encode(first)[-1], encode(f" {last}")[0]), (encode(f" {first}")[-1], encode(f" {last}")[0])}
    return frozenset(pairs)


def random_row(rng, encode, end_of_text, n):
    """n tokens of one random sequence, repeated at least once, and their weights."""
    start = [end_of_text] if rng.random() < 0.5 else []
    longest = (n - 1) // 2
    even, short = rng.randint(4, longest), int(3 * (longest / 3) ** rng.random())  # short ones are learned first
    length = rng.choice([even, short])
    sequence = corpus.induction(rng, end_of_text, length, never=held_out_names(encode))  # any token but <|endoftext|>
    tokens, weights = list(start), [NOISE] * (len(start) + len(sequence) + 1)
    while len(tokens) < n:
        tokens += sequence
    return tokens[:n], (weights + [ANSWER] * n)[:n]


def batch(seed, step, encode, n_vocab, predictions, lengths=LENGTHS):
    """Training batch number `step`: tokens [rows, n + 1] and weights [rows, n], weights[:, i] for tokens[:, i + 1].

    All rows of a batch have one length n, drawn from `lengths`; there are as many as make up `predictions`.
    """
    rng = random.Random(f"minigpt2 {seed} {step}")
    n = rng.choices(list(lengths), lengths.values())[0]
    tokens, weights = [], []
    for _ in range(predictions // n):
        if rng.random() < RANDOM_ROWS:
            t, w = random_row(rng, encode, n_vocab - 1, n + 1)
        else:
            t, w = text_row(rng, encode, n_vocab - 1, n + 1)
        tokens.append(t)
        weights.append(w)
    return np.array(tokens), np.array(weights, np.float32)[:, 1:]
