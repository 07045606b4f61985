"""What a result says, in plain words computed from its numbers.

tell() makes the conclusions, hot_spots() the table of the cells behind them, agreement() compares an attribution with
the exact map. Everything is said in shares of the gap: 0 is the run that was patched, 1 the run the vectors came from.
A conclusion is drawn only where the numbers carry it; of a map without a clear story the text says so.
"""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

HALF, SEEN = 0.5, 0.1  # from half of the gap on a cell carries the information, from a tenth on it shows a trace of it
ROUNDING = 1e-4  # more than float32 leaves of a difference of logits that is zero
WHERE = {"resid_pre": "in front of", "resid_mid": "in the middle of", "resid_post": "behind"}  # the residual stream
WRITES = {"attn_out": "the attention of layer {layer}", "mlp_out": "the MLP of layer {layer}"}
HEADS = {
    "z": "head {layer}.{head}",
    "q": "the query of head {layer}.{head}",
    "k": "the key of head {layer}.{head}",
    "v": "the value of head {layer}.{head}",
    "pattern": "the attention pattern of head {layer}.{head}",
    "pattern_entry": "the attention of head {layer}.{head}",
}
READ_IN_LAST_LAYER = ("resid_pre", "k", "v")  # at any position; of every other site only the last position is


class Spot(NamedTuple):
    """One cell: its index by axis, its value and its share of the gap (NaN without a gap)."""

    place: dict
    value: float
    share: float


def tell(result):
    """The conclusions as sentences, list[str], the most important first."""
    if not np.isfinite(result.values).all():
        return [*baselines(result), "Some values are not finite numbers: nothing is concluded from this map."]
    if abs(gap(result)) <= 10 * noise(result):
        return [
            "There is no gap to restore: the clean and the corrupted run have the same value, so shares mean nothing. "
            "Choose answers, or a metric, that tell the two runs apart.",
            *baselines(result),
        ]
    if not moves(result).any():
        why = "alpha = 0 writes nothing." if result.alpha == 0 else "what these cells hold does not reach the answer."
        return [f"No patch of this map moves the metric at all: {why}", *baselines(result), *expected_zeros(result)]
    told = stream_story(result) if is_stream(result) else cell_story(result)
    return [*told, *baselines(result), *expected_zeros(result), *cautions(result)]


# Facts


def gap(result):
    return result.target_value - result.base_value


def noise(result):
    """The size of a change of the metric that means nothing: relative, and for logits at least ROUNDING."""
    bounded = "probability" in result.metric and "log" not in result.metric
    return ROUNDING * max(abs(result.clean_value), abs(result.corrupted_value), 0 if bounded else 1)


def moves(result):
    return np.abs(np.asarray(result.values, float) - result.base_value) > noise(result)


def is_stream(result):
    return result.site in WHERE and tuple(result.axes) == ("layer", "position")


def differing(result):
    """The positions at which the two texts differ."""
    pairs = zip(result.tokens.clean, result.tokens.corrupted)
    return [pos for pos, (clean, corrupted) in enumerate(pairs) if clean != corrupted]


def last_layer_is_silent(result):
    """Whether the topmost layer is the model's last, as its cells show: off the last position nothing reads them."""
    if result.site in READ_IN_LAST_LAYER or "position" not in result.axes:
        return False
    positions, top = np.array(result.axes["position"]), int(np.argmax(result.axes["layer"]))
    off = (positions >= result.tokens.first_difference) & (positions < len(result.tokens.clean) - 1)
    return off.any() and not np.compress(off, moves(result)[top], tuple(result.axes).index("position") - 1).any()


def spots(result):
    """All cells as Spots, the largest change of the metric first."""
    share = result.share
    order = np.argsort(-np.abs(result.values - result.base_value), axis=None, kind="stable")
    for index in zip(*np.unravel_index(order, share.shape)):
        place = {axis: chosen[i] for (axis, chosen), i in zip(result.axes.items(), index)}
        yield Spot(place, float(result.values[index]), float(share[index]))


def hot_spots(result, n=8):
    """The n Spots with the largest change; of the residual stream, which hands vectors on from layer to layer, only the
    best of each position."""
    found, seen = [], set()
    for spot in spots(result):
        key = spot.place["position"] if is_stream(result) else len(found)
        if key not in seen and abs(spot.value - result.base_value) > noise(result) and len(found) < n:
            seen.add(key)
            found.append(spot)
    return found


