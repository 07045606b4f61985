"""Processes of this machine for a set of pairs: with workers(2) as executor: sweep(model, pairs, executor=executor)."""

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from minigpt2.checks import whole_number

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@contextmanager
def workers(n: int):
    """A pool of n processes, each with one BLAS thread from its start; Ctrl-C stops it without a word from them."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ |= dict.fromkeys(THREADS, "1")
    context = get_context("spawn")  # a fork would take over locks of threads that it does not have
    pool = ProcessPoolExecutor(
        whole_number("the number of workers", n, 1), mp_context=context, initializer=leave_ctrl_c
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def leave_ctrl_c():
    """Ctrl-C reaches every process of a terminal; the first one tells the others to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
