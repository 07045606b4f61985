"""Find a circuit: the strongest edges, the strongest that hang together, or ACDC's removal of what can be spared."""

import heapq
from collections.abc import Callable, Iterable

import numpy as np

from minigpt2 import GPT2
from minigpt2.checks import whole_number

from ..prompts import PromptPair
from .attribution import attribute_edges
from .circuit import Circuit
from .edges import edges
from .faithfulness import Measure
from .nodes import edge_mask
from .result import EdgeResult


def find_circuit(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    n: int,
    *,
    scores: EdgeResult | str = "exact",
    order: str = "top",
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
) -> Circuit:
    """The circuit of n edges by "exact", "EAP" or "EAP-IG" scores (or a result that is at hand), pruned of loose ends.

    order="top" takes the n of largest |effect|; "greedy" starts at the logits and takes, n times, the strongest edge into a
    node that is in already (EAP-IG's apply_greedy).
    """
    n = whole_number("n, the number of edges,", n, 1)
    if order not in ("top", "greedy"):
        raise ValueError(f'order must be "top" or "greedy", got {order!r:.60}')
    scores = scored(model, pairs, scores, direction, metric)
    return (top_n(scores, n) if order == "top" else greedy(scores, n)).pruned()


def scored(model, pairs, scores, direction, metric):
    if isinstance(scores, EdgeResult):
        return scores
    if scores == "exact":
        return edges(model, pairs, direction=direction, metric=metric)
    steps = {"EAP": 1, "EAP-IG": 5}
    if scores not in steps:
        raise ValueError(f'scores must be "exact", "EAP", "EAP-IG" or an EdgeResult, got {scores!r:.60}')
    return attribute_edges(model, pairs, steps=steps[scores], direction=direction, metric=metric)


def top_n(scores, n):
    return Circuit(edges=frozenset((writer, reader) for writer, reader, _ in scores.top(n)))


def greedy(scores, n):
    """From the logits down: of all edges into nodes that are in, the strongest next."""
    effects, chosen, inside, waiting = np.abs(scores.effects), set(), set(), []

    def enter(node):
        inside.add(node)
        for r, reader in enumerate(scores.readers):
            if reader.partition("<")[0] == node:
                for w in np.flatnonzero(scores.mask[:, r]):
                    heapq.heappush(waiting, (-effects[w, r], int(w), r))

    enter("logits")
    while waiting and len(chosen) < n:
        _, w, r = heapq.heappop(waiting)
        chosen.add((scores.writers[w], scores.readers[r]))
        if scores.writers[w] not in inside and scores.writers[w] != "input":
            enter(scores.writers[w])
    return Circuit(edges=frozenset(chosen))


def acdc(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    threshold: float,
    *,
    scores: EdgeResult | str = "exact",
    ablation: str = "other run",
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
    progress: Callable[[int, int], None] | None = None,
) -> Circuit:
    """ACDC (Conmy et al. 2304.14997): from the last reader to the first, remove each edge whose removal takes the mean value
    less than `threshold` further from the whole model's. Weakest edges first, by `scores`. One run of the circuit for each
    edge and pair: for small models, or patience."""
    scores = scored(model, pairs, scores, direction, metric)
    measure, mask = Measure(model, pairs, ablation, metric, direction), edge_mask(model.config)
    whole, total, done = measure.whole.mean(), int(mask.sum()), 0
    distance = 0.0
    for r in reversed(range(mask.shape[1])):
        rows = np.flatnonzero(mask[:, r])
        for w in rows[np.argsort(np.abs(scores.effects[rows, r]), kind="stable")]:
            mask[w, r] = False
            without = abs(measure.of_mask(mask).mean() - whole)
            if without - distance < threshold:
                distance = without
            else:
                mask[w, r] = True
            done += 1
            if progress:
                progress(done, total)
    return Circuit.from_mask(model.config, mask)
