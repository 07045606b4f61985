"""The same input gives the same bits: again in one process, from many threads at once, and in fresh processes."""

import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import random_model, random_tokens, random_weights
from vocabulary import tiny_vocabulary

from minigpt2 import GPT2, Config
from minigpt2.checkpoint.weights import save_folder
from minigpt2.generate import generate, generate_plain
from patching import PromptPair, attribute, sweep, sweep_one_by_one

CONFIG = Config(n_layer=3, n_head=4, n_embd=64, n_ctx=40, n_vocab=500, d_mlp=256)  # large enough for BLAS's own kernels
TEXTS = [random_tokens(CONFIG, n, seed=n) for n in (2, 7, 20)]
OTHER = [*TEXTS[2][:5], 1, *TEXTS[2][6:]]
PAIR = PromptPair.from_tokens(TEXTS[2], OTHER, (7, 8))

WORK = {
    "run": lambda model: [
        array for text in TEXTS for array in (model.run(text).logits, model.run(text).q, model.run(text).resid_mid)
    ],
    "run_batch": lambda model: [run.logits for run in model.run_batch([TEXTS[2], OTHER])],
    "resume": lambda model: [model.resume(np.stack([model.run(TEXTS[2]).resid_pre[1]] * 3) * 1.1, 1)],
    "resume in the middle": lambda model: [model.resume(model.run(TEXTS[2]).resid_mid[1] * 1.1, 1, "resid_mid")],
    "sweep": lambda model: [
        sweep(model, PAIR, site).values for site in ("resid_post", "mlp_out", "z", "k", "pattern_entry")
    ],
    "sweep of the whole vocabulary": lambda model: [
        sweep(model, PAIR, "attn_out", metric="clean_log_probability").values
    ],
    "sweep_one_by_one": lambda model: [
        sweep_one_by_one(model, PAIR, site, positions=[5, 19]).values for site in ("resid_post", "v")
    ],
    "attribute": lambda model: [attribute(model, PAIR, site).values for site in ("resid_post", "q")],
    "generate": lambda model: [np.array(list(generate(model, TEXTS[1], 20, temperature=1.0, seed=3)))],
    "generate_plain": lambda model: [np.array(list(generate_plain(model, TEXTS[1], 5)))],
}


def bits(work, model):
    arrays = WORK[work](model)
    assert all(np.isfinite(array).all() for array in arrays)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def shared():
    return random_model(CONFIG, np.float32)


@pytest.fixture(scope="module")
def alone(shared):
    return {work: bits(work, shared) for work in WORK}


@pytest.mark.parametrize("work", WORK)
def test_again_in_the_same_process(alone, shared, work):
    assert bits(work, shared) == alone[work]
    assert bits(work, random_model(CONFIG, np.float32)) == alone[work]


def test_the_bits_can_tell(alone, shared):
    assert len(set(alone.values())) == len(WORK)
    other = random_model(CONFIG, np.float32, seed=1)
    assert all(bits(work, other) != alone[work] for work in WORK)


def test_many_threads_with_one_model(alone, shared):
    """Every thread does everything, each beginning somewhere else, so that unlike work meets."""
    names, wrong, start = list(WORK), [], threading.Barrier(6)

    def work(first):
        start.wait()
        for name in [*names[first:], *names[:first]]:
            try:
                found = bits(name, shared)
            except Exception as error:
                found = repr(error)
            if found != alone[name]:
                wrong.append((name, found))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert not wrong


def test_a_vocabulary_is_read_once_by_many_threads(tmp_path):
    """The tokenizer is made on first use, which may come from several threads at once."""
    config = replace(CONFIG, n_vocab=264)
    save_folder(tmp_path, config, random_weights(config, np.float32))
    tiny_vocabulary(tmp_path)
    model, found = GPT2.from_pretrained(tmp_path), []
    threads = [threading.Thread(target=lambda: found.append(model.encode("the thing"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [model.encode("the thing")] * 8


def test_two_fresh_processes(alone):
    model = "t.random_model(t.CONFIG, t.np.float32)"
    code = f"import test_same_bits as t; model = {model}; print({{work: t.bits(work, model) for work in t.WORK}})"
    here = Path(__file__).resolve().parent
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(alone)
