"""The graph of a GPT-2: who writes into the residual stream, who reads it, and which edges there are.

Writers: the embedding "input", heads "a3.h7", MLPs "m5". Readers: the queries, keys and values of each head "a3.h7<q>", MLPs
"m5", and "logits". The names and both orders are those of EAP-IG's graph (hannamw/EAP-IG, src/eap/graph.py), so that its
files can be read. An edge leads from a writer to every reader that comes later: GPT-2 small has 157 writers, 445 readers and
32,491 edges. Read next: edges.py.
"""

import re
from typing import NamedTuple

import numpy as np


class Writer(NamedTuple):
    kind: str  # "input", "head" or "mlp"
    layer: int  # -1 for the embedding
    head: int | None = None

    def __str__(self):
        return {"input": "input", "head": f"a{self.layer}.h{self.head}", "mlp": f"m{self.layer}"}[self.kind]


class Reader(NamedTuple):
    kind: str  # "q", "k", "v", "mlp" or "logits"
    layer: int  # n_layer for the logits
    head: int | None = None

    def __str__(self):
        if self.kind == "logits":
            return "logits"
        return f"m{self.layer}" if self.kind == "mlp" else f"a{self.layer}.h{self.head}<{self.kind}>"

    @property
    def node(self):
        """The name of the node that this is an input of."""
        return str(self).partition("<")[0]


def writers(config):
    """Every writer, in the order of the forward pass."""
    found = [Writer("input", -1)]
    for layer in range(config.n_layer):
        found += [Writer("head", layer, head) for head in range(config.n_head)] + [Writer("mlp", layer)]
    return found


def readers(config):
    """Every reader: of each layer the queries of all heads, the keys, the values, the MLP; the logits at the end."""
    found = []
    for layer in range(config.n_layer):
        found += [Reader(kind, layer, head) for kind in "qkv" for head in range(config.n_head)] + [Reader("mlp", layer)]
    return [*found, Reader("logits", config.n_layer)]


def n_writers_below(reader, config):
    """How many writers come before a reader: the first so many of `writers`."""
    heads_of_its_layer = config.n_head if reader.kind == "mlp" else 0
    return 1 + reader.layer * (config.n_head + 1) + heads_of_its_layer


def edge_mask(config):
    """Where there is an edge, [n_writers, n_readers], bool."""
    below = np.array([n_writers_below(reader, config) for reader in readers(config)])
    return np.arange(1 + config.n_layer * (config.n_head + 1))[:, None] < below


WRITER = re.compile(r"input|a(\d+)\.h(\d+)|m(\d+)")
READER = re.compile(r"logits|a(\d+)\.h(\d+)<([qkv])>|m(\d+)")


def writer_named(name, config):
    """The Writer of a name, or a ValueError."""
    match = WRITER.fullmatch(name) if isinstance(name, str) else None
    found = None
    if match:
        layer, head, mlp = match.groups()
        found = (
            Writer("head", int(layer), int(head)) if layer else Writer("mlp", int(mlp)) if mlp else writers(config)[0]
        )
    return checked(found, name, "writer", '"input", "a3.h7" or "m5"', config)


def reader_named(name, config):
    """The Reader of a name, or a ValueError."""
    match = READER.fullmatch(name) if isinstance(name, str) else None
    found = None
    if match:
        layer, head, kind, mlp = match.groups()
        last = Reader("logits", config.n_layer)
        found = Reader(kind, int(layer), int(head)) if layer else Reader("mlp", int(mlp)) if mlp else last
    return checked(found, name, "reader", '"a3.h7<q>", "m5" or "logits"', config)


def checked(node, name, what, examples, config):
    if node is None:
        raise ValueError(f"unknown {what} {name!r:.60}; a {what} is named like {examples}")
    inside = node.kind in ("input", "logits") or node.layer < config.n_layer
    if not inside or (node.head or 0) >= config.n_head:
        raise ValueError(
            f"there is no {what} {name}: the model has layers 0 to {config.n_layer - 1} and heads 0 to {config.n_head - 1}"
        )
    return node
