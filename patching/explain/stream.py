"""The story of a map of the residual stream: which position carries the information, layer by layer.

Vectors of the stream are handed on from layer to layer and only attention moves information between positions, so such
a map is read as a way: from the changed token to the last position. Maps of everything else are story.py's.
"""

from itertools import groupby

import numpy as np

from .findings import HALF, SEEN, ascending, differing, fit, gap, goes_astray, last_layer_is_silent, spots
from .labels import (
    WHERE,
    layer_words,
    number,
    percent,
    place_words,
    position_words,
    ranges,
    restores,
    sentence,
    several_changes,
    token_words,
)


def stream_story(result):
    last, changed = len(result.tokens.clean) - 1, differing(result)
    if changed == [last]:
        return [
            "The changed token is the last one itself: by construction every layer has it there, nothing has to move."
        ]
    layers, positions, share = ascending(result)
    given = layers_given(result, layers, positions)
    found = [spot for spot in spots(result) if spot.place["layer"] not in given]
    if not found:
        return ["Nothing can be concluded: these cells have their values by construction."]
    most = max(spot.share for spot in found)
    apart = one_change_alone(result, layers, positions, share, most)
    if goes_astray(result):
        return [astray(result), *apart]
    best = max(found, key=lambda spot: (round(float(fit(spot.share)), 2), -spot.place["layer"]))  # of equals the lowest
    told = whereabouts(result, layers, positions, share) if most >= HALF else nowhere(layers, share, given)
    told.append(f"The best cell, {place_words(result, best.place)}, {restores(result, best.share)}.")
    told += apart
    for pos in changed:
        if pos in positions and pos != last:
            told += leaving(result, pos, layers, share[:, positions.index(pos)])
    if last in positions:
        told += arriving(result, layers, share[:, positions.index(last)], given)
    return told + (elsewhere(result, positions, share) if most >= HALF else [])


def layers_given(result, layers, positions):
    """The layers of which one cell holds all of the gap by construction."""
    given = {layers[-1]} if last_layer_is_silent(result) and len(result.tokens.clean) - 1 in positions else set()
    if result.site == "resid_pre" and layers[0] == 0 and len(differing(result)) == 1:
        given.add(0)
    return given


def astray(result):
    share = result.share
    return (
        f"There is no clear story: single patches move the metric by {percent(share.min())} to {percent(share.max())} "
        f"of the gap ({number(abs(gap(result)))}), to values well outside of what the two texts give."
    )


def nowhere(layers, share, given):
    trivial = [layer for layer, row in zip(layers, share) if layer in given and row.max() >= HALF]
    but = f", except in {layer_words(trivial)}, where one must by construction" if trivial else ""
    return [f"There is no clear story: no single position carries half of the gap{but}."]


def whereabouts(result, layers, positions, share):
    """Which position carries at least half of the gap, from layer to layer."""
    best = [positions[i] if row[i] >= HALF else None for row, i in zip(share, fit(share).argmax(axis=1))]
    carried = [(pos, layer) for pos, layer in zip(best, layers) if pos is not None]
    stations = [(pos, [layer for _, layer in run]) for pos, run in groupby(carried, key=lambda pair: pair[0])]
    where = [f"{position_words(result, pos)} {WHERE[result.site]} {layer_words(run)}" for pos, run in stations]
    if len({pos for pos, _ in stations}) > 3:
        told = [f"There is no simple story: from layer to layer another position carries it ({'; '.join(where)})."]
    else:
        told = [f"What tells the two texts apart sits {' and then '.join(where)}."]
    enough = [tuple(positions[i] for i in np.flatnonzero(row >= HALF)) for row in share]
    for several, run in groupby(zip(enough, layers), key=lambda pair: pair[0]):
        if 1 < len(several) <= 3:
            names = [position_words(result, pos, "") for pos in several]
            told.append(
                f"{sentence(WHERE[result.site])} {layer_words([layer for _, layer in run])} more than one position is "
                f"worth half of the gap or more by itself: {', '.join(names[:-1])} and {names[-1]}."
            )
    if nowhere := [i for i, pos in enumerate(best) if pos is None]:
        spread = all(np.sort(share[i])[-2:].min() >= SEEN for i in nowhere)
        told.append(
            f"{layer_words([layers[i] for i in nowhere], 'In')} no single position carries half of the gap"
            + (": several share it." if spread else f" ({percent(share[nowhere].max())} at most).")
        )
    return told


def one_change_alone(result, layers, positions, share, most):
    """What each of several changed tokens does without the others: near the bottom, a patch exchanges one token."""
    changed = differing(result)
    if len(changed) < 2:
        return []
    if len(changed) > 4 or not set(changed) <= set(positions) or layers[0] != 0 or result.alpha != 1:
        return [several_changes(changed, most)]
    run, values = ("clean", "corrupted")[result.direction != "denoising"], []
    almost = "" if result.site == "resid_pre" else "almost "
    for pos in changed:
        part = share[0, positions.index(pos)]
        beyond = f", away from the {run} run" if part <= -SEEN else f", past the {run} run" if part >= 1 + SEEN else ""
        value = number(result.base_value + part * gap(result))
        values.append(f"the {run} {token_words(result, pos)} at position {pos} gives {value} ({percent(part)}{beyond})")
    return [
        f"The texts differ at positions {ranges(changed)}, and a patch {WHERE[result.site]} layer 0 exchanges {almost}"
        f"only one of these tokens, as in a third text: {', '.join(values[:-1])}, and {values[-1]}."
    ]


