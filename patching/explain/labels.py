"""How cells, positions, layers and numbers are called: in the story, in tables, in pictures."""

import math
from itertools import groupby

from ..sites import SITES
from .findings import HALF, SEEN, STREAM

WHERE = {name: SITES[name].cell.removesuffix(" layer {layer}") for name in STREAM}


def axis_label(result, axis, index):
    """How one entry of an axis is called: its number, and at a position its token, or both tokens where they differ."""
    if axis not in ("position", "source"):
        return f"{axis} {index}"
    return f"{index} {' → '.join(tokens_at(result, index))}"


def tokens_at(result, pos):
    """The label of the token at a position, or both labels where the texts differ, tuple."""
    both = result.clean_labels[pos], result.corrupted_labels[pos]
    return both[:1] if result.tokens.clean[pos] == result.tokens.corrupted[pos] else both


def place_words(result, place):
    """A cell in words: "at position 1 (␣Jones → ␣Smith) behind layer 0", "head 7.3"."""
    at = position_words(result, place["position"]) if "position" in place else ""
    if result.site in WHERE:
        return f"{at} {WHERE[result.site]} layer {place['layer']}"
    part = SITES[result.site].cell.format(**place)
    if "source" in place:
        return f"{part} {at.replace('at ', 'from ', 1)} to {position_words(result, place['source'], '')}"
    return f"{part} {at}".strip()


def position_words(result, pos, at="at "):
    clean, corrupted = result.clean_labels[pos], result.corrupted_labels[pos]
    label = clean if result.tokens.clean[pos] == result.tokens.corrupted[pos] else f"{clean} → {corrupted}"
    return (
        f"{at}the last position ({pos}, {label})"
        if pos == len(result.tokens.clean) - 1
        else f"{at}position {pos} ({label})"
    )


def token_words(result, pos):
    """The label of the token that a patch at a changed position brings: of the run that the vectors come from."""
    return (result.clean_labels if result.direction == "denoising" else result.corrupted_labels)[pos]


def layer_words(layers, start=""):
    return f"{start} layer{'s' * (len(layers) > 1)} {ranges(layers)}".strip()


def ranges(numbers):
    """ "0 to 3, 5 and 7" for [0, 1, 2, 3, 5, 7]."""
    parts = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def percent(share):
    """ "98 %"; "<1 %" for a trace; a decimal just below a limit of reading.py, so that it does not read as reached."""
    if 0 < share < 0.005:
        return "<1 %"
    if any(limit - 0.005 <= abs(share) < limit for limit in (HALF, SEEN)):
        return f"{math.copysign(math.floor(1000 * abs(share)) / 10, share)} %"
    return f"{round(100 * float(share))} %"


def restores(result, share, before="", one=True):
    """What a patch does, as a verb with the share: "restores 98 % of the gap"."""
    if result.direction == "denoising":
        return f"restore{'s' * one} {before}{percent(share)} of the gap"
    return f"move{'s' * one} the metric {before}{percent(share)} of the way to the corrupted run"


def several_changes(changed, most):
    """What more than one changed token means for the cells of one position, of which the best has the share `most`."""
    told = f"The texts differ at positions {ranges(changed)}"
    if most < HALF:
        return f"{told}: one position carries only its part of the change."
    return f"{told}, and still a patch at one position alone moves the metric by up to {percent(most)} of the gap."


def number(value):
    return f"{value + 0.0:.4g}" if abs(value) < 0.01 else f"{value:.2f}"  # -0.0 + 0.0 is 0.0


def sentence(text):
    return text[:1].upper() + text[1:]