def agreement(exact, estimate):
    """Compare two maps of the same cells: (correlation, NaN where one does not vary; index of the worst cell)."""
    if exact.axes != estimate.axes:
        raise ValueError(f"only maps of the same cells can be compared, got {exact!r} and {estimate!r}")
    a, b = np.ravel(exact.values).astype(float), np.ravel(estimate.values).astype(float)
    varied = min(np.ptp(a), np.ptp(b)) > noise(exact)
    worst = np.unravel_index(np.abs(a - b).argmax(), exact.values.shape)
    return float(np.corrcoef(a, b)[0, 1]) if varied else float("nan"), tuple(map(int, worst))


# The residual stream: which position carries the information, layer by layer


def stream_story(result):
    last, changed = len(result.tokens.clean) - 1, differing(result)
    if changed == [last]:
        return [
            "The changed token is the last one itself: by construction every layer has it there, nothing has to move."
        ]
    layers, positions, share = ascending(result)
    given = {layers[-1]} if last_layer_is_silent(result) and last in positions else set()  # all of the gap, in any map
    if result.site == "resid_pre" and layers[0] == 0 and len(changed) == 1:
        given.add(0)
    best = [positions[i] if row[i] >= HALF else None for row, i in zip(share, share.argmax(axis=1))]
    path = [(pos, [layer for _, layer in run]) for pos, run in groupby(zip(best, layers), key=lambda pair: pair[0])]
    found = [spot for spot in spots(result) if spot.place["layer"] not in given]
    if not found:
        return ["Nothing can be concluded: these cells have their values by construction."]
    top = max(found, key=lambda spot: spot.share)
    if top.share < HALF:
        told = ["There is no clear story: in no layer that could fail to does a single position carry half of the gap."]
    else:
        steps = groupby((step for step in path if step[0] is not None), key=lambda step: step[0])
        stations = [(pos, [layer for _, run in runs for layer in run]) for pos, runs in steps]
        where = [f"{position_words(result, pos)} {WHERE[result.site]} {layer_words(run)}" for pos, run in stations]
        told = [f"What tells the two texts apart sits {' and then '.join(where)}."]
        if len({pos for pos, _ in stations}) > 3:
            told = [
                f"There is no simple story: from layer to layer another position carries most ({'; '.join(where)})."
            ]
        if spread := [layer for pos, run in path if pos is None for layer in run]:
            told.append(f"{layer_words(spread, 'In')} no single position carries half of the gap: it is spread out.")
    told.append(f"The best cell, {place_words(result, top.place)}, {restores(result)} {percent(top.share)} of the gap.")
    for pos in changed:
        if pos in positions and pos != last:
            told += leaving(result, pos, layers, share[:, positions.index(pos)])
    if last in positions:
        told += arriving(result, layers, share[:, positions.index(last)], given)
    between = [p for p in positions if p not in (*changed, last) and p > result.tokens.first_difference]
    if between and top.share >= HALF:
        pos, most = max(((p, np.abs(share[:, positions.index(p)]).max()) for p in between), key=lambda pair: pair[1])
        if most < SEEN:
            told.append(
                f"No other position moves the metric by {percent(SEEN)} of the gap (the most: {percent(most)})."
            )
        else:
            told.append(
                f"Of the other positions, {position_words(result, pos, '')} moves it most: {percent(most)} at its peak."
            )
    return told


def ascending(result):
    """Layers, positions and the shares [n_layer, n_positions], all in ascending order."""
    rows, columns = (np.argsort(result.axes[axis]) for axis in ("layer", "position"))
    return sorted(result.axes["layer"]), sorted(result.axes["position"]), result.share[rows][:, columns]


def leaving(result, pos, layers, share):
    """When the information leaves a changed position; nothing leaves where it never was."""
    peak = int(share.argmax())
    if share[peak] < HALF:
        return [f"The changed token at position {pos} by itself never carries half ({percent(share[peak])} at most)."]
    fading = next((i for i in range(peak, len(layers)) if share[i] < 0.9 * share[peak]), None)
    gone = next((i for i in range(peak, len(layers)) if share[i] < HALF), None)
    start = f"At position {pos} the share, {percent(share[peak])} at layer {layers[peak]},"
    if gone is None:
        return [f"{start} is still {percent(share[-1])} at layer {layers[-1]}: the information does not leave it here."]
    fade = f"begins to fall at layer {layers[fading]} and " if fading < gone else ""
    return [f"{start} {fade}drops below half at layer {layers[gone]} ({percent(share[gone])})."]


