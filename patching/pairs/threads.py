"""How many threads NumPy's matrix products take. It matters to the last bits: sums are split by thread.

NumPy's wheels bring OpenBLAS, which can be asked and told while it runs; another BLAS is told by OMP_NUM_THREADS and the like
before Python starts, and here both functions then return None.
"""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np


@cache
def openblas():
    """(get, set) of the OpenBLAS that came with NumPy, or None."""
    root = Path(np.__file__).parent
    for path in sorted([*(root.parent / "numpy.libs").glob("*openblas*"), *(root / ".dylibs").glob("*openblas*")]):
        library = ctypes.CDLL(str(path))
        for name in ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads"):
            if hasattr(library, name.format("get")):
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


def blas_threads():
    """The number of threads of NumPy's BLAS, or None where it cannot be asked."""
    return None if openblas() is None else openblas()[0]()


def use_one_thread():
    """Take one thread from now on, in this process. Returns blas_threads()."""
    if openblas() is not None:
        openblas()[1](1)
    return blas_threads()
