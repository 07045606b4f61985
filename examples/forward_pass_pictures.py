"""The two pictures of docs/forward_pass.md: what the four heads of a layer look at, and the sizes that the architecture
keeps in bounds. Everything in them is read off one run of the bundled model.
"""

import math
import sys

import numpy as np

from minigpt2 import GPT2
from minigpt2 import model as m
from minigpt2.terminal import guarded

TEXT = "Michelle Jones was a top-notch student. Michelle"
LAYER = 2  # its heads look at different places
BLUE, ORANGE, GREY = "#1764ab", "#e08214", "0.8"


def heads_figure(run, layer):
    """The pattern of every head of a layer, side by side: destinations down, sources across."""
    from matplotlib.colors import PowerNorm

    from minigpt2.pictures.runs import heading, new_figure, positions, tidy
    from minigpt2.pictures.style import SHARE, colour_bar

    patterns, (_, names) = run.pattern[layer], positions(run)  # [n_head, n_seq, n_seq]
    n = len(run.tokens)
    fig = new_figure(3.1 * len(patterns) + 1.6, 4.5)
    axes = fig.subplots(1, len(patterns), sharey=True)
    for head, (ax, pattern) in enumerate(zip(axes, patterns)):
        shown = np.where(np.tri(n, dtype=bool), pattern, np.nan)
        mesh = ax.imshow(shown, cmap=SHARE, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        ax.set_facecolor("0.93")
        ax.set_title(f"head {layer}.{head}", fontsize=10, loc="left")
        ax.set_xticks(range(n), names)
        ax.set_yticks(range(n), names)
        tidy(ax, n, n)
        ax.tick_params(labelsize=7)
    axes[0].set_ylabel("the position that looks", fontsize=9)
    axes[0].set_xlabel("the position that is read", fontsize=9)
    colour_bar(fig, axes, mesh, "share of the attention")
    heading(fig, run, f"What the heads of layer {layer} look at", "each row sums to 1")
    return fig


def sizes_figure(model, run):
    """Logits and their probabilities; the largest share with and without the root; the stream and its layer norm."""
    from minigpt2.pictures.runs import heading, new_figure

    fig = new_figure(13, 4.0)
    logits, shares, lengths = fig.subplots(1, 3)
    best = np.argsort(-run.logits[-1])[:6]
    names, p = model.labels(best), m.softmax(run.logits[-1])[best]
    bars = logits.barh(names, run.logits[-1, best], color=[BLUE, *[GREY] * 5])
    logits.bar_label(bars, [f"{100 * x:.2f} %" for x in p], padding=3, fontsize=8)
    logits.set(title="logits, and the probabilities they become", xlabel="logit", xlim=(0, 22))
    logits.invert_yaxis()

    at = np.arange(model.config.n_layer)
    for shift, scale, colour, name in (
        (-0.2, 1.0, GREY, "softmax(q · k)"),
        (0.2, math.sqrt(model.config.d_head), BLUE, "softmax(q · k / √d_head)"),
    ):
        shares.bar(at + shift, largest_shares(run, scale), 0.38, color=colour, label=name)
    shares.set(title="largest share of a query's attention, mean", xlabel="layer", ylim=(0, 1.3))
    shares.legend(fontsize=8, frameon=False, loc="upper right", ncols=2)

    lengths.plot(at, np.linalg.norm(run.resid_pre, axis=-1).mean(axis=-1), "o-", color=ORANGE, label="the stream")
    lengths.plot(at, [normed_length(x) for x in run.resid_pre], "o-", color=BLUE, label="after layer norm")
    lengths.set(title="length of the vectors that a block reads, mean", xlabel="layer", ylim=(0, None))
    lengths.legend(fontsize=8, frameon=False)
    for ax in (logits, shares, lengths):
        ax.title.set(fontsize=10, horizontalalignment="left", x=0)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    heading(fig, run, "Logits, attention and layer norm in one run", "means over positions, and over heads")
    return fig


def largest_shares(run, scale):
    """The largest share of each query's attention with scores divided by `scale`: the mean of each layer, [n_layer].

    Queries from position 5 on: the first ones have few positions to look at.
    """
    scores = run.q @ run.k.swapaxes(-1, -2) / scale  # [n_layer, n_head, n_seq, n_seq]
    scores = np.where(m.causal_mask(*scores.shape[-2:]), scores, -np.inf)
    return m.softmax(scores)[..., 5:, :].max(axis=-1).mean(axis=(1, 2))


def normed_length(x):
    """The mean length of the rows of x [n_seq, n_embd] after layer norm, before its weight and bias."""
    ones, zeros = np.ones(x.shape[-1], x.dtype), np.zeros(x.shape[-1], x.dtype)
    return np.linalg.norm(m.layer_norm(x, ones, zeros, 1e-5), axis=-1).mean()


def main():
    from minigpt2.pictures.style import write

    model = GPT2.from_pretrained("bundled")
    run = model.run(model.encode(TEXT))
    for name, fig in (("heads", heads_figure(run, LAYER)), ("sizes", sizes_figure(model, run))):
        path = f"figures/forward_pass_{name}_bundled.png"
        write(fig, path)
        print(path)


if __name__ == "__main__":
    sys.exit(guarded(main))
