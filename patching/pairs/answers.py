"""An answer of several tokens: its log probability after each patch, the rest of the answer read with the text.

log p(answer) is the sum of each token's log p after the text and the tokens before it, so it is one sweep for each token, over
the text that has grown by the tokens before. Only the prompt is patched: what a patch changes reaches the answer's later tokens
through what they read.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from minigpt2 import GPT2

from .. import attribution
from .. import sweeps as engine
from ..prompts import PromptPair
from ..result import Result
from ..sites import SITES
from ..sources import Source


def answer_log_probability(
    model: GPT2,
    pair: PromptPair,
    answer: str | Sequence[int],
    site: str = "resid_post",
    *,
    method: str = "patching",
    direction: str | None = None,
    alpha: float = 1.0,
    source: Source | str | Any = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int] | str | None = None,
) -> Result:
    """Sweep a pair (or with method="attribution" estimate it), reading log p of `answer`, a text or token ids, in nats.

    The other arguments are those of sweep. Raises ValueError for an answer without tokens, and what sweep raises.
    """
    if method not in ("patching", "attribution"):
        raise ValueError(f'method must be "patching" or "attribution", got {method!r:.40}')
    run = engine.sweep if method == "patching" else attribution.attribute
    ids = model.tokenizer.continuation(answer) if isinstance(answer, str) else model.check_tokens(answer).tolist()
    if not ids:
        raise ValueError("the answer has no tokens: give a text of at least one character")
    tokens = pair.tokens(model)
    n, choices = (
        len(tokens.clean),
        dict(direction=direction, alpha=alpha, source=source, metric="clean_log_probability"),
    )
    where = dict(layers=layers, heads=heads, positions=positions if positions is not None else list(range(n)))
    first = run(model, step(tokens, ids, 0), site, **where, **choices)
    steps = [first]
    for i in range(1, len(ids)):
        places = {"places": whole_prompts(first, site, n)} if positions == "all" else where
        steps.append(run(model, step(tokens, ids, i), site, **places, **choices))
    return replace(
        first,
        values=np.sum([each.values.reshape(first.values.shape) for each in steps], axis=0, dtype=first.values.dtype),
        clean_value=sum(each.clean_value for each in steps),
        corrupted_value=sum(each.corrupted_value for each in steps),
        metric="answer_log_probability",
        unit=f"log p({' '.join(model.labels(ids))})",
    )


def step(tokens, ids, i):
    """The pair for the answer's token i: both texts with the tokens before it. Its second answer, any other token, is not read."""
    texts = ([*text, *ids[:i]] for text in tokens[:2])
    return PromptPair.from_tokens(*texts, (ids[i], next(token for token in (0, 1) if token != ids[i])))


def whole_prompts(result, site, n):
    """For each cell of a map over all positions, the prompt's positions, as sets of places."""
    by_head = "head" in SITES[site].axes
    return [[(*cell[: 1 + by_head], pos) for pos in range(n)] for cell in product(*result.axes.values())]
