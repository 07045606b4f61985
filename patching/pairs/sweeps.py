"""The same sweep and attribution over a set of pairs: every pair by itself, here, on other processes or on other machines.

A pair's map does not depend on the other pairs, nor on which pairs share a job: it is the pair's own sweep, bit for bit (at one number
of threads, see threads.py). jobs.py says what a worker does, directory.py keeps what is finished.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from os import PathLike
from typing import Any

from minigpt2 import GPT2
from minigpt2.overwrite import Overwrite

from .. import attribution
from .. import sweeps as engine
from ..prompts import PromptPair
from ..result import Result
from ..sources import Source
from .ask import Ask
from .jobs import run_set
from .pairset import PairSet
from .result import SetResult


def sweep(
    model: GPT2,
    pairs: PromptPair | PairSet,
    site: str = "resid_post",
    *,
    direction: str | None = None,
    metric: str | Callable | Sequence[str | Callable] = "logit_difference",
    alpha: float = 1.0,
    source: Source | str | Any = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int | str] | str | None = None,
    window: int = 1,
    places: Sequence[Sequence[tuple]] | None = None,
    overwrites: Sequence[Overwrite] = (),
    source_overwrites: Sequence[Overwrite] | None = None,
    keep_logits: bool = False,
    progress: Callable[[int, int], Any] | None = None,
    at: int | str | None = None,
    skip: bool = False,
    executor: Executor | None = None,
    directory: str | PathLike | None = None,
    part: tuple[int, int] | None = None,
    pairs_per_job: int = 1,
) -> Result | SetResult | dict:
    """Patch every place of a site, in one pair (a Result) or in every pair of a PairSet (a SetResult).

    The arguments of patching.sweeps.sweep mean what they mean there. Beside them:
        positions   of a set also roles, ["subject", "end"]: the axis "role" then stands for "position"
        at          where the metric is read, a position or a role; the last one by default. Later tokens cannot change what is
                    read there, so the texts are cut after it
    And for a PairSet alone:
        skip        leave out pairs that do not align, instead of refusing the set; result.pairs.left_out says why
        executor    any concurrent.futures.Executor, e.g. ProcessPoolExecutor(2) or Dask's Client(...).get_executor(): a job is
                    pairs_per_job pairs and the model's name, a worker loads the model once and takes one BLAS thread
        directory   keeps each pair's map as soon as it is finished, and goes on from those that are there
        part        (3, 20) does the third of 20 equal parts; needs a directory. Whoever comes last returns the whole set
    progress(done, total) counts patches, and of a set pairs. Raises ValueError for what cannot be used, all pairs at once.
    """
    engine_options = dict(
        direction=direction, metric=metric, alpha=alpha, source=source, layers=layers, heads=heads, positions=positions,
        window=window, places=places, overwrites=overwrites, source_overwrites=source_overwrites,
    )  # fmt: skip
    if isinstance(pairs, PairSet):
        if keep_logits:
            raise ValueError("keep_logits keeps the logits of one pair's patches: sweep that pair by itself")
        ask = Ask("patching", site, engine_options, at)
        return run_set(model, pairs, ask, skip, executor, directory, part, pairs_per_job, progress)
    refuse_for_one_pair(skip=skip, executor=executor, directory=directory, part=part)
    pair = pairs if at is None else pairs.until(model, at)
    return engine.sweep(model, pair, site, **engine_options, keep_logits=keep_logits, progress=progress)


def attribute(
    model: GPT2,
    pairs: PromptPair | PairSet,
    site: str = "resid_post",
    *,
    direction: str | None = None,
    metric: str | Callable | Sequence[str | Callable] = "logit_difference",
    alpha: float = 1.0,
    source: Source | str | Any = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int | str] | str | None = None,
    window: int = 1,
    places: Sequence[Sequence[tuple]] | None = None,
    overwrites: Sequence[Overwrite] = (),
    source_overwrites: Sequence[Overwrite] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    at: int | str | None = None,
    skip: bool = False,
    executor: Executor | None = None,
    directory: str | PathLike | None = None,
    part: tuple[int, int] | None = None,
    pairs_per_job: int = 1,
) -> Result | SetResult | dict:
    """Estimate the same sweep to first order, of one pair or of every pair of a set: the arguments are those of sweep, and
    what patching.attribution.attribute says of them."""
    engine_options = dict(
        direction=direction, metric=metric, alpha=alpha, source=source, layers=layers, heads=heads, positions=positions,
        window=window, places=places, overwrites=overwrites, source_overwrites=source_overwrites,
    )  # fmt: skip
    if isinstance(pairs, PairSet):
        ask = Ask("attribution", site, engine_options, at)
        return run_set(model, pairs, ask, skip, executor, directory, part, pairs_per_job, progress)
    refuse_for_one_pair(skip=skip, executor=executor, directory=directory, part=part)
    pair = pairs if at is None else pairs.until(model, at)
    return attribution.attribute(model, pair, site, **engine_options)


def refuse_for_one_pair(**choices):
    for name, value in choices.items():
        if value not in (None, False):
            raise ValueError(f"{name} is for a PairSet, and this is one pair: PairSet([pair]) makes a set of it")
