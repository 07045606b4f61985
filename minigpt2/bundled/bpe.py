"""Learn a byte-level BPE vocabulary from text and write it as GPT-2's vocab.json and merges.txt.

Byte pair encoding (Sennrich et al. 2016, section 3.2): every word starts as single bytes; the pair of neighbouring
pieces that occurs most often becomes one new token; repeat. On bytes, and with words that keep the space before them,
as in GPT-2 (Radford et al. 2019, section 2.2; openai/gpt-2 src/encoder.py).

The ids: the 256 bytes in GPT-2's order, then one per merge in the order of learning, then <|endoftext|>.
"""

import json
from collections import Counter

from ..bpe import LETTERS, spell, split
from ..checkpoint.added import END_OF_TEXT


def merge(word, pair):
    """The word (a tuple of pieces) with every occurrence of the pair, from the left, made one piece."""
    out, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def learn(texts, n_merges):
    """The n_merges merges that the texts teach, in order. Equal counts: the alphabetically first pair, so that the
    result is the same everywhere. Words are counted once, and a merge recounts only the words that it changes."""
    counts = Counter(word for text in texts for word in split(text))
    words = {tuple(spell(word)): n for word, n in counts.items()}
    pairs, places = Counter(), {}
    for word, n in words.items():
        for pair in zip(word, word[1:]):
            pairs[pair] += n
            places.setdefault(pair, set()).add(word)
    merges = []
    while len(merges) < n_merges:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None:
            raise ValueError(f"the text has only {len(merges)} merges to learn, {n_merges} were asked for")
        merges.append(best)
        for word in sorted(places[best]):
            n, new = words.pop(word), merge(word, best)
            words[new] = n
            for pair in zip(word, word[1:]):
                pairs[pair] -= n
                places[pair].discard(word)
                if not pairs[pair]:
                    del pairs[pair]
            for pair in zip(new, new[1:]):
                pairs[pair] += n
                places.setdefault(pair, set()).add(new)
    return merges


def write(folder, merges):
    """vocab.json and merges.txt, in GPT-2's format."""
    names = [*LETTERS, *(a + b for a, b in merges), END_OF_TEXT]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
