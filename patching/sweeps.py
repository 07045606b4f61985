"""The sweep: patch every place of a site, one patch at a time in meaning, and read the metric after each.

`sweep_one_by_one` does what the words say: overwrite the activation, run the rest of the model, read the last position's
logits. `sweep` takes the same arguments and returns the same numbers from one pass through the layers that carries all
patches together. It is exact, because

  - a patch at (layer, position) changes no layer before it and no position before it: it is carried as the suffix of a
    stream that joins the pass at its layer, and reads the keys and values of earlier positions from the base run;
  - everything but attention treats positions separately, so the rows of all patches share each matrix product;
  - after the last attention layer only the last position matters, and a logit difference needs two rows of wte;
  - up to the first differing token both runs are the same, and a patch there is the base run itself.

Read sites.py and sources.py for what each patch writes, plan.py for the arguments, one_pass.py for the pass itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigpt2 import GPT2
from minigpt2.checks import quiet
from minigpt2.overwrite import ORDER, Overwrite, as_writes

from .metrics import check_value
from .one_pass import join_of, one_pass
from .plan import Plan, Question
from .prompts import PromptPair
from .result import Result
from .sources import Source


def sweep_one_by_one(
    model: GPT2,
    pair: PromptPair,
    site: str = "resid_post",
    *,
    direction: str | None = None,
    metric: str | Callable = "logit_difference",
    alpha: float = 1.0,
    source: Source | str | Any = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int] | str | None = None,
    window: int = 1,
    places: Sequence[Sequence[tuple]] | None = None,
    overwrites: Sequence[Overwrite] = (),
    source_overwrites: Sequence[Overwrite] | None = None,
    keep_logits: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> Result:
    """The plain sweep, with the arguments of sweep: each patch by itself, through all blocks from its layer on and the
    whole unembedding."""
    question = Question(
        model, pair, site, direction=direction, alpha=alpha, source=source, layers=layers, heads=heads,
        positions=positions, window=window, places=places, overwrites=overwrites, source_overwrites=source_overwrites,
    )  # fmt: skip
    plan = Plan(question, metric)
    return over_draws(
        [plan], lambda plans, progress: [swept_one_by_one(plans[0], keep_logits, progress)], keep_logits, progress
    )[0]


def swept_one_by_one(plan, keep_logits, progress):
    """sweep_one_by_one, for a Plan with one draw."""
    model, question, result = plan.model, plan.question, plan.result(keep_logits)
    for done, patch in enumerate(question.patches(), start=1):
        writes = as_writes(plan.overwrites(patch))
        layer = min(writes)
        logits = model.run_on(plan.base.resid_pre[layer], layer, merged(plan.base.writes, writes))[-1]  # [n_vocab]
        record(result, patch, plan.metric, logits)
        if progress:
            progress(done, question.n_patches)
    return result


def merged(base, own):
    """The writes of a patch after those of the run that it is made in: where both write to one place, the patch stays. The
    run's stream, from which the patch sets out, has its writes to resid_pre already."""
    made = {layer: [write for write in some if write.name != "resid_pre"] for layer, some in base.items()}
    return {
        layer: sorted([*made.get(layer, ()), *own.get(layer, ())], key=lambda write: ORDER.index(write.name))
        for layer in {*made, *own}
    }


def sweep(
    model: GPT2,
    pair: PromptPair,
    site: str = "resid_post",
    *,
    direction: str | None = None,
    metric: str | Callable | Sequence[str | Callable] = "logit_difference",
    alpha: float = 1.0,
    source: Source | str | Any = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int] | str | None = None,
    window: int = 1,
    places: Sequence[Sequence[tuple]] | None = None,
    overwrites: Sequence[Overwrite] = (),
    source_overwrites: Sequence[Overwrite] | None = None,
    keep_logits: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> Result | dict[str, Result]:
    """Patch every place of a site and read the metric after each, all patches in one pass through the layers.

    What is written where:
        site        a name of patching.SITES
        source      what is written: by default the other text's vector of the same place; "zero", a Run, a PromptPair, or
                    what a function of patching.sources returns (mean, noise, at, steer); of several draws of noise the
                    result has the mean and the spread
        direction   "denoising" writes into the corrupted run, "noising" into the clean one; by default denoising, and
                    noising where a source is given
        alpha       how much is written: (1 - alpha) of the run's own vector + alpha of the source's
        layers, heads, positions   lists of indices, all by default; positions="all" patches all positions at once
        window      how many layers around each are patched at once (Meng et al. 2022: 10)
        places      instead of these, sets of places to patch at once: lists of (layer, position) or (layer, head, position)
    In which model:
        overwrites  what is overwritten in both runs throughout: the sweep is that of the overwritten model
        source_overwrites   the same for the other text's run alone, if it is to be another list
    What is read: metric, a name of patching.METRICS or a function of the last position's logits, or a list of them, all read
    off one sweep: the results are then {name: Result}. keep_logits keeps these logits for every patch, n_vocab numbers each.
    progress(done, total) is called as it goes.

    Raises ValueError, with the remedy, for anything that cannot be patched, and FloatingPointError for a patch that
    overflows, naming its layer.
    """
    question = Question(
        model, pair, site, direction=direction, alpha=alpha, source=source, layers=layers, heads=heads,
        positions=positions, window=window, places=places, overwrites=overwrites, source_overwrites=source_overwrites,
    )  # fmt: skip
    plans = plans_for(question, metric)
    run = lambda plans, progress: swept(plans, keep_logits, progress)  # noqa: E731
    return by_metric(metric, plans, over_draws(plans, run, keep_logits, progress))