def leaving(result, pos, layers, share):
    """When the information leaves a changed position; nothing leaves where it never was."""
    peak, carried = int(share.argmax()), np.flatnonzero(share >= HALF)
    if not carried.size:
        return [f"The changed token at position {pos} by itself never carries half ({percent(share[peak])} at most)."]
    fading, gone = (int(np.flatnonzero(share >= limit)[-1]) + 1 for limit in (0.9 * share[peak], HALF))
    back = coming_back(pos, layers[carried[0] : gone], share[carried[0] : gone])
    start = f"At position {pos} the share, {percent(share[peak])} at layer {layers[peak]},"
    if gone == len(layers):
        still = f"{start} is still {percent(share[-1])} at layer {layers[-1]}: the information does not leave it here."
        return [still, *back]
    if gone == len(layers) - 1 and last_layer_is_silent(result):
        still = f"is still {percent(share[gone - 1])} at layer {layers[gone - 1]}"
        start = f"{start} {still}" if peak < gone - 1 else f"At position {pos} the share {still}"
        return [f"{start}; the output of layer {layers[gone]}, the last, is not read there.", *back]
    fade = f"begins to fall at layer {layers[fading]} and " if fading < gone else ""
    return [f"{start} {fade}drops below half at layer {layers[gone]} ({percent(share[gone])}).", *back]


def coming_back(pos, layers, share):
    """Where a position does not carry the information between the first and the last layer in which it does."""
    away = np.flatnonzero(share < HALF)
    if not away.size:
        return []
    back = away[-1] + 1
    return [
        f"At position {pos} it is gone in between, below half at {layer_words([layers[i] for i in away])} (down to "
        f"{percent(share[away].min())}), and back at layer {layers[back]} ({percent(share[back])})."
    ]


def arriving(result, layers, share, given):
    """When the information reaches the last position, and which attention brings it there."""
    trace = next((i for i, s in enumerate(share) if s >= SEEN), None)
    half = next((i for i in range(len(layers)) if (share[i:] >= HALF).all()), None)
    if half is None and share.max() >= HALF:
        at = f"{percent(share.max())} at layer {layers[share.argmax()]}"
        return [f"The last position does not keep it: {at}, but {percent(share[-1])} at layer {layers[-1]}."]
    if half is None:
        return [f"It does not reach the last position in these layers ({percent(share.max())} at most)."]
    last, at = len(result.tokens.clean) - 1, percent(share[half])
    away = [layer for layer, s in zip(layers[:half], share) if s <= -HALF]
    if last in differing(result) and away:
        other, own = ("corrupted", "clean") if result.direction == "denoising" else ("clean", "corrupted")
        ahead = result.answer_labels[int(gap(result) < 0)]
        towards = f" towards {ahead}" if result.metric == "logit_difference" else ""
        return [
            "At the last position the effect turns round. "
            f"{sentence(WHERE[result.site])} {layer_words(away)} its vector still stands for its own token, "
            f"{token_words(result, last)}: what follows from that, the layers above look up in the rest of the {other} "
            f"text, and the metric moves{towards}, away from the {own} run (by {percent(-share[:half].min())}). "
            f"{sentence(WHERE[result.site])} {layer_words(layers[half:])} it holds what was looked up in the {own} "
            f"text ({at})."
        ]
    if layers[half] in given:
        most = max((s for s, layer in zip(share, layers) if layer not in given), default=0)
        told = (
            f"The last position holds more than half only {WHERE[result.site]} layer {layers[half]}, the last, where "
            f"nothing else is read any more; below it, {percent(most)} at most."
        )
        if result.site != "resid_pre" and most < SEEN and layers[half] - 1 in layers:
            told += f" So it is the attention of layer {layers[half]} that brings it there."
        return [told]
    if half == 0 and last in differing(result):
        return [f"The last position, a changed token itself, holds more than half from layer {layers[0]} on ({at})."]
    told = f"The last position holds more than half from layer {layers[half]} on ({at})"
    if trace < half:
        told += f"; the first trace is at layer {layers[trace]} ({percent(share[trace])})"
    told += ". Only attention moves information between positions"
    if last in differing(result) or layers != list(range(layers[0], layers[0] + len(layers))):
        return [told + "."]
    before = [0.0] if layers[0] == 0 and result.site != "resid_pre" else []
    steps = np.diff([*before, *share])
    shift = 1 - len(before) - (result.site == "resid_pre")  # a step from one resid_pre to the next is the layer between
    bring = [layers[0] + int(i) + shift for i in np.flatnonzero(steps >= SEEN)]
    return [told + f": the heads of {layer_words(bring)} bring it there." if bring else told + "."]


def elsewhere(result, positions, share):
    """What the positions do that neither changed nor are the last."""
    ends = (*differing(result), len(result.tokens.clean) - 1)
    between = [p for p in positions if p not in ends and p > result.tokens.first_difference]
    if not between:
        return []
    pos, most = max(((p, np.abs(share[:, positions.index(p)]).max()) for p in between), key=lambda pair: pair[1])
    if most < SEEN:
        return [f"No other position moves the metric by {percent(SEEN)} of the gap (the most: {percent(most)})."]
    return [f"Of the other positions, {position_words(result, pos, '')} moves it most: {percent(most)} at its peak."]
