"""Compare minigpt2 with Hugging Face's GPT2LMHeadModel, side by side, on seeded weights. Needs torch and transformers.

    python tests/live_parity.py            every case, as a table; exit code 1 if one fails
    python tests/live_parity.py --quick    without the 1,024 tokens

In float64 both must agree, because there rounding is some eight orders of magnitude smaller than any mistake. In
float32 they cannot; there the question is who is nearer to the float64 truth. A single error is luck, so what is
compared is the geometric mean, over every position of every text, of the largest error of a logit: no one position
decides it. Ours must be no more than one and a half times Hugging Face's. test_parity.py runs the same cases.
"""

import argparse
import ctypes
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import ODD, SMALL, cast, random_tokens, random_weights  # noqa: E402

from minigpt2 import GPT2, Config  # noqa: E402
from minigpt2.checkpoint.weights import flatten  # noqa: E402

# Two float64 programs that add thousands of products in different orders, through 12 layers, on logits of up to some
# tens, differ by 1e-13 to 1e-11; the smallest mistake known to us (eps outside the root) moves logits by 1e-5 or more.
FLOAT64_LOGITS = 1e-10
# Each BLAS kernel adds in an order of its own: half as much again is allowed for it.
FLOAT32_RATIO = 1.5

CONFIGS = {
    "gpt2": SMALL,
    "distilgpt2": replace(SMALL, n_layer=6),
    "medium-like": Config(n_layer=24, n_head=5, n_embd=65, n_ctx=64, n_vocab=101, d_mlp=260),
    "odd": ODD,
}
CASES = [  # config, kind, lengths
    ("odd", "plain", (5, 13)),
    ("odd", "trained-like", (5, 13)),
    ("medium-like", "plain", (11, 64)),
    ("distilgpt2", "plain", (11,)),
    ("gpt2", "plain", (1, 11, 128)),
    ("gpt2", "trained-like", (1, 11, 128, 1024)),
]


def hugging_face(config, weights, dtype, attention="sdpa"):
    """Hugging Face's model with our weights. attention is "sdpa", its default, or "eager", which shows its patterns."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        hf = GPT2LMHeadModel(
            GPT2Config(
                n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd, n_positions=config.n_ctx,
                vocab_size=config.n_vocab, n_inner=config.d_mlp, layer_norm_epsilon=config.layer_norm_epsilon,
                bos_token_id=0, eos_token_id=0, attn_implementation=attention,
            )
        )  # fmt: skip
    hf.load_state_dict(
        {f"transformer.{name}": torch.tensor(array.astype(dtype)) for name, array in flatten(weights).items()},
        strict=False, assign=True,
    )  # fmt: skip
    hf.tie_weights()
    left = [name for name, parameter in hf.named_parameters() if parameter.is_meta]
    assert not left, f"{left} were not given to Hugging Face's model"
    return hf.eval()


def hugging_face_run(hf, texts):
    """What Hugging Face's model computes, under our names, for each text of a batch: logits, resid_pre, resid_post, and
    pattern where it has them. Its hidden_states are every block's input and, last, the output of ln_f: the last block's
    own output is caught.
    """
    import torch

    kept, eager = [], hf.config._attn_implementation == "eager"
    handle = hf.transformer.h[-1].register_forward_hook(
        lambda module, args, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        out = hf(torch.tensor(texts), output_hidden_states=True, output_attentions=eager, use_cache=False)
    handle.remove()
    stream = torch.stack([*out.hidden_states[:-1], kept[0]])  # [n_layer + 1, n_texts, n_seq, n_embd]
    made = []
    for i in range(len(texts)):
        arrays = {"logits": out.logits[i], "resid_pre": stream[:-1, i], "resid_post": stream[1:, i]}
        if eager:
            arrays["pattern"] = torch.stack([pattern[i] for pattern in out.attentions])
        made.append({name: array.numpy() for name, array in arrays.items()})
    return made


@dataclass
class Comparison:
    """Texts of one length through one model."""

    case: str
    size: float  # of the float64 logits
    float64: dict  # name: (largest |ours - Hugging Face's|, what is allowed)
    float32: (
        dict  # "ours", "eager", "sdpa": error of the float32 logits: (worst text, median text, mean over positions)
    )

    @property
    def faults(self):
        faults = [
            f"{self.case}: in float64, {name} differs by {difference:.1e}, more than {bound:.1e}"
            for name, (difference, bound) in self.float64.items()
            if not difference <= bound
        ]
        ours, eager, sdpa = (self.float32[name][-1] for name in ("ours", "eager", "sdpa"))
        if not ours <= FLOAT32_RATIO * max(eager, sdpa):
            faults.append(
                f"{self.case}: in float32, our error (geometric mean over positions) is {ours:.2e}, more than "
                f"{FLOAT32_RATIO} x Hugging Face's {eager:.2e} (eager) and {sdpa:.2e} (sdpa)"
            )
        return faults


def compare(name, kind, lengths):
    """Compare one model on texts of several lengths; yields a Comparison for each length."""
    config, narrow = CONFIGS[name], {}
    weights = random_weights(config, np.float32, seed=3, kind=kind)
    batches = [[random_tokens(config, n_seq, seed) for seed in range(texts_of(config, n_seq))] for n_seq in lengths]

    model = GPT2(config, weights)
    narrow["ours"] = [[run.logits for run in model.run_batch(batch)] for batch in batches]
    for attention in ("eager", "sdpa"):
        hf = hugging_face(config, weights, np.float32, attention)
        narrow[attention] = [[made["logits"] for made in hugging_face_run(hf, batch)] for batch in batches]
        del hf

    wide = GPT2(config, cast(weights, np.float64))
    hf = {attention: hugging_face(config, wide.weights, np.float64, attention) for attention in ("eager", "sdpa")}
    for i, batch in enumerate(batches):
        runs = wide.run_batch(batch)
        float64 = dict.fromkeys(("logits", "logits (sdpa)", "resid_post", "pattern"), (0.0, 0.0))
        for run, theirs, sdpa in zip(runs, hugging_face_run(hf["eager"], batch), hugging_face_run(hf["sdpa"], batch)):
            # the stream's numbers grow into the hundreds; they are allowed the same rounding as a share of their size
            size = max(1.0, float(abs(run.resid_post).max()))
            for array, difference, allowed in (
                ("logits", largest(run.logits, theirs["logits"]), FLOAT64_LOGITS),
                ("logits (sdpa)", largest(run.logits, sdpa["logits"]), FLOAT64_LOGITS),
                ("resid_post", largest(run.resid_post, theirs["resid_post"]), FLOAT64_LOGITS * size),
                ("pattern", largest(run.pattern, theirs["pattern"]), FLOAT64_LOGITS),
            ):
                float64[array] = max(float64[array], (difference, allowed))
        errors = {}
        for who, logits in narrow.items():
            by_position = np.array([errors_by_position(a, run.logits) for a, run in zip(logits[i], runs)])
            by_text = by_position.max(axis=1)
            errors[who] = float(by_text.max()), float(np.median(by_text)), float(np.exp(np.log(by_position).mean()))
        yield Comparison(
            f"{name}, {kind}, {len(batch)} x {len(batch[0])} tokens",
            max(float(abs(run.logits).max()) for run in runs),
            float64,
            errors,
        )


def texts_of(config, n_seq):
    """How many texts of a length. The largest error in one text scatters by a factor of two from text to text, because
    one attention score that decides between two keys multiplies a rounding by a hundred: so there are hundreds of
    positions in every case but that of one token, where no score decides anything."""
    return 50 if config.n_embd < 100 else 30 if n_seq <= 16 else 6 if n_seq <= 128 else 1


def largest(a, b):
    return float(errors_by_position(a, b).max())


def errors_by_position(a, b):
    """max |a - b| for each entry of the first axis; one at a time, so that no third array of all logits is needed."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return np.array([abs(np.subtract(x, y, dtype=np.float64)).max() for x, y in zip(a, b)])


