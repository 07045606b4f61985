"""What keep_freed_memory saves: `python benchmarks/memory.py`. Seeded random weights in the GPT-2 small shape, float32.

It saves page faults, that is memory that the kernel hands out anew and fills with zeros, and so CPU time. malloc never
forgets what it has learnt, so each figure comes from a process of its own, with one BLAS thread, with and without in turn;
the ratio is that of the least CPU times.
"""

import os
import statistics
import subprocess
import sys

import seeded

TIMED = """
import resource, sys, time
sys.path[:0] = {path!r}
import seeded
from minigpt2 import GPT2, gpt2
from patching import PromptPair, sweep

if {without}:
    gpt2.keep_freed_memory = lambda: None
model = GPT2.from_pretrained({folder!r})
tokens = (seeded.PROMPT * 100)[:{n_seq}]
pair = PromptPair.from_tokens(seeded.PROMPT, seeded.CORRUPTED, (5437, 4176))
call = {call}
call()
seconds, faults = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({repeats}):
    start = time.process_time()
    call()
    seconds.append(time.process_time() - start)
print(min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) // {repeats})
"""
CALLS = {  # what is timed: (its call, tokens, calls in each process)
    "run, 11 tokens": ("lambda: model.run(tokens)", 11, 20),
    "run, 128 tokens": ("lambda: model.run(tokens)", 128, 8),
    "run, 1,024 tokens": ("lambda: model.run(tokens)", 1024, 2),
    "sweep, 12 x 11": ("lambda: sweep(model, pair)", 11, 6),
}


def measured(call, n_seq, repeats, without):
    """(CPU seconds, page faults) of one call, in a process of its own."""
    folder = str(seeded.folder())
    code = TIMED.format(call=call, n_seq=n_seq, repeats=repeats, without=without, path=sys.path[:1], folder=folder)
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=alone)
    seconds, faults = done.stdout.split()
    return float(seconds), int(faults)


def main(rounds):
    print(f"{seeded.machine()}\n\nCPU time without it over that with it; 1 or less means that it saves nothing\n")
    print(f"{'':20}{'ratio':>8}   page faults a call, with and without ({rounds} pairs of processes)")
    for what, call in CALLS.items():
        runs = [(measured(*call, without=False), measured(*call, without=True)) for _ in range(rounds)]
        with_it, without = (min(run[i][0] for run in runs) for i in (0, 1))
        faults = [f"{statistics.median(run[i][1] for run in runs):,.0f}" for i in (0, 1)]
        print(f"{what:20}{without / with_it:8.2f}   {', '.join(faults)}", flush=True)


if __name__ == "__main__":
    main(rounds=int(sys.argv[1]) if len(sys.argv) > 1 else 5)
