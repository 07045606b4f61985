"""The map of the real GPT-2 small, as others have published it: figures/published_resid_post_gpt2.png

Nothing is computed here. The matrix and the values of both runs are those of minigpt2/facts/gpt2.json, whose README says
where each number comes from; `python -m patching.verify` compares this project's own sweep with them, on the real weights.
"""

import sys

import numpy as np

from minigpt2.facts import load_facts
from minigpt2.terminal import guarded
from patching import Result
from patching.prompts import PairTokens

CLEAN = "Michelle| Jones| was| a| top|-|not|ch| student|.| Michelle".split("|")
OUT = "figures/published_resid_post_gpt2.png"


def published(facts, site="resid_post"):
    """The published matrix of the surname example as a Result, and its source."""
    entry = next(entry for entry in facts["patching"] if entry["clean"] == "".join(CLEAN))
    clean, corrupted = (tuple(entry[f"{run}_ids"]) for run in ("clean", "corrupted"))
    (_, jones), (_, smith) = entry["answers"]
    swapped = [smith if token == jones else token for token in CLEAN]
    labels = [tuple(token.replace(" ", "␣") for token in tokens) for tokens in (CLEAN, swapped, (jones, smith))]
    values = np.array(entry["sites"][site], np.float32)  # [n_layer, n_seq]
    result = Result(
        values=values,
        clean_value=entry["clean_value"],
        corrupted_value=entry["corrupted_value"],
        axes={"layer": list(range(values.shape[0])), "position": list(range(values.shape[1]))},
        site=site,
        direction="denoising",
        metric="logit_difference",
        unit=f"logit({labels[2][1]}) - logit({labels[2][0]})",
        alpha=1.0,
        tokens=PairTokens(clean, corrupted, tuple(token for token, _ in entry["answers"])),
        clean_labels=labels[0],
        corrupted_labels=labels[1],
        answer_labels=labels[2],
        model="the real GPT-2 small",
    )
    return result, facts["sources"][entry["source"]]["where"]


def main():
    from patching.draw.figure import figure, write

    result, source = published(load_facts())
    write(figure(result, note=f"Published by {source}; not computed by this project."), OUT)
    print(OUT)


if __name__ == "__main__":
    sys.exit(guarded(main))
