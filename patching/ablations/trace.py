"""Causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", arXiv 2202.05262, section 2): noise on
the embeddings of a subject, and what restores the answer.

The corrupted run is the same text's, with Gaussian noise added to the stream before layer 0 at the subject's positions;
one position's clean vector after one layer, or what the MLPs or the attention of a window of layers add there, is
written into it; the metric is the probability of the answer, averaged over draws of noise. The original is
kmeng01/rome, experiments/causal_trace.py (its noise was 0.1 first and three standard deviations of the embeddings later;
its numbers are PyTorch's and NumPy's of another generator, so single draws differ). Zhang and Nanda (arXiv 2309.16042)
say what is wrong with such noise: it takes the model to where no text does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minigpt2 import GPT2, Overwrite
from minigpt2.checks import indices, is_finite, whole_number

from ..result import Result
from ..sweeps import sweep
from .one_text import OneText


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Three maps of the answer's probability, [n_layer, n_seq], with the spread over the draws where there are several."""

    stream: Result  # the stream after one layer restored
    mlp: Result  # what the MLPs of a window of layers add
    attention: Result  # what the attention of a window of layers adds
    high: float  # the probability in the clean run
    low: float  # in the corrupted runs, the mean
    subject: tuple  # its positions
    window: int
    n: int  # draws of noise
    noise: float  # its standard deviation

    def __repr__(self):
        best = ", ".join(f"{name} {part.values.max():.3f}" for name, part in self.maps.items())
        return (
            f"Trace({self.stream.unit}: clean {self.high:.3f}, corrupted {self.low:.3f} (noise {self.noise:.3g}, mean of "
            f"{self.n}); largest when restored: {best}; {self.stream.model})"
        )

    @property
    def maps(self) -> dict[str, Result]:
        """By what was restored, for patching.draw.figure.figure: figure(list(t.maps.values()), list(t.maps))."""
        return {
            "stream": self.stream,
            f"MLPs of {self.window} layers": self.mlp,
            f"attention of {self.window} layers": self.attention,
        }


def trace(
    model: GPT2,
    text: str | Sequence[int],
    subject: str | Sequence[int],
    answer: str | int,
    *,
    noise: float | str = "3 sigma",
    n: int = 10,
    seed: int = 0,
    window: int = 10,
    progress: Callable[[int, int], Any] | None = None,
) -> Trace:
    """Trace where a text's subject turns into the answer: what restores it when the subject is drowned in noise.

    text is a text or token ids, subject a part of the text or a list of positions, answer a token (" Paris" or an id).
    noise is a standard deviation, or "3 sigma", three of the token embeddings'. n draws from seed. Restoring around layer l
    means layers l - window // 2 to l - window // 2 + window - 1. Raises ValueError for a subject that is not in the text.
    """
    n, seed = whole_number("n, the number of draws,", n, 1), whole_number("seed", seed, 0)
    if noise != "3 sigma" and not (is_finite(noise) and noise > 0):
        raise ValueError(f'noise must be a number above 0, or "3 sigma", got {noise!r:.60}')
    size = 3 * float(model.weights.wte.std()) if noise == "3 sigma" else float(noise)
    tokens = model.check_tokens(model.encode(text) if isinstance(text, str) else text).tolist()
    answer = model.tokenizer.single_token(answer) if isinstance(answer, str) else answer
    [answer] = model.check_tokens([answer]).tolist()
    at = positions_of(model, tokens, subject)
    pair = OneText.of(model, tokens, (answer, (answer + 1) % model.config.n_vocab), at)
    jobs = [(site, w) for site, w in (("resid_post", 1), ("mlp_out", window), ("attn_out", window))]
    drawn = []
    for i, added in enumerate(draws(size, seed, n, (len(at), model.config.n_embd))):
        corrupt = [Overwrite(0, "resid_pre", added.astype(model.dtype), positions=at, add=True)]
        drawn.append(
            [
                sweep(
                    model, pair, site, direction="denoising", metric="clean_probability", window=width,
                    overwrites=corrupt, source_overwrites=(),
                )
                for site, width in jobs
            ]
        )  # fmt: skip
        if progress:
            progress(i + 1, n)
    words = f"the clean run, under noise of {size:.3g} on positions {', '.join(map(str, at))}"
    stream, mlp, attention = (averaged(list(some), words, at) for some in zip(*drawn))
    return Trace(
        stream, mlp, attention, stream.clean_value, stream.corrupted_value, tuple(at), window, n, size
    )


def draws(size, seed, n, shape):
    """n draws of Gaussian noise, the same for every map."""
    for i in range(n):
        yield size * np.random.default_rng([seed, i]).standard_normal(shape)


def averaged(results, words, at):
    """The mean of the draws' maps and of their corrupted runs, with the spread over draws."""
    values = np.stack([result.values for result in results])
    noisy = ["noise" if pos in at else label for pos, label in enumerate(results[0].clean_labels)]
    return replace(
        results[0],
        values=values.mean(axis=0),
        corrupted_value=float(np.mean([result.corrupted_value for result in results])),
        spread=values.std(axis=0, ddof=1) if len(results) > 1 else None,
        source=words,
        corrupted_labels=tuple(noisy),
    )


def positions_of(model, tokens, subject):
    """The positions of the subject: given as such, or those of the tokens in which its first mention lies, as in the original."""
    if not isinstance(subject, str):
        return indices("position", list(subject), len(tokens), f"the text has {len(tokens)} tokens")
    ends = [len(model.decode(tokens[:i])) for i in range(len(tokens) + 1)]
    text = model.decode(tokens)
    start = text.find(subject)
    if not subject.strip() or start < 0:
        raise ValueError(f"the subject {subject!r:.60} is not in the text {text!r:.80}")
    stop = start + len(subject)
    return [i for i in range(len(tokens)) if ends[i] < stop and ends[i + 1] > start]
