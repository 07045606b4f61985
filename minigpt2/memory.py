"""A habit of memory that makes runs faster; benchmarks/memory.py shows by how much. It changes no number."""

import numpy as np


def keep_freed_memory():
    """Let what one layer frees serve the next: glibc's malloc keeps up to twice the largest block that was ever given
    back to it, within 32 MiB (mallopt(3), M_MMAP_THRESHOLD), and fetches the rest anew from the kernel, page by page.

    The block is never written, so it takes no memory. Without glibc nothing happens.
    """
    np.empty((32 << 20) - 8192, np.uint8)
