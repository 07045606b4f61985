"""What a result says, in plain words computed from its numbers.

tell() makes the conclusions: of the residual stream stream.py, of every other map cell_story() here. The numbers behind
them are reading.py's, the names of cells words.py's. A conclusion is drawn only where the numbers carry it; of a map
without a clear story the text says so.
"""

import numpy as np

from .findings import HALF, SEEN, differing, gap, is_stream, last_layer_is_silent, moves, noise, spots
from .labels import WHERE, number, percent, place_words, position_words, ranges, restores, sentence, several_changes
from .stream import stream_story


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


# Every other map: which cells stand out


def cell_story(result):
    if result.site in WHERE:
        return together(result)
    ranked = list(spots(result))
    helping = [spot for spot in ranked if spot.share >= SEEN]
    against = [spot for spot in ranked if spot.share <= -SEEN]
    if not helping and not against:
        return nothing_stands_out(result, ranked[0])
    if not helping:
        told = [f"No cell {restores(result, SEEN)}, and some work against it."]
    else:
        place, told = place_words(result, helping[0].place), [standing(result, helping, against)]
        name = "" if told[0].startswith(sentence(place)) else f", {place},"
        told.append(f"The best cell{name} {restores(result, helping[0].share)}.")
        if len(helping) > 1:
            told.append(f"A tenth or more each: {listed(result, helping)}.")
    if against:
        told.append(f"Against it work: {listed(result, against)}.")
    if helping and sum(spot.share for spot in helping) > 1 + SEEN:
        total = percent(sum(spot.share for spot in helping))
        told.append(
            f"Together these shares make {total}, more than the whole gap, and need not add up: some cells pass on "
            "what others wrote, or stand in for each other."
        )
    else:
        told.append("Shares of single cells need not add up: the layers above read them together.")
    return told


def together(result):
    """Of a map in which all positions of a layer were patched at once: a check, and no finding."""
    share, must = result.share, ", as they must: the layers above read nothing else" if result.alpha == 1 else ""
    spread = f"from {percent(share.min())} to " if np.ptp(share) > 0.005 else ""
    return [f"All positions of one layer together {restores(result, share.max(), spread, one=False)}{must}."]


def nothing_stands_out(result, most):
    told = [
        f"There is no clear story: no cell moves the metric by {percent(SEEN)} of the gap. The most is "
        f"{percent(most.share)}: {place_words(result, most.place)}."
    ]
    if result.site.startswith("pattern"):
        told.append("So where one head looks does not decide it; what it reads there, or several heads at once, may.")
    elif result.direction == "denoising":
        told.append("So none of these cells is enough by itself; several at once may be.")
    else:
        told.append("So none of these cells is needed by itself: the others make up for it, or it plays no part.")
    return told


def standing(result, helping, against):
    """How far the best cell stands out of the others, as a sentence."""
    top, place = helping[0].share, sentence(place_words(result, helping[0].place))
    rival = max((abs(spot.share) for spot in (*helping[1:2], *against[:1])), default=0)
    if against and -against[0].share >= HALF and -against[0].share > 2 * top:
        worst = place_words(result, against[0].place)
        return f"The largest effect goes the other way: {worst} ({percent(against[0].share)})."
    if against and -against[0].share > top / 2:
        return (
            f"There is no clear story: {len(helping)} of the {result.values.size} cells "
            f"work{'s' * (len(helping) == 1)} for it and {len(against)} against it, up to {percent(against[0].share)}."
        )
    if top >= 1 + HALF:
        return f"{place} moves the metric furthest, well past the other run."
    if top >= HALF and rival < top / 2:
        return f"{place} carries most of the gap, and no other cell half as much."
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
    level = max(noise(result), 0.05 * abs(gap(result)))
    wins = [result.answer_labels[value > 0] if abs(value) > level else None for value in (clean, corrupted)]
    if wins == [None, None]:
        return [f"{text}: neither answer is clearly ahead after either."]
    if None in wins:
        ahead, even = ("clean", "corrupted") if wins[0] else ("corrupted", "clean")
        best = wins[0] or wins[1]
        return [f"{text}: {best} is ahead after the {ahead} text; after the {even} one the two are level."]
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
    if len(changed) > 1 and "position" in result.axes and not is_stream(result):
        told.append(several_changes(changed, share.max()))
    positions = result.axes.get("position", result.tokens.clean)
    if len(positions) < len(result.tokens.clean):
        several = "s {} were" if len(positions) > 1 else " {} was"
        told.append(f"Only position{several.format(ranges(positions))} patched.")
    if result.alpha != 1:
        told.append(blend(result.alpha))
    if is_stream(result) and share.min() <= -SEEN:
        worst = min(spots(result), key=lambda spot: spot.share)
        if worst.place["position"] not in changed or len(changed) == 1:  # else one_change_alone() has said so
            where = place_words(result, worst.place)
            told.append(f"Some patches move the metric the other way, up to {percent(worst.share)}: {where}.")
    if share.max() > 1 + SEEN:
        told.append(f"Shares above 100 % (up to {percent(share.max())}) overshoot the run that the vectors came from.")
    told.append(
        "Denoising shows which vectors are enough to bring the clean behaviour back, not which are needed."
        if result.direction == "denoising"
        else "Noising shows which vectors the clean behaviour needs, not which are enough for it."
    )
    return told


def blend(alpha):
    """What an alpha other than 1 has written, and what shares it leads one to expect."""
    if alpha > 1:
        return f"The vectors were pushed past the other run's (alpha = {alpha:g}), so shares may well pass 100 %."
    if alpha < 0:
        return f"The vectors were pushed away from the other run's (alpha = {alpha:g}), so expect shares below 0 %."
    return f"Only a blend was written (alpha = {alpha:g}), so 100 % is not to be expected."
