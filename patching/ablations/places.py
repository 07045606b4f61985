"""Sets of places: how the functions of this room are given them, and what they are called."""

from collections.abc import Sequence

from ..plan import distinct


def as_sets(places) -> list[list[tuple]]:
    """Each place as a set: (layer, head) or another place of sweep(places=...) by itself, a list of them together."""
    if isinstance(places, str) or not isinstance(places, Sequence) or not places:
        raise ValueError(f"places must be a list, e.g. [(9, 9), (9, 6)], got {places!r:.60}")
    return [[place] if isinstance(place, tuple) else place for place in places]


def check_disjoint(question):
    """Refuse sets that have a place in common: what both do together would not be defined."""
    distinct([place for some in question.places for place in some], "the sets must not overlap, and they contain")


def names_of(question) -> tuple[str, ...]:
    """What each set of a Question is called: "9.9", "9.9@14" for one position, "mlp_out 3", "9.9 + 9.6"."""
    one = question.site_name if question.site_name != "z" else ""
    return tuple(" + ".join(name_of(one, *place) for place in some) for some in question.named_places)


def name_of(site, layer, head, position):
    name = f"{site} {layer}".strip() if head is None else f"{site} {layer}.{head}".strip()
    return name if position is None else f"{name}@{position}"
