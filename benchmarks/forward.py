"""The forward pass, the start and the memory against Hugging Face on the CPU: `python benchmarks/forward.py`.

Seeded random weights in the GPT-2 small shape, the same tokens, one run; every figure is a ratio. Needs torch and
transformers (`make benchmarks` installs them).
"""

import statistics
import subprocess
import sys

import numpy as np
import seeded

OURS = """
import sys; from minigpt2 import GPT2
model = GPT2.from_pretrained(sys.argv[1])
def run(tokens): return model.run(tokens)
run({tokens}).logits
"""
KEEPING_NOTHING = OURS.replace("model.run(tokens)", "model.run(tokens, keep=[])")
THEIRS = """
import sys, torch; from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained(sys.argv[1])
def run(tokens):
    with torch.inference_mode(): return model(torch.tensor([tokens]))
run({tokens}).logits
"""
TIMED = """
import statistics, time
seconds = []
for _ in range({repeats}):
    start = time.perf_counter()
    run({tokens}).logits
    seconds.append(time.perf_counter() - start)
print(statistics.median(seconds))
"""


def process(code, folder):
    """Run code in a Python of its own; returns what it prints."""
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def forward_table(folder, rounds=3):
    """Each program in a process of its own, in turn: in one process the idle threads of one BLAS slow down the other."""
    print(
        "\nseconds to all logits, and their ratio to Hugging Face's (at most 1.3, 1.2, 1.2), which keeps no activations"
    )
    print(f"{'tokens':>8}{'Hugging Face':>14}{'minigpt2, keeping nothing':>27}{'':>6}{'keeping everything':>20}")
    for n, repeats in ((11, 25), (128, 15), (1024, 5)):
        tokens = np.random.default_rng(n).integers(0, 50257, n).tolist()
        seconds = {THEIRS: [], KEEPING_NOTHING: [], OURS: []}
        for _ in range(rounds):
            for code, times in seconds.items():
                timed = (code + TIMED).format(tokens=tokens, repeats=repeats)
                times.append(float(process(timed, folder)))
        theirs, nothing, everything = map(statistics.median, seconds.values())
        ours = f"{nothing:27.4f}{nothing / theirs:6.2f}{everything:20.4f}{everything / theirs:6.2f}"
        print(f"{n:8}{theirs:14.4f}{ours}", flush=True)


def start_table(folder, repeats=5):
    codes = {"theirs": THEIRS, "ours": OURS}
    t = seeded.interleaved(
        repeats,
        **{name: lambda code=code: process(code.format(tokens=seeded.PROMPT), folder) for name, code in codes.items()},
    )
    print(f"\nfrom process start to the first logits: Hugging Face {t['theirs']:.2f} s, minigpt2 {t['ours']:.2f} s,")
    print(f"    {t['theirs'] / t['ours']:.1f} times faster (at least 5)")


MEMORY = """
run = run({tokens}); run.logits
held = sum(a.nbytes for a in vars(run).values() if hasattr(a, "nbytes")) - run.resid_post.nbytes  # resid_pre's memory
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak * 1024, held)
"""


def memory_table(folder):
    weights = 4 * 124_439_808
    print(
        f"\n{'tokens':>8} {'peak of load + run':>20} {'allowed':>9}   (MiB; 1.2 x float32 weights + what the run holds)"
    )
    for n in (11, 128, 1024):
        code = (OURS + MEMORY).format(tokens=(seeded.PROMPT * 100)[:n])
        peak, held = map(int, process(code, folder).split())
        print(f"{n:8} {peak / 2**20:20.0f} {(1.2 * weights + held) / 2**20:9.0f}")


if __name__ == "__main__":
    print(seeded.machine())
    start_table(seeded.folder())
    memory_table(seeded.folder())
    forward_table(seeded.folder())
