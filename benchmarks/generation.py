"""Generating a text against Hugging Face's generate on the CPU: `python benchmarks/generation.py`.

Seeded random weights in the GPT-2 small shape, greedy, both with their key-value cache, in one run and in turn: the
figure is the ratio, and every time is a median. Needs torch and transformers (`make benchmarks` installs them).
"""

import time

import seeded

from minigpt2 import GPT2
from minigpt2.generate import generate, generate_plain


def main():
    import torch
    from transformers import GPT2LMHeadModel

    ours = GPT2.from_pretrained(seeded.folder())
    theirs = GPT2LMHeadModel.from_pretrained(seeded.folder()).eval()
    theirs.generation_config.eos_token_id = None  # exactly n new tokens
    prompt = torch.tensor([seeded.PROMPT])

    def hugging_face(n):
        tokens = theirs.generate(prompt, max_new_tokens=n, do_sample=False, use_cache=True, pad_token_id=50256)
        return tokens[0].tolist()

    print(f"{seeded.machine()}, PyTorch {torch.__version__} with {torch.get_num_threads()} threads\n")
    print("milliseconds per new token; a ratio of 1 or less means at least as fast as Hugging Face\n")
    print(f"{'prompt':>8} {'new tokens':>12} {'Hugging Face':>14} {'minigpt2':>10} {'ratio':>7}")
    for n, repeats in ((50, 9), (200, 5)):
        assert seeded.PROMPT + list(generate(ours, seeded.PROMPT, n)) == hugging_face(n), (
            "the two differ in their tokens"
        )
        seconds = seeded.interleaved(
            repeats, theirs=lambda: hugging_face(n), ours=lambda: list(generate(ours, seeded.PROMPT, n))
        )
        hf, mine = (1000 * seconds[name] / n for name in ("theirs", "ours"))
        print(f"{len(seeded.PROMPT):8} {n:12} {hf:14.1f} {mine:10.1f} {mine / hf:7.2f}")

    start = time.perf_counter()
    list(generate_plain(ours, seeded.PROMPT, 50))
    print(f"\nwithout the cache, 50 new tokens: {1000 * (time.perf_counter() - start) / 50:.1f} each")


if __name__ == "__main__":
    main()
