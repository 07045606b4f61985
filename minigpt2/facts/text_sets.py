"""The sets of prompts that published numbers about circuits are means over, from their compact form to token ids.

greater_than.json: "The NOUN lasted from the year XXYY to the year XX". ioi_heads.json: templates of indirect objects with their
fillers. Both name where they come from; tests/golden/make_text_sets.py makes them.
"""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent


def text_set(name):
    """A set by the name of its file in this folder, or {"file": its name, and what is to be read instead of what it has}."""
    given = {"file": name} if isinstance(name, str) else name
    return {**json.loads((HERE / given["file"]).read_text(encoding="utf-8")), **given}


def greater_than_texts(found):
    """[(clean ids, corrupted ids, YY)]."""
    start, middle, end = found["ids"].values()
    texts = []
    for noun, century, year in re.findall(r"(\D+?)(\d\d)(\d\d)(?: |$)", found["pairs"]):
        noun, century = [found["nouns"][noun]], [found["centuries"][century]]
        both = ([*start, *noun, *middle, *century, found["two_digits"][y], *end, *century] for y in (int(year), 1))
        texts.append((*both, int(year)))
    return texts


def head_circuit_texts(found, name, bos):
    """([(clean ids, corrupt ids, (answer, wrong answer))], {(layer, head): positions of the circuit})."""
    template, words, front = found["templates"][name], found["words"], [found["end_of_text"]] if bos else []

    def filled(fillers):
        fillers = iter(fillers.split())
        return front + [words[next(fillers)] if token is None else token for token in template["template"]]

    texts = []
    for line, answers in zip(template["prompts"], template["answers"]):
        clean, corrupt = line.split("|")
        texts.append((filled(clean), filled(corrupt), tuple(words[word] for word in answers.split())))
    heads = {}
    for where, some in found["circuit"].items():
        for layer, head in some:
            heads.setdefault((layer, head), []).append(template["positions"][where] + len(front))
    return texts, heads
