"""What a result is checked for as it is made, since a patch that silently does nothing looks like a finding.

Each check goes the slow way, patch by patch through the whole model, on one pair: nothing of the one-pass sweep, which made the
map, is in it. A check that fails raises SelfCheckFailed: such a map must not be looked at.
"""

import numpy as np

from .. import sweeps as engine


class SelfCheckFailed(ValueError):
    """A result is not what it must be in any model; the message says what."""


def self_checks(model, pair, result, ask):
    """The checks that this question allows, run on one pair; the sentences say what held. result is the pair's map."""
    options = {**ask.options, "metric": first_of(ask.options["metric"])}
    found = [no_effect_at_alpha_0(model, pair, result, ask.site, options)]
    if ask.method == "patching" and result.spread is None:
        found.append(largest_cell_again(model, pair, result, ask.site, options))
    if options["source"] is None and not options["overwrites"] and options["source_overwrites"] is None:
        found.append(before_the_change(model, pair, result, ask.site, options))
        found.append(everything_patched(model, pair, result, options))
    return tuple(filter(None, found))


def first_of(metric):
    return metric[0] if isinstance(metric, (list, tuple)) else metric


def held(what, value, expected, noise):
    """The sentence, if value is expected to within noise; SelfCheckFailed if not."""
    worst = float(np.abs(np.asarray(value, np.float64) - expected).max())
    if not worst <= noise:
        raise SelfCheckFailed(f"self-check failed: {what}, but it is {worst:.3g} off: do not use this map")
    return what


def no_effect_at_alpha_0(model, pair, result, site, options):
    layers = result.axes.get("layer", [None])[-1:]
    where = {} if options["places"] is not None else {"layers": layers, **in_roles(result)}
    again = engine.sweep(model, pair, site, **{**options, **where, "alpha": 0.0})
    return held("at alpha 0 the patched run is reproduced", again.values, result.base_value, result.noise)


def in_roles(result):
    return {"positions": result.axes["position"]} if "position" in result.axes else {"positions": "all"}


def largest_cell_again(model, pair, result, site, options):
    """The cell with the largest effect by sweep_one_by_one."""
    index = np.unravel_index(np.abs(result.values - result.base_value).argmax(), result.values.shape)
    if options["places"] is not None:
        where = {"places": [options["places"][index[0]]]}
    else:
        at = result.place(index)
        if "source" in at:  # one by one it would be all entries of a row
            return None
        where = {f"{axis}s": [i] for axis, i in at.items()}
        where |= {} if "position" in at else {"positions": "all"}
    again = engine.sweep_one_by_one(model, pair, site, **{**options, **where})
    noise = max(result.noise, 1e-4 * float(np.abs(result.values).max()))
    return held("the largest cell is the same patched by itself", again.values, result.values[index], noise)


def before_the_change(model, pair, result, site, options):
    """Cells at positions before the first change, the topmost of them also patched one by one."""
    first = pair.tokens(model).first_difference
    early = [i for i, pos in enumerate(result.axes.get("position", ())) if pos < first]
    if not early or options["places"] is not None or result.method != "patching":
        return None
    cells = np.take(result.values, early, axis=list(result.axes).index("position"))
    if (cells != np.asarray(result.base_value, cells.dtype)).any():
        raise SelfCheckFailed("self-check failed: a patch before the first changed token moves the metric")
    if "source" not in result.axes:
        at = {f"{axis}s": [chosen[0]] for axis, chosen in result.axes.items()} | {
            "positions": [result.axes["position"][early[0]]]
        }
        again = engine.sweep_one_by_one(model, pair, site, **{**options, **at})
        held("a patch before the first changed token does nothing", again.values, result.base_value, result.noise)
    return "cells before the first changed token are exactly without effect"


def everything_patched(model, pair, result, options):
    """All positions of the stream after layer 0 are all there is: the other run must come out."""
    if options["alpha"] != 1:
        return None
    keep = {name: options[name] for name in ("direction", "metric")}
    again = engine.sweep_one_by_one(model, pair, "resid_post", layers=[0], positions="all", **keep)
    return held("with the whole stream patched the other run comes out", again.values, again.target_value, again.noise)