def blas_kernel():
    """The kernel that NumPy's OpenBLAS chose for this processor (OPENBLAS_CORETYPE chooses another)."""
    for path in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        library = ctypes.CDLL(str(path))  # already loaded: the same one
        for name in ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename"):
            if corename := getattr(library, name, None):
                corename.restype = ctypes.c_char_p
                return f"OpenBLAS {corename().decode()}"
    return "a BLAS that does not name its kernel"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="leave out the texts of more than 128 tokens")
    quick = parser.parse_args().quick
    import torch
    import transformers

    print(
        f"{blas_kernel()}\nminigpt2 (NumPy {np.__version__}), transformers {transformers.__version__}, torch {torch.__version__}"
    )
    print(
        "Largest error of a logit. float64: between the two programs, over all texts. float32: from the float64 result,"
    )
    print("in the worst text, in a typical text (median) and at a position (geometric mean: what is compared).\n")
    columns = "case|largest logit|HF eager, float32|HF sdpa, float32|ours, float32|float64: logits|resid_post|pattern"
    print("| " + columns.replace("|", " | ") + " |")
    print("|---" * 8 + "|")
    faults = []
    for name, kind, lengths in CASES:
        for c in compare(name, kind, [n for n in lengths if n <= 128 or not quick]):
            logits = max(c.float64["logits"][0], c.float64["logits (sdpa)"][0])
            float32 = [", ".join(f"{e:.1e}" for e in c.float32[who]) for who in ("eager", "sdpa", "ours")]
            float64 = [f"{d:.1e}" for d in (logits, c.float64["resid_post"][0], c.float64["pattern"][0])]
            print("| " + " | ".join([f"{c.case:<36}", f"{c.size:.1f}", *float32, *float64]) + " |", flush=True)
            faults += c.faults
    good = f"float64 within {FLOAT64_LOGITS:.0e}, float32 within {FLOAT32_RATIO} x Hugging Face's own error"
    print("\n" + ("\n".join(faults) or good))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
