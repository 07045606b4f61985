"""What can be patched. A patch is an overwrite, as minigpt2/overwrite.py has it: `run.z[layer][head, position] = vector`,
followed by the rest of the forward pass. A site says of which activation, and which places there are to overwrite.

To add a site: add its line to SITES; sweeps, attribution, pictures and words know it from there.

At alpha 1 some maps are the same by construction: resid_pre of a layer is resid_post of the one before, and resid_mid
gives what resid_post gives, since the MLP between them treats every position by itself.
"""

from typing import NamedTuple


class Site(NamedTuple):
    activation: str  # the one that is overwritten
    axes: tuple[str, ...]  # of a result's values, in order
    words: str  # what "each" layer's or head's patches overwrite
    cell: str  # where one patch is made


class Place(NamedTuple):
    """One overwritten place: a layer, a head (None in the stream), positions, and of a pattern's row the one entry
    that is overwritten, by the position that is read (None: the whole row)."""

    layer: int
    head: int | None
    positions: slice
    read: int | None = None


BY_POSITION, BY_HEAD = ("layer", "position"), ("layer", "head", "position")

SITES = {
    "resid_pre": Site("resid_pre", BY_POSITION, "the residual stream before {} layer", "before layer {layer}"),
    "resid_mid": Site(
        "resid_mid", BY_POSITION, "the residual stream between attention and MLP of {} layer",
        "in the middle of layer {layer}",
    ),
    "resid_post": Site("resid_post", BY_POSITION, "the residual stream after {} layer", "after layer {layer}"),
    "attn_out": Site("attn_out", BY_POSITION, "what the attention of {} layer adds", "the attention of layer {layer}"),
    "mlp_out": Site("mlp_out", BY_POSITION, "what the MLP of {} layer adds", "the MLP of layer {layer}"),
    "z": Site("z", BY_HEAD, "what {} head has read", "head {layer}.{head}"),
    "q": Site("q", BY_HEAD, "the queries of {} head", "the query of head {layer}.{head}"),
    "k": Site("k", BY_HEAD, "the keys of {} head", "the key of head {layer}.{head}"),
    "v": Site("v", BY_HEAD, "the values of {} head", "the value of head {layer}.{head}"),
    "pattern": Site("pattern", BY_HEAD, "where {} head looks", "the attention pattern of head {layer}.{head}"),
    "pattern_entry": Site(
        "pattern", (*BY_HEAD, "source"), "where {} head looks, one source at a time",
        "the attention of head {layer}.{head}",
    ),
}  # fmt: skip
