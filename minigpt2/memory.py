"""Two habits of memory that make runs faster; benchmarks/memory.py shows by how much. Neither changes a number."""

import numpy as np


def keep_freed_memory():
    """Let what one layer frees serve the next: glibc's malloc keeps up to twice the largest block that was ever given
    back to it, within 32 MiB (mallopt(3), M_MMAP_THRESHOLD), and fetches the rest anew from the kernel, page by page.

    The block is never written, so it takes no memory. Without glibc nothing happens.
    """
    np.empty((32 << 20) - 8192, np.uint8)


def room_for(names, config, shape, dtype):
    """Unwritten arrays for a batch of tokens [n_texts, n_seq]: the stream, and every layer's activations in `names`.

    They are cut from one block of memory, which an operating system hands out many times faster than as many small
    ones; a layer of any of them is as large as its input.
    """
    c, (n_texts, n_seq) = config, shape
    block = np.empty((1 + c.n_layer * (1 + len(names)), n_texts, n_seq, c.n_embd), dtype)
    room, by_head = {"stream": block[: c.n_layer + 1]}, (c.n_layer, n_texts, c.n_head, n_seq, c.d_head)
    for i, name in enumerate(names, start=1):
        array = block[1 + i * c.n_layer :][: c.n_layer]
        room[name] = array.reshape(by_head) if name in ("q", "k", "v", "z") else array
    return room
