"""What a result says, in plain words computed from its numbers.

Each conclusion is a function that yields sentences, or none where the numbers do not carry it; CONCLUSIONS has them in the
order of reading, with the kinds of map (Findings.kind) of which they are said. They say what patches did to the metric;
what in the model did it, which heads, say, a map of the stream cannot show.
"""

from itertools import groupby

import numpy as np

from ..metrics import METRICS
from ..result import OTHER_RUN
from .findings import HALF, SEEN, Findings
from .labels import cell_words, effect, joined, layer_words, place_words, position_words, ranges
from .numbers import number, percent


def tell(result):
    """The conclusions from a Result, or its Findings, as sentences, list[str], the most important first."""
    f = result if isinstance(result, Findings) else Findings(result)
    return [text for kinds, some in CONCLUSIONS if f.kind in kinds for conclude in some for text in conclude(f)]


def values_are_not_finite(f):
    yield "Some values are not finite numbers: nothing is concluded from this map."


def there_is_no_gap(f):
    yield "There is no gap to restore: both runs have the same value, so shares mean nothing."
    yield "Choose answers, or a metric, that tell the two runs apart."


def nothing_moves(f):
    why = "alpha = 0 writes nothing" if f.result.alpha == 0 else "what these cells hold does not reach the answer"
    yield f"No patch of this map moves the metric at all: {why}."


def whole_layers_are_a_check(f):
    must = ", as it must: nothing else is passed on to later layers" if f.result.alpha == 1 else ""
    low = f"from {percent(f.share.min())} to " if np.ptp(f.share) > 0.005 else ""
    yield f"Patching all positions of a layer together {effect(f.result, low + percent(f.share.max()))}{must}."


def values_are_given_by_construction(f):
    last = (
        "the changed token is the last one, so the last position" if f.differing == (f.last,) else "one of these cells"
    )
    yield f"Nothing can be concluded: {last} holds all of the difference by construction."


def values_lie_beyond_both_runs(f):
    reach = f"by {percent(f.share.min())} to {percent(f.share.max())} of the gap ({number(abs(f.result.gap))})"
    yield f"There is no clear story: single patches move the metric {reach}, to values well outside those of both texts."


def where_the_difference_is_carried(f):
    if f.most < HALF:
        yield "There is no clear story: no position carries half of the gap, but where one must by construction."
        return
    carried = [(pos, layer) for pos, layer in zip(f.carriers, f.layers) if pos is not None]
    runs = [(pos, [layer for _, layer in run]) for pos, run in groupby(carried, lambda pair: pair[0])]
    where = [f"{position_words(f.result, pos)} {layer_words(f.result, layers)}" for pos, layers in runs]
    yield f"The difference between the texts is carried at {', then at '.join(where)}."
    if none := [i for i, pos in enumerate(f.carriers) if pos is None]:
        layers = layer_words(f.result, [f.layers[i] for i in none])
        yield f"No single position carries half of the gap {layers} ({percent(f.grid[none].max())} at most)."


def the_best_cell(f):
    yield f"The best cell, {place_words(f.result, f.best.place)}, {effect(f.result, percent(f.best.share))}."


def each_changed_token_alone(f):
    r, changed = f.result, f.differing
    if len(changed) in (2, 3, 4) and set(changed) <= set(f.positions) and f.layers[0] == 0 and r.alpha == 1:
        values = [(f"the {r.target} {f.target_labels[pos]} at position {pos} gives", f.at(pos)[0]) for pos in changed]
        values = [f"{what} {number(r.base_value + share * r.gap)} ({percent(share)})" for what, share in values]
        patching = f"The texts differ at positions {ranges(changed)}, and patching {layer_words(r, [0])}"
        yield f"{patching} is nearly the same as swapping that one token: {joined(values)}."


def the_changed_positions_and_the_last(f):
    ends = (*(f.differing if len(f.differing) <= 4 else ()), f.last)
    for pos, share in ((pos, f.at(pos)) for pos in dict.fromkeys(ends) if pos in f.positions):
        there = "At the last position" if pos == f.last else f"At position {pos}"
        enough = np.flatnonzero(share >= HALF)
        if not enough.size:
            yield f"{there} the share never reaches half ({percent(share.max())} at most)."
            continue
        first, after, layers = enough[0], enough[-1] + 1, [f.layers[i] for i in enough]
        must = ", where it must be" if set(layers) <= f.by_construction else ""
        reach = " to ".join(dict.fromkeys(map(percent, (share[enough].min(), share[enough].max()))))
        before = f"; before that, {percent(share[:first].max())} at most" if first else ""
        then = [
            f"; {layer_words(f.result, [f.layers[i]])} it is {percent(share[i])}" for i in range(len(share))[after:]
        ]
        yield f"{there} the share is half or more {layer_words(f.result, layers)}{must} ({reach}){before}{''.join(then[:1])}."
        if away := [layer for layer, s in zip(f.layers, share) if s <= -HALF]:
            far = f"{layer_words(f.result, away)}, the metric moves away from the {f.result.target} run"
            yield f"{there} the sign of the effect flips: {far} ({percent(share.min())})."