def arriving(result, layers, share, given):
    """When the information reaches the last position."""
    trace = next((i for i, s in enumerate(share) if s >= SEEN), None)
    half = next((i for i in range(len(layers)) if (share[i:] >= HALF).all()), None)
    if half is None:
        return [f"It does not reach the last position in these layers ({percent(share.max())} at most)."]
    if layers[half] in given:
        most = max((s for s, layer in zip(share, layers) if layer not in given), default=0)
        return [
            f"The last position holds more than half only {WHERE[result.site]} layer {layers[half]}, the last, where "
            f"nothing else is read any more; below it, {percent(most)} at most."
        ]
    told = f"The last position holds more than half from layer {layers[half]} on ({percent(share[half])})"
    if trace < half:
        told += f"; the first trace is at layer {layers[trace]} ({percent(share[trace])})"
    steps = np.diff(share)
    if steps.size and steps.max() >= SEEN:
        told += f", the largest step at layer {layers[int(steps.argmax()) + 1]}"
    return [told + ". Only attention moves information between positions: its heads in these layers carry it there."]


# Every other map: which cells stand out


def cell_story(result):
    if result.site in WHERE:
        share = result.share
        spread = f"{percent(share.min())} to {percent(share.max())}" if np.ptp(share) > 0.005 else percent(share.max())
        must = ", as they must: the layers above read nothing else" if result.alpha == 1 else ""
        return [f"All positions of one layer together {restores(result, False)} {spread} of the gap{must}."]
    ranked = list(spots(result))
    helping = [spot for spot in ranked if spot.share >= SEEN]
    against = [spot for spot in ranked if spot.share <= -SEEN]
    if not helping and not against:
        return [
            f"There is no clear story: no cell moves the metric by {percent(SEEN)} of the gap. The most is "
            f"{percent(ranked[0].share)}: {place_words(result, ranked[0].place)}."
        ]
    if not helping:
        told = [f"No cell {restores(result)} a tenth of the gap, and some work against it."]
    else:
        told = [standing(result, helping, against)]
        told.append(f"The best cell {restores(result)} {percent(helping[0].share)} of the gap.")
        told.append(f"A tenth or more each: {listed(result, helping)}.")
    if against:
        told.append(f"Against it work: {listed(result, against)}.")
    return [*told, "Shares of single cells need not add up: the layers above read them together."]


def standing(result, helping, against):
    """How far the best cell stands out of the others, as a sentence."""
    top, place = helping[0].share, sentence(place_words(result, helping[0].place))
    rival = max((abs(spot.share) for spot in (*helping[1:2], *against[:1])), default=0)
    if against and -against[0].share > top / 2:
        return (
            f"There is no clear story: {len(helping)} of the {result.values.size} cells work for it and {len(against)} "
            f"against it, up to {percent(against[0].share)}."
        )
    if top >= HALF and rival < top / 2:
        return f"{place} carries most of it, and no other cell half as much."
    if len(helping) > 8:
        return f"{place} contributes most, but the work is spread over {len(helping)} cells."
    return f"{place} contributes most{'' if top >= HALF else ', but no single cell carries half of the gap'}."


def listed(result, found, most=8):
    """Cells in one line, "layer 10 (35 %)" or "head 9.6 (20 %)", grouped by position where they have one."""
    words = {}
    for spot in found[:most]:
        place = spot.place
        name = f"head {place['layer']}.{place['head']}" if "head" in place else f"layer {place['layer']}"
        name += f" to position {place['source']}" if "source" in place else ""
        words.setdefault(place.get("position"), []).append(f"{name} ({percent(spot.share)})")
    groups = [
        (f"{position_words(result, pos)}, " if pos is not None else "") + ", ".join(w) for pos, w in words.items()
    ]
    return "; ".join(groups) + (f"; and {len(found) - most} more" if len(found) > most else "")


# Said of every map


