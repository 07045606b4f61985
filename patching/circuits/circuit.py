"""A circuit: a set of edges, or of heads by position, in the form that EAP-IG's graph reads and writes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt2.atomic import replacing

from .nodes import edge_mask, reader_named, readers, writer_named, writers


@dataclass(frozen=True)
class Circuit:
    """Some edges of a model's graph, {("a3.h7", "a5.h1<q>"), ...}, or heads, {(layer, head): positions, or None for all}.

    Everything else is ablated where the circuit is measured: see faithfulness.py. Make one with of_edges, of_heads,
    from_mask or from_json.
    """

    edges: frozenset | None = None
    heads: tuple | None = None  # of ((layer, head), positions or None)

    @classmethod
    def of_edges(cls, config, edges: Iterable[tuple[str, str]]):
        """Edges by name. Raises ValueError for a name that is not a node, or two nodes with no edge between them."""
        found, mask = set(), edge_mask(config)
        rows, columns = ({str(node): i for i, node in enumerate(nodes(config))} for nodes in (writers, readers))
        for writer, reader in edges:
            names = str(writer_named(writer, config)), str(reader_named(reader, config))
            if not mask[rows[names[0]], columns[names[1]]]:
                raise ValueError(f"there is no edge {writer}->{reader}: {reader} is read before {writer} writes")
            found.add(names)
        return cls(edges=frozenset(found))

    @classmethod
    def of_heads(cls, config, heads: Mapping[tuple[int, int], Iterable[int] | None]):
        """Heads (layer, head), each at some positions or at all (None). MLPs and the embedding always run on."""
        for layer, head in heads:
            writer_named(f"a{layer}.h{head}", config)
        return cls(
            heads=tuple(sorted((at, None if some is None else tuple(sorted(some))) for at, some in heads.items()))
        )

    @classmethod
    def from_mask(cls, config, mask):
        """The edges where mask [n_writers, n_readers] is true."""
        rows, columns = writers(config), readers(config)
        return cls(edges=frozenset((str(rows[w]), str(columns[r])) for w, r in np.argwhere(mask & edge_mask(config))))

    def __repr__(self):
        if self.edges is None:
            return f"Circuit({len(self.heads)} heads)"
        return f"Circuit({len(self.edges)} edges, {len(self.nodes)} nodes)"

    @property
    def nodes(self):
        """The names of all nodes at the ends of its edges."""
        return {writer for writer, _ in self.edges} | {reader.partition("<")[0] for _, reader in self.edges}

    def mask(self, config):
        """Which edges are in, [n_writers, n_readers], bool."""
        return np.array([[(str(w), str(r)) in self.edges for r in readers(config)] for w in writers(config)])

    def without(self, nodes):
        """The circuit without the edges that begin or end at some nodes."""
        nodes = {nodes} if isinstance(nodes, str) else set(nodes)
        return Circuit(edges=frozenset(e for e in self.edges if not nodes & {e[0], e[1].partition("<")[0]}))

    def pruned(self):
        """The circuit without edges that nothing reaches from the input, or that lead to no logits through the others."""
        edges = self.edges
        while True:
            fed = {"input"} | {reader.partition("<")[0] for _, reader in edges}
            read = {"logits"} | {writer for writer, _ in edges}
            kept = frozenset(e for e in edges if e[0] in fed and e[1].partition("<")[0] in read)
            if kept == edges:
                return Circuit(edges=kept)
            edges = kept

    # EAP-IG's graph JSON: {"cfg": ..., "nodes": {name: {"in_graph"}}, "edges": {"writer->reader": {"score", "in_graph"}}}

    def to_json(self, path, config, scores=None):
        """Write the file that EAP-IG's Graph.from_json reads; scores is an EdgeResult whose effects go with the edges."""
        if self.edges is None:
            raise ValueError("a circuit of heads by position has no graph of edges to write")
        mask, rows, columns = edge_mask(config), writers(config), readers(config)
        effects = np.zeros(mask.shape) if scores is None else scores.effects
        nodes = self.nodes | {"input", "logits"} if self.edges else set()
        names = [*map(str, rows), "logits"]
        edges = {}
        for w, r in np.argwhere(mask):
            pair = str(rows[w]), str(columns[r])
            edges["->".join(pair)] = {"score": float(effects[w, r]), "in_graph": pair in self.edges}
        about = {
            "cfg": {
                "n_layers": config.n_layer, "n_heads": config.n_head, "parallel_attn_mlp": False, "d_model": config.n_embd,
            },
            "nodes": {name: {"in_graph": name in nodes} for name in names},
            "edges": edges,
        }  # fmt: skip
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def from_json(cls, path, config):
        """Read a graph that EAP-IG or to_json wrote. Raises ValueError for one of another model, or another file."""
        try:
            about = json.loads(Path(path).read_text(encoding="utf-8"))
            sizes = about["cfg"]["n_layers"], about["cfg"]["n_heads"]
            inside = [name.split("->") for name, edge in about["edges"].items() if edge["in_graph"]]
        except OSError as error:
            raise OSError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is not a graph in EAP-IG's JSON (cfg, nodes, edges)") from None
        if sizes != (config.n_layer, config.n_head):
            raise ValueError(
                f"{path} is a graph of {sizes[0]} layers and {sizes[1]} heads, the model has {config.n_layer} and "
                f"{config.n_head}"
            )
        if not all(len(edge) == 2 for edge in inside):
            raise ValueError(f"{path} has an edge that is not named writer->reader")
        return cls.of_edges(config, inside)