def plans_for(question, metric):
    """A Plan for each metric, all of one pair of runs."""
    if not isinstance(metric, (list, tuple)):
        return [Plan(question, metric)]
    if not metric:
        raise ValueError("metric is an empty list: give one metric, or a list of them")
    first = Plan(question, metric[0])
    return [first, *(first.reading(each) for each in metric[1:])]


def by_metric(metric, plans, results):
    """The Result, or for a list of metrics {name: Result}."""
    if not isinstance(metric, (list, tuple)):
        return results[0]
    named = {plan.metric.name: result for plan, result in zip(plans, results)}
    if len(named) < len(plans):
        raise ValueError(f"two metrics of the list have one name: {', '.join(plan.metric.name for plan in plans)}")
    return named


def swept(plans, keep_logits, progress):
    """sweep, for Plans with one draw that differ in their metric alone: a Result for each."""
    plan = plans[0]
    model, question, results = plan.model, plan.question, [plan.result(keep_logits) for plan in plans]
    done = 0
    for batch in batches(plan):
        arrivals = [arrival for patch in batch if (arrival := join_of(plan, patch))]
        with quiet():  # check_finite reports it instead
            carried = one_pass(model, plan.base, arrivals)
        for some, resid in in_groups(*carried):
            for plan, result in zip(plans, results):
                tokens = None if keep_logits else plan.metric.tokens
                for arrival, logits in zip(some, plan.logits(resid, tokens)):
                    record(result, arrival.patch, plan.metric, logits, tokens)
        done += len(batch)
        if progress:
            progress(done, question.n_patches)
    return results


def over_draws(plans, run, keep_logits=False, progress=None):
    """run(plans, progress), a Result for each metric's plan; of a random source the mean over the draws, with their spread:
    the standard deviation with n - 1."""
    draws = list(zip(*(plan.draws() for plan in plans)))
    if len(draws) == 1:
        return run(plans, progress)
    if keep_logits:
        raise ValueError(
            f"keep_logits keeps the logits of one patch, and here each has {len(draws)} draws: ask for n=1"
        )
    shown = [
        progress and (lambda done, total, i=i: progress(i * total + done, len(draws) * total))
        for i in range(len(draws))
    ]
    return [mean_over(results) for results in zip(*(run(*each) for each in zip(draws, shown)))]


def mean_over(results):
    values = np.stack([result.values for result in results])
    return replace(results[0], values=values.mean(axis=0), spread=values.std(axis=0, ddof=1))


def record(result, patch, metric, logits, tokens=None):
    """Enter one patch's value; logits are those of `tokens`, or of the whole vocabulary."""
    value = metric.read(logits if tokens or not metric.tokens else logits[list(metric.tokens)])
    check_value(metric, value, result.values.dtype, lambda: f"after the patch at {place(result, patch)}")
    result.values[patch.index] = value
    if result.logits is not None:
        result.logits[patch.index] = logits


def place(result, patch):
    return ", ".join(f"{axis} {chosen[i]}" for (axis, chosen), i in zip(result.axes.items(), patch.index))


def in_groups(members, rows, n=128):
    """Pieces of at most n patches, so that reading a metric off the whole vocabulary stays small."""
    for start in range(0, len(members), n):
        yield members[start : start + n], rows[start : start + n]


def batches(plan, budget=96 << 20):
    """The patches in batches whose streams fit the budget (bytes), those of one position together, as is their attention.

    A row has its stream, the norm of it, q, k, v, z, and the MLP's 4 to 8 n_embd; a patch has k and v for all positions.
    """
    n_seq = len(plan.tokens.clean)
    number = plan.model.config.n_embd * np.dtype(plan.model.dtype).itemsize
    batch, size = [], 0
    for patch in plan.question.patches("position"):
        needs = (16 * (n_seq - plan.first_row(patch)) + 2 * n_seq) * number
        if batch and size + needs > budget:
            yield batch
            batch, size = [], 0
        batch.append(patch)
        size += needs
    if batch:
        yield batch
