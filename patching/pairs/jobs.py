"""Running a set: one job is a few pairs and where the model comes from, and gives back their maps.

A worker loads the model once (minigpt2/pickled.py) and takes one BLAS thread, so that its bits do not depend on the machine's
cores. Jobs may finish in any order; results are in the order of the pairs.
"""

import pickle
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor, as_completed

import numpy as np

from minigpt2.checks import is_number, whole_number

from .ask import map_of
from .directory import Directory, digest_of
from .result import SetResult
from .threads import blas_threads, use_one_thread


def run_job(model, ask, pairs, check):
    """What a worker does: the PairMaps of a few pairs, with one thread. check: also the self-checks, on the first."""
    use_one_thread()
    return [map_of(model, ask, pairs, i, check and i == 0) for i in range(len(pairs))]


def run_set(model, pairs, ask, skip, executor, directory, part, pairs_per_job, progress):
    """Sweep every pair: a SetResult, or for several metrics {name: SetResult}."""
    pairs = pairs.checked(model, named_roles(ask), skip=skip)
    if ask.options["positions"] is None and ask.options["places"] is None and ask.at is None:
        pairs.check_one_length(model)
    pairs_per_job = whole_number("pairs_per_job", pairs_per_job, 1)
    threads = blas_threads() if executor is None else 1 if blas_threads() else None
    digest = digest_of(model, pairs, ask)
    kept = Directory(directory, model, pairs, ask, threads) if directory is not None else None
    numbers = chosen_part(part, len(pairs), directory)
    done = kept.read(range(len(pairs))) if kept else {}
    missing = [i for i in numbers if i not in done]
    n_before = len(numbers) - len(missing)
    report = (lambda n: progress(n_before + n, len(numbers))) if progress else (lambda n: None)
    report(0)
    for i, found in maps(model, ask, pairs, missing, executor, pairs_per_job):
        done[i] = found
        if kept:
            kept.write(i, found)
        report(len(done) - len(done.keys() - missing))
    if kept:
        done |= kept.read(i for i in range(len(pairs)) if i not in done)
    results = together(model, ask, pairs, done, digest)
    return results if ask.several else next(iter(results.values()))


def named_roles(ask):
    return [*(ask.roles or ()), *([ask.at] if isinstance(ask.at, str) else ())]


def chosen_part(part, n, directory):
    """The numbers of the pairs of one part, or all."""
    if part is None:
        return list(range(n))
    if directory is None:
        raise ValueError("part needs directory=, where the parts come together")
    try:
        which, of = part
        valid = all(is_number(each) and each == int(each) for each in part) and 1 <= which <= of
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"part must be two numbers like (3, 20), the third of 20, got {part!r:.40}")
    return list(range(int(which) - 1, n, int(of)))


def maps(model, ask, pairs, numbers, executor, pairs_per_job):
    """Yield (number, PairMap) of some pairs as they are finished. The first has the self-checks with it."""
    if executor is None:
        for i in numbers:
            yield i, map_of(model, ask, pairs, i, check=i == numbers[0])
        return
    check_can_travel(model, ask, executor)
    futures = {}
    try:
        for start in range(0, len(numbers), pairs_per_job):
            some = numbers[start : start + pairs_per_job]
            futures[executor.submit(run_job, model, ask, pairs.chosen(some), start == 0)] = some
        for future in as_completed(futures):
            yield from zip(futures[future], future.result())
    except BrokenExecutor as error:
        raise ChildProcessError(
            f"a worker ended before its work was done ({error}); run it again, with directory= to keep what is finished"
        ) from None
    finally:  # also where the user stops it
        for future in futures:
            future.cancel()


def check_can_travel(model, ask, executor):
    """Raise ValueError for what would not go to another process, or would carry all weights there."""
    if isinstance(executor, ThreadPoolExecutor):
        return
    if model._origin is None:
        raise ValueError(
            f"{model.name} was made from arrays, which would travel with every job: save it with save_folder and load it "
            "with GPT2.from_pretrained"
        )
    try:
        pickle.dumps(ask)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if type(executor).__module__.partition(".")[0] != "distributed":  # it sends functions whole
            raise ValueError(
                f"an executor's processes need a metric and a source that can be pickled ({error}): give them by name, or a "
                "function of a module"
            ) from None


def together(model, ask, pairs, done, digest):
    """{metric: SetResult} of the PairMaps that are there, in the order of the pairs."""
    numbers = tuple(sorted(done))
    found = [done[i] for i in numbers]
    if not found:
        raise ValueError("no pair of this part is in the set, and none is in the directory: choose fewer parts")
    first = found[0]
    for i, each in zip(numbers, found):
        if each.axes != first.axes:
            raise ValueError(
                f"{pairs.called[i]} has other positions than {pairs.called[numbers[0]]}: give positions as roles "
                f'({", ".join(pairs.roles)}), or positions="all"'
            )
    threads = {each.threads for each in found}
    return {
        name: SetResult(
            values=np.stack([each.values[name] for each in found]),
            clean_values=np.array([each.clean[name] for each in found]),
            corrupted_values=np.array([each.corrupted[name] for each in found]),
            axes=first.axes,
            site=ask.site,
            metric=name,
            unit=unit_of([each.units[name] for each in found], name),
            **first.words,
            model=model.name,
            revision=model.revision,
            method=ask.method,
            pairs=pairs.chosen(numbers),
            numbers=numbers,
            n_asked=len(pairs),
            positions=None if first.positions is None else np.array([each.positions for each in found]),
            threads=threads.pop() if len(threads) == 1 else None,
            checks=next((each.checks for each in found if each.checks), ()),
            digest=digest,
        )
        for name in first.values
    }


UNITS = {  # where the pairs' own units differ, since their answers do
    "logit_difference": "logit(corrupted answer) - logit(clean answer)",
    "probability_difference": "p(corrupted answer) - p(clean answer)",
    "clean_probability": "p(clean answer)",
    "corrupted_probability": "p(corrupted answer)",
    "clean_log_probability": "log p(clean answer)",
    "corrupted_log_probability": "log p(corrupted answer)",
}


def unit_of(units, name):
    return units[0] if len(set(units)) == 1 else UNITS.get(name, name)
