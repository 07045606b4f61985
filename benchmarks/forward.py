"""The forward pass, the start and the memory against Hugging Face on the CPU: `python benchmarks/forward.py`.

Seeded random weights in the GPT-2 small shape, the same tokens, one run; every figure is a ratio. Needs torch and
transformers (`make benchmarks` installs them).
"""

import subprocess
import sys

import numpy as np
import seeded

OURS = """
import sys; from minigpt2 import GPT2
model = GPT2.from_pretrained(sys.argv[1]); run = model.run({tokens}); run.logits
"""
THEIRS = """
import sys, torch; from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained(sys.argv[1])
with torch.no_grad(): model(torch.tensor([{tokens}])).logits
"""


def forward_table(folder):
    import torch
    from transformers import GPT2LMHeadModel

    from minigpt2 import GPT2

    ours = GPT2.from_pretrained(folder)
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    print(f"\n{'tokens':>8} {'Hugging Face':>14} {'minigpt2':>10} {'ratio':>7}   (seconds, all logits; at most 1.3, 1.2, 1.2)")
    for n, repeats in ((11, 25), (128, 15), (1024, 7)):
        tokens = np.random.default_rng(n).integers(0, 50257, n).tolist()
        batch = torch.tensor([tokens])
        with torch.inference_mode():
            t = seeded.interleaved(repeats, theirs=lambda: theirs(batch).logits, ours=lambda: ours.run(tokens).logits)
        print(f"{n:8} {t['theirs']:14.4f} {t['ours']:10.4f} {t['ours'] / t['theirs']:7.2f}")
    print("minigpt2's time includes keeping every activation; Hugging Face keeps none here.")


def start_table(folder, repeats=5):
    codes = {"theirs": THEIRS, "ours": OURS}
    commands = {
        name: [sys.executable, "-c", code.format(tokens=seeded.PROMPT), str(folder)] for name, code in codes.items()
    }
    t = seeded.interleaved(
        repeats,
        **{name: lambda c=command: subprocess.run(c, check=True, capture_output=True) for name, command in commands.items()},
    )
    print(f"\nfrom process start to the first logits: Hugging Face {t['theirs']:.2f} s, minigpt2 {t['ours']:.2f} s,")
    print(f"    {t['theirs'] / t['ours']:.1f} times faster (at least 5)")


MEMORY = """
held = sum(a.nbytes for a in vars(run).values() if hasattr(a, "nbytes")) - run.resid_post.nbytes  # resid_pre's memory
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak * 1024, held)
"""


def memory_table(folder):
    weights = 4 * 124_439_808
    print(f"\n{'tokens':>8} {'peak of load + run':>20} {'allowed':>9}   (MiB; allowed: 1.2 x float32 weights + what the run holds)")
    for n in (11, 128, 1024):
        code = OURS.format(tokens=(seeded.PROMPT * 100)[:n]) + MEMORY
        output = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
        peak, held = map(int, output.stdout.split())
        print(f"{n:8} {peak / 2**20:20.0f} {(1.2 * weights + held) / 2**20:9.0f}")


if __name__ == "__main__":
    print(seeded.machine())
    start_table(seeded.folder())
    memory_table(seeded.folder())
    forward_table(seeded.folder())