def other_positions(f):
    others = [p for p in f.positions if p > f.differing[0] and p not in f.differing and p != f.last]
    most, pos = max(((np.abs(f.at(p)).max(), p) for p in others), default=(0, None))
    if others and most < SEEN:
        yield f"No other position moves the metric by {percent(SEEN)} of the gap (the most: {percent(most)})."
    elif others:
        yield f"Of the other positions, {position_words(f.result, pos)} moves it most: {percent(most)} at its peak."


def the_largest_effect(f):
    top, enough = next(f.cells()), "enough" if f.result.direction == "denoising" else "needed"
    place, share = place_words(f.result, top.place), percent(top.share)
    if abs(top.share) >= SEEN:
        yield f"The largest effect is that of {place}: {share} of the gap{', the other way' * bool(top.share < 0)}."
        return
    yield f"There is no clear story: no cell moves the metric by {percent(SEEN)} of the gap. The most: {place}, {share}."
    yield f"So none of these cells is {enough} by itself, which does not rule out that several at once are."


def cells_with_a_tenth_or_more(f):
    for words, cells in (("A tenth of the gap or more", f.helping), ("The other way", f.opposing)):
        if cells:
            yield f"{words}: {cell_words(f.result, cells)}."
    if (total := sum(cell.share for cell in f.helping)) > 1 + SEEN:
        yield f"Together these shares make {percent(total)}, more than the whole gap: single effects need not add up."


def which_answer_is_ahead(f):
    r, values = f.result, (f.result.clean_value, f.result.corrupted_value)
    told = f"{r.unit} is {number(values[0])} after the clean text and {number(values[1])} after the corrupted one"
    if r.metric in METRICS and METRICS[r.metric].compares and f.kind not in ("not finite", "no gap"):
        level = max(r.noise, 0.05 * abs(r.gap))
        ahead = [r.answer_labels[value > 0] if abs(value) > level else "neither answer" for value in values]
        after = "both" if ahead[0] == ahead[1] else f"the clean text, {ahead[1]} after the corrupted one"
        told += f": {ahead[0]} is ahead after {after}"
    yield f"{told}."


def before_the_first_change(f):
    positions = np.array(f.result.axes.get("position", []))
    if f.result.source == OTHER_RUN and (before := np.flatnonzero(positions < f.differing[0])).size:
        where = (
            f"position{'s' * (before.size > 1)} {ranges(positions[before].tolist())}, before the first changed token,"
        )
        if np.take(f.moves, before, tuple(f.result.axes).index("position")).any():
            yield f"At {where} there should be no effect and there is: something is wrong with this map."
        else:
            yield f"At {where} there is no effect, as expected: so far both texts are the same, and so is every vector."


def the_last_layer_off_the_last_position(f):
    if f.last_layer_is_silent:
        last = max(f.result.axes["layer"])
        yield f"Layer {last} has no effect off the last position, as expected: no later layer reads it there."


def how_far_the_values_can_be_trusted(f):
    if f.result.method == "attribution":
        yield "These are first-order estimates from one backward pass, not patches: check large cells with the exact map."
    if f.result.alpha != 1:
        yield f"The vectors written are not the other run's own (alpha = {f.result.alpha:g}): do not expect 100 %."


def shares_beyond_0_and_1(f):
    told = (*f.differing, f.last)  # of positions at which the effect flips
    others = [cell for cell in f.opposing if cell.share > -HALF or cell.place.get("position") not in told]
    if f.is_stream and others:
        worst = f"{percent(others[0].share)}: {place_words(f.result, others[0].place)}"
        yield f"Some patches move the metric the other way, up to {worst}."
    if f.share.max() > 1 + SEEN:
        yield f"Shares above 100 % (up to {percent(f.share.max())}) overshoot the run that the vectors came from."


def what_the_direction_can_show(f):
    if f.result.source != OTHER_RUN:
        yield "Ablation shows what this text needs by itself; parts that stand in for each other hide each other's effect."
    elif f.result.direction == "denoising":
        yield "Denoising shows which vectors are enough to bring the clean behaviour back, not which are needed."
    else:
        yield "Noising shows which vectors the clean behaviour needs, not which are enough for it."


STREAM, PARTS, BEYOND = "stream", "parts", "beyond both runs"
MAPS = (STREAM, PARTS, BEYOND, "by construction", "whole layers")  # of which something can be said
CONCLUSIONS = (
    (("not finite",), [values_are_not_finite]),
    (("no gap",), [there_is_no_gap]),
    (("no effect",), [nothing_moves]),
    (("whole layers",), [whole_layers_are_a_check]),
    (("by construction",), [values_are_given_by_construction]),
    ((BEYOND,), [values_lie_beyond_both_runs]),
    ((STREAM,), [where_the_difference_is_carried, the_best_cell]),
    ((STREAM, BEYOND), [each_changed_token_alone]),
    ((STREAM,), [the_changed_positions_and_the_last, other_positions]),
    ((PARTS,), [the_largest_effect, cells_with_a_tenth_or_more]),
    ((*MAPS, "not finite", "no gap", "no effect"), [which_answer_is_ahead]),
    ((*MAPS, "no effect"), [before_the_first_change, the_last_layer_off_the_last_position]),
    (MAPS, [how_far_the_values_can_be_trusted, shares_beyond_0_and_1, what_the_direction_can_show]),
)
