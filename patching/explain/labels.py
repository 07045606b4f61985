"""What cells, positions and layers are called in sentences."""

from itertools import groupby

from ..sites import SITES
from .numbers import percent


def place_words(result, place):
    """A cell in words: "position 1 (␣Jones → ␣Smith) after layer 0", "head 7.3"."""
    cell = SITES[result.site].cell.format(**place)
    if "position" not in place:
        return cell
    position = position_words(result, place["position"])
    if cell.startswith(("before ", "after ")):  # a state of the stream, not a part of the model
        return f"{position} {cell}"
    read = f" from {position} to {position_words(result, place['source'])}" if "source" in place else f" at {position}"
    return cell + read


def cell_words(result, cells, most=8):
    """Cells with their shares, those of a position together: "at position 1 (␣Jones): head 0.3 (20 %), head 1.0 (12 %)"."""
    groups = {}
    for place, _, share in cells[:most]:
        name = f"head {place['layer']}.{place['head']}" if "head" in place else f"layer {place['layer']}"
        name += f" to position {place['source']}" if "source" in place else ""
        groups.setdefault(place.get("position"), []).append(f"{name} ({percent(share)})")
    where = {pos: f"at {position_words(result, pos)}: " if pos is not None else "" for pos in groups}
    more = [f"and {len(cells) - most} more"] if len(cells) > most else []
    return "; ".join([where[pos] + ", ".join(names) for pos, names in groups.items()] + more)


def position_words(result, pos):
    name = f"the last position ({pos}, " if pos == len(result.tokens.clean) - 1 else f"position {pos} ("
    return f"{name}{result.token_label(pos)})"


def layer_words(result, layers):
    """ "after layers 0 to 2", of a map of the residual stream."""
    return SITES[result.site].cell.format(layer=ranges(layers)).replace("layer", "layer" + "s" * (len(layers) > 1))


def effect(result, share):
    """What a patch does: "restores 98 % of the gap"."""
    return (
        f"restores {share} of the gap"
        if result.restores
        else f"moves the metric {share} of the way to the {result.target} run"
    )


def ranges(numbers):
    """ "0 to 3, 5 and 7" for [0, 1, 2, 3, 5, 7]."""
    parts = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)
    return joined(parts)


def joined(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
