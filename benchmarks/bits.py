"""Checksums of what runs, generation, sweeps and attribution compute, a line each: to tell whether two checkouts give the
same bits.

    python benchmarks/bits.py > before.txt        in one checkout; then in the other, and: diff before.txt after.txt

The bundled model, and seeded weights in float32 and float64; every site with eight sets of options. Only bits of one machine,
one set of libraries and one number of BLAS threads can be compared.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from models import ODD, random_tokens, random_weights  # noqa: E402

from minigpt2 import GPT2, Config  # noqa: E402
from minigpt2.generate import generate, generate_plain  # noqa: E402
from patching import SITES, PromptPair, attribute, sweep  # noqa: E402

ACTIVATIONS = "resid_pre resid_mid resid_post attn_out mlp_out q k v z pattern logits".split()
OPTIONS = (
    {},
    {"direction": "noising"},
    {"alpha": 0.3},
    {"positions": "all"},
    {"metric": "normalised"},
    {"metric": "clean_log_probability"},
    {"layers": [1, 0], "positions": [3, 2]},
    {"keep_logits": True},
)


def checksum(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


def cases():
    """(name, model, pair)."""
    texts = ("Michelle Jones was a top-notch student. Michelle", "Michelle Smith was a top-notch student. Michelle")
    yield "bundled", GPT2.from_pretrained("bundled"), PromptPair(*texts, (" Jones", " Smith"))
    odd = PromptPair.from_tokens([3, 1, 4, 1, 5, 9, 2, 6], [3, 1, 7, 1, 6, 9, 2, 6], (2, 8))
    for dtype in (np.float64, np.float32):
        yield f"odd {np.dtype(dtype)}", GPT2(ODD, random_weights(ODD, dtype)), odd
    wider = Config(n_layer=4, n_head=4, n_embd=64, n_ctx=64, n_vocab=101, d_mlp=256)
    clean = random_tokens(wider, 40)
    corrupted = [(token + (i in (7, 9))) % 101 for i, token in enumerate(clean)]
    yield "40 tokens", GPT2(wider, random_weights(wider, np.float32)), PromptPair.from_tokens(clean, corrupted, (2, 8))


def lines(name, model, pair):
    tokens = pair.tokens(model).clean
    run, n = model.run(tokens), min(5, model.config.n_ctx - len(tokens))
    for activation in ACTIVATIONS:
        yield f"run {activation} {checksum(getattr(run, activation))}"
    yield f"resume {checksum(model.resume(run.resid_mid[1], 1, 'resid_mid'))} {checksum(model.resume(run.resid_pre[2], 2))}"
    yield f"generate {list(generate(model, tokens, n))} {list(generate(model, tokens, n, temperature=1.0, seed=3))}"
    yield f"generate_plain {list(generate_plain(model, tokens, n))}"
    for site in SITES:
        for options in OPTIONS:
            if site == "pattern_entry" and (options.get("positions") == "all" or name == "40 tokens"):
                continue
            swept = sweep(model, pair, site, **options)
            yield f"sweep {site} {options} {checksum(swept.values)} {swept.clean_value} {swept.corrupted_value}"
            if options.get("keep_logits"):
                yield f"logits {site} {checksum(swept.logits)}"
            else:
                yield f"attribute {site} {options} {checksum(attribute(model, pair, site, **options).values)}"


if __name__ == "__main__":
    for name, model, pair in cases():
        for line in lines(name, model, pair):
            print(name, line)
