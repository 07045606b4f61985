"""Causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2): noise on the embeddings of
the subject makes the model forget the answer; which restored vectors bring it back?

The corrupted run is the same text with noise added to what the first layer reads at the subject's positions (an Overwrite
with add=True); the clean run's vectors are written into it. Three maps: the residual stream after each layer, and windows of
ten layers' MLPs and attentions restored at once, as in the paper (kmeng01/rome, experiments/causal_trace.py). Every number is a
mean over the draws of the noise. Zhang and Nanda (2309.16042) compare this corruption with swapped tokens, and prefer those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minigpt2 import GPT2, Overwrite
from minigpt2.checks import indices, is_finite, whole_number

from ..prompts import PromptPair
from ..result import Result
from ..sweeps import sweep


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The answer's probability, mean over the draws: `high` in the clean run, `low` in the corrupted one, and after each
    restoration in the three maps [n_layer, n_seq]; each map's spread is the standard deviation over the draws."""

    stream: Result
    mlp: Result
    attention: Result
    low: float
    high: float
    subject: tuple[int, ...]  # positions
    noise: float  # the standard deviation that was added

    def __repr__(self):
        best = self.stream.place(np.unravel_index(self.stream.values.argmax(), self.stream.values.shape))
        return (
            f"Trace(p from {self.low:.4f} to {self.high:.4f}; noise {self.noise:.3g} at positions "
            f"{', '.join(map(str, self.subject))}; best restored at layer {best['layer']}, position {best['position']}; "
            f"{self.stream.model})"
        )


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
) -> Trace:
    """Trace where a text's answer comes from.

    subject is a part of the text, or a list of positions; answer one token, as text or id. noise is the standard deviation
    of what is added, or "3 sigma": three standard deviations of the token embeddings, as the paper has it. window is the
    number of layers whose MLPs (or attentions) are restored at once. Raises ValueError for what is not there.
    """
    tokens = model.encode(text) if isinstance(text, str) else list(text)
    tokens = model.check_tokens(tokens).tolist()
    answer = model.tokenizer.single_token(answer) if isinstance(answer, str) else int(model.check_tokens([answer])[0])
    positions = subject_positions(model, tokens, subject)
    scale = noise_scale(model, noise)
    n, seed = whole_number("n, the number of draws,", n, 1), whole_number("seed", seed, 0)
    other = (answer + 1) % model.config.n_vocab  # a pair has two answers; the metric reads the first alone
    pair = PromptPair.from_tokens(tokens, tokens, (answer, other))
    maps: dict[str, list[Any]] = {"resid_post": [], "mlp_out": [], "attn_out": []}
    for draw in range(n):
        vectors = np.random.default_rng([seed, draw]).standard_normal((len(positions), model.config.n_embd))
        corrupted = Overwrite(0, "resid_pre", (scale * vectors).astype(model.dtype), positions=positions, add=True)
        for site, results in maps.items():
            results.append(
                sweep(
                    model,
                    pair,
                    site,
                    direction="denoising",
                    metric="clean_probability",
                    overwrites=[corrupted],
                    source_overwrites=[],
                    window=1 if site == "resid_post" else window,
                )  # fmt: skip
            )
    stream, mlp, attention = map(mean_result, maps.values())
    return Trace(stream, mlp, attention, stream.corrupted_value, stream.clean_value, tuple(positions), scale)


def mean_result(results: list[Result]) -> Result:
    """One map for all draws."""
    values = np.stack([result.values for result in results])
    low = float(np.mean([result.corrupted_value for result in results]))
    spread = values.std(axis=0, ddof=1) if len(results) > 1 else None
    return replace(results[0], values=values.mean(axis=0), corrupted_value=low, spread=spread)


def noise_scale(model, noise):
    if noise == "3 sigma":
        return 3 * float(model.weights.wte.std())
    if not is_finite(noise) or not noise > 0:
        raise ValueError(f'noise must be a standard deviation above 0, or "3 sigma", got {noise!r:.60}')
    return float(noise)


def subject_positions(model, tokens, subject):
    """The positions of the subject: those given, or of the tokens that hold the one occurrence of a piece of text."""
    if not isinstance(subject, str):
        return indices("position", subject, len(tokens), f"the text has {len(tokens)} tokens")
    pieces = [model.tokenizer.token_bytes(token) for token in tokens]
    whole, wanted = b"".join(pieces), subject.encode()
    start = whole.find(wanted)
    if not wanted or start < 0:
        raise ValueError(f"the subject {subject!r} is not in the text")
    if whole.find(wanted, start + 1) >= 0:
        raise ValueError(f"the subject {subject!r} is in the text more than once; give its positions")
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    return [int(i) for i in np.flatnonzero((ends > start) & (starts < start + len(wanted)))]
