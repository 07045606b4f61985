"""Write parity.npz: what Hugging Face's GPT2LMHeadModel computes for seeded weights. Needs torch and transformers.

    python tests/golden/make_parity.py

Weights are not stored: tests/models.py makes them from the seed, the same on every machine, and a checksum in the file
says so. Everything else about the run is inside the file, under "about": versions, sizes, seeds, token ids.
"""

import json
import platform
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from models import ODD, checksum, random_tokens, random_weights  # noqa: E402

from minigpt2 import Config  # noqa: E402

FILE = Path(__file__).with_name("parity.npz")
COMMAND = "python tests/golden/make_parity.py"

CONFIGS = {
    "odd": ODD,
    "eps": Config(n_layer=2, n_head=3, n_embd=12, n_ctx=7, n_vocab=17, d_mlp=29, layer_norm_epsilon=0.1),
}
CASES = [  # name, config, kind, seed, n_seq
    *[(f"odd, {kind}, {n} tokens", "odd", kind, 1, n) for kind in ("plain", "trained-like") for n in (1, 5, 13)],
    *[(f"eps 0.1, plain, {n} tokens", "eps", "plain", 2, n) for n in (1, 7)],
]


def main():
    import torch
    import transformers
    from live_parity import hugging_face, hugging_face_run

    arrays, cases = {}, []
    for name, config_name, kind, seed, n_seq in CASES:
        config = CONFIGS[config_name]
        weights, tokens = random_weights(config, np.float64, seed, kind), random_tokens(config, n_seq, seed)
        for dtype in (np.float64, np.float32):
            made = hugging_face_run(hugging_face(config, weights, dtype, "eager"), [tokens])[0]
            for array_name, array in made.items():
                arrays[f"{name}/{np.dtype(dtype).name}/{array_name}"] = array
        about = {"name": name, "config": vars(config), "kind": kind, "seed": seed, "tokens": tokens}
        cases.append({**about, "weights": checksum(weights)})
    about = {
        "made by": COMMAND,
        "versions": {
            "transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version(), "machine": platform.machine(),
        },
        "cases": cases,
    }  # fmt: skip
    np.savez_compressed(FILE, about=json.dumps(about), **arrays)
    print(f"{FILE}: {len(cases)} cases, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
