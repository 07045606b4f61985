"""The parts of a model that are ablated, by name: "9.6" is head 6 of layer 9, "mlp 5" the MLP of layer 5, "attn 5" the whole
attention of layer 5. At which positions they are overwritten, and with what, is one Overwrite each."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minigpt2 import GPT2, Overwrite
from minigpt2.checks import indices

from ..sources import Runs, Source


class Part(NamedTuple):
    """A head (layer, head), or with head None what the MLP ("mlp_out") or the attention ("attn_out") of a layer adds."""

    layer: int
    head: int | None
    activation: str  # "z", "mlp_out" or "attn_out"

    def __str__(self):
        if self.head is not None:
            return f"{self.layer}.{self.head}"
        return f"{self.activation.removesuffix('_out')} {self.layer}"


def part_of(given: str | Sequence[int], model: GPT2) -> Part:
    """The Part of a name such as "9.6", "mlp 5" or "attn 5", or of a pair (layer, head); ValueError for any other."""
    if not isinstance(given, str):
        try:
            layer, head = given
        except (TypeError, ValueError):
            raise ValueError(f'a part is (layer, head), "9.6", "mlp 5" or "attn 5", got {given!r:.60}') from None
    elif match := re.fullmatch(r"(mlp|attn) ?(\d+)", given):
        layer = indices(
            "layer", [int(match[2])], model.config.n_layer, f"{model.name} has {model.config.n_layer} layers"
        )
        return Part(layer[0], None, f"{match[1]}_out")
    elif match := re.fullmatch(r"(\d+)\.(\d+)", given):
        layer, head = map(int, match.groups())
    else:
        raise ValueError(f'a part is (layer, head), "9.6", "mlp 5" or "attn 5", got {given!r:.60}')
    c = model.config
    layer = indices("layer", [layer], c.n_layer, f"{model.name} has {c.n_layer} layers")[0]
    return Part(layer, indices("head", [head], c.n_head, f"{model.name} has {c.n_head} heads")[0], "z")


def parts_of(given: Sequence, model: GPT2) -> list[Part]:
    """Distinct parts, at least one, in the order given."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f'parts must be a list, e.g. ["9.6", "9.9"], got {given!r:.60}')
    parts = [part_of(one, model) for one in given]
    if not parts:
        raise ValueError("there is no part to ablate: give at least one head, MLP or attention")
    if twice := [part for i, part in enumerate(parts) if part in parts[:i]]:
        raise ValueError(f"part {twice[0]} is given twice")
    return parts


def overwrite_of(part: Part, runs: Runs, source: Source, positions: Sequence[int] | None = None) -> Overwrite:
    """What ablating a part writes, at all positions or at some."""
    own = runs.base.activation(part.activation, part.layer, part.head)  # [n_seq, size]
    value = np.broadcast_to(source.vectors(runs, part.activation, part.layer, part.head), own.shape)
    value = value if positions is None else value[list(positions)]
    return Overwrite(part.layer, part.activation, value, None if part.head is None else [part.head], positions)
