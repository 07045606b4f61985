"""The published patching matrices against both sweeps: the kind "patching" of `python -m patching.verify`."""

import numpy as np

from minigpt2.facts import compare

from ..prompts import PromptPair
from ..sweeps import sweep, sweep_one_by_one

SWEEPS = {"plain": sweep_one_by_one, "one-pass": sweep}


def check_patching(subject, entry, facts):
    """Both runs' own values, then each matrix and the blended patches through the plain and through the one-pass sweep."""
    answers = [token for token, _ in entry["answers"]]
    pair = PromptPair.from_tokens(entry["clean_ids"], entry["corrupted_ids"], answers)
    source, tolerance = entry["source"], entry["tolerance"]
    for word, one_sweep in SWEEPS.items():
        for site, expected in entry["sites"].items():
            result = one_sweep(subject.model, pair, site)
            if (word, site) == ("plain", next(iter(entry["sites"]))):
                for run in ("clean", "corrupted"):
                    name = f"{run}_value"
                    yield compare("patching", f"{run} run", entry[name], getattr(result, name), source, tolerance)
            yield compare(
                "patching", f"{word} sweep of {site}, {result.values.size} cells", expected, result.values, source,
                tolerance, where=lambda at: f"layer {at[0]}, position {at[1]}",
            )  # fmt: skip
        blends = entry.get("interpolated", [])
        if blends:
            yield compare(
                "patching", f"{word} sweep with alpha, {len(blends)} cells", [blend["value"] for blend in blends],
                [blended(one_sweep, subject.model, pair, blend) for blend in blends], source, tolerance,
                where=lambda at: ", ".join(f"{k} {blends[at[0]][k]}" for k in ("layer", "position", "alpha")),
            )  # fmt: skip


def blended(one_sweep, model, pair, blend):
    """One patch of (1 - alpha) corrupted + alpha clean."""
    places = {"layers": [blend["layer"]], "positions": [blend["position"]]}
    return np.squeeze(one_sweep(model, pair, blend["site"], alpha=blend["alpha"], **places).values)
