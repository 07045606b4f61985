"""What every test may ask for: a small seeded model, made once. Its arrays are read-only, so no test can change it."""

import os
import signal
import sys
from pathlib import Path

if (
    "PYTEST_XDIST_WORKER" in os.environ and "numpy" not in sys.modules
):  # several processes with several BLAS threads each would wait for each other
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(name, "1")  # before NumPy is loaded

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout is tested as it lies, installed or not

from models import random_model  # noqa: E402


def pytest_configure(config):
    # A command that a script starts in the background ignores Ctrl-C, and so would all processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: a corner that costs seconds; see make test-slow")
    config.addinivalue_line("markers", "reference: needs Hugging Face's model or TransformerLens; skipped without them")


def pytest_collection_modifyitems(items):
    # Who broke model.py reads first which activation is wrong; every other failure follows from it.
    items.sort(key=lambda item: item.path.name != "test_first_wrong_activation.py")


def pytest_sessionfinish(session):
    from fuzz import cases

    if hasattr(session.config, "workeroutput"):  # one of several processes
        session.config.workeroutput["fuzz"] = dict(cases)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    from fuzz import cases

    cases.update(getattr(node, "workeroutput", {}).get("fuzz", {}))


def pytest_terminal_summary(terminalreporter):
    from fuzz import cases

    if cases:
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in cases.items())
        terminalreporter.write_line(f"fuzz: {sum(cases.values()):,} cases ({kinds})")


@pytest.fixture(scope="session")
def model():
    return random_model()