def baselines(result):
    clean, corrupted = result.clean_value, result.corrupted_value
    text = f"{result.unit} is {number(clean)} after the clean text and {number(corrupted)} after the corrupted one"
    if result.metric != "logit_difference":
        return [f"{text}."]
    wins = [result.answer_labels[value > 0] if value else None for value in (clean, corrupted)]
    if None in wins:
        return [f"{text}."]
    if wins[0] == wins[1]:
        return [f"{text}: {wins[0]} is ahead after both, and only the margin changes."]
    if wins == list(result.answer_labels):
        return [f"{text}: {wins[0]} is ahead after the clean text, {wins[1]} after the corrupted one."]
    return [f"{text}: the model prefers the answers the other way round, {wins[0]} after the clean text."]


def expected_zeros(result):
    """Which cells have no effect and why that is expected, checked against the numbers."""
    if "position" not in result.axes:
        return []
    axis, told = tuple(result.axes).index("position"), []
    positions, first = np.array(result.axes["position"]), result.tokens.first_difference
    before = np.flatnonzero(positions < first)
    if before.size:
        names = (
            f"Position{'s' * (before.size > 1)} {ranges(positions[before].tolist())}, before the first changed token,"
        )
        if np.take(moves(result), before, axis).any():
            told.append(f"{names} should have no effect and do: something is wrong with this map.")
        else:
            has = "have" if before.size > 1 else "has"
            told.append(
                f"{names} {has} no effect, as expected: both texts are the same so far, and so is every vector."
            )
    if last_layer_is_silent(result):
        last = max(result.axes["layer"])
        told.append(f"Layer {last} has no effect off the last position, as expected: no later layer reads it there.")
    return told


def cautions(result):
    """What the reader should know before believing the numbers."""
    told, share, changed = [], result.share, differing(result)
    if result.method == "attribution":
        told.append(
            "These are first-order estimates from one backward pass, not patches: check large cells with the exact map."
        )
    if len(changed) > 1 and "position" in result.axes:
        told.append(
            f"The texts differ at positions {ranges(changed)}: one position carries only its part of the change."
        )
    if len(result.axes.get("position", result.tokens.clean)) < len(result.tokens.clean):
        told.append(f"Only positions {ranges(result.axes['position'])} were patched.")
    if result.alpha != 1:
        told.append(f"Only a blend was written (alpha = {result.alpha:g}), so 100 % is not to be expected.")
    if is_stream(result) and share.min() <= -SEEN:
        worst = min(spots(result), key=lambda spot: spot.share)
        told.append(
            f"Some patches move the metric the other way, up to {percent(worst.share)}: "
            f"{place_words(result, worst.place)}."
        )
    if share.max() > 1 + SEEN:
        told.append(f"Shares above 100 % (up to {percent(share.max())}) overshoot the run that the vectors came from.")
    told.append(
        "Denoising shows which vectors are enough to bring the clean behaviour back, not which are needed."
        if result.direction == "denoising"
        else "Noising shows which vectors the clean behaviour needs, not which are enough for it."
    )
    return told


# Words


def restores(result, one=True):
    return ("restore" if result.direction == "denoising" else "destroy") + "s" * one


def place_words(result, place):
    """A cell in words: "at position 1 (␣Jones → ␣Smith) behind layer 0", "head 7.3"."""
    at = position_words(result, place["position"]) if "position" in place else ""
    if result.site in WHERE:
        return f"{at} {WHERE[result.site]} layer {place['layer']}"
    part = (WRITES | HEADS)[result.site].format(**place)
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


def layer_words(layers, start=""):
    return f"{start} layer{'s' * (len(layers) > 1)} {ranges(layers)}".strip()


def ranges(numbers):
    """ "0 to 3, 5 and 7" for [0, 1, 2, 3, 5, 7]."""
    parts = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        parts.append(f"{run[0]} to {run[-1]}" if len(run) > 2 else " and ".join(map(str, run)))
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def short(model):
    """The name of a model as tables and pictures have it: of a folder's path, or of owner/name, the last part."""
    return Path(model).name or "model"


def percent(share):
    rounded = round(100 * float(share))
    return f"{'<' if 0 < share < 0.005 else ''}{1 if 0 < share < 0.005 else rounded} %"


def number(value):
    return f"{value:.4g}" if abs(value) < 0.01 else f"{value:.2f}"


def sentence(text):
    return text[:1].upper() + text[1:]
