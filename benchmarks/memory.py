"""What minigpt2/memory.py saves: `python benchmarks/memory.py`. Seeded random weights in the GPT-2 small shape, float32.

Each habit is taken away in turn, and what it saves is CPU time and page faults: memory that the kernel hands out anew and
fills with zeros. malloc never forgets what it has learnt, so each figure comes from a process of its own, with one BLAS
thread, with and without in turn; a process gives the least CPU time of its calls.
"""

import os
import statistics
import subprocess
import sys

import seeded

TIMED = """
import resource, sys, time
sys.path[:0] = {path!r}
import numpy as np
import seeded
from minigpt2 import GPT2, gpt2
from patching import PromptPair, sweep

def separate(names, config, shape, dtype):  # an array for every name, as one would write it
    c, (n_texts, n_seq) = config, shape
    room = {{"stream": np.empty((c.n_layer + 1, n_texts, n_seq, c.n_embd), dtype)}}
    for name in names:
        by_head = (c.n_layer, n_texts, c.n_head, n_seq, c.d_head)
        room[name] = np.empty(by_head if name in "qkvz" else (c.n_layer, n_texts, n_seq, c.n_embd), dtype)
    return room

if {without!r} == "keep_freed_memory":
    gpt2.keep_freed_memory = lambda: None
if {without!r} == "room_for":
    gpt2.room_for = separate
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
HABITS = ("", "keep_freed_memory", "room_for")


def measured(call, n_seq, repeats, without):
    """(CPU seconds, page faults) of one call, in a process of its own."""
    folder = str(seeded.folder())
    code = TIMED.format(call=call, n_seq=n_seq, repeats=repeats, without=without, path=sys.path[:1], folder=folder)
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=alone)
    seconds, faults = done.stdout.split()
    return float(seconds), int(faults)


def main(rounds):
    print(
        f"{seeded.machine()}\n\nCPU time without the habit over that with it; 1 or less means that it saves nothing\n"
    )
    print(f"{'':20}{'keep_freed_memory':>20}{'room_for':>12}   page faults a call: both, without the one, the other")
    for what, call in CALLS.items():
        runs = [[measured(*call, without) for without in HABITS] for _ in range(rounds)]
        ratios = [statistics.median(run[i][0] / run[0][0] for run in runs) for i in (1, 2)]
        faults = [f"{statistics.median(run[i][1] for run in runs):,.0f}" for i in (0, 1, 2)]
        print(f"{what:20}{ratios[0]:20.2f}{ratios[1]:12.2f}   {', '.join(faults)}", flush=True)


if __name__ == "__main__":
    main(rounds=int(sys.argv[1]) if len(sys.argv) > 1 else 5)
