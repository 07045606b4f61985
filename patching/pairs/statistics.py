"""Statistics of a map over pairs, for every cell: how sure is its mean, and could it be 0?

All take values [n_pairs, ...cells] and return [...cells]; the pairs are the sample. Everything random is seeded. The sign-flip
test asks how often a mean as large as this comes out if the sign of each pair's whole map is drawn at random: its only assumption
is that under no effect a pair's map is as likely as its negative (Fisher 1935; Nichols and Holmes 2002, who also take the largest cell
of each flip to correct for the number of cells).
"""

import numpy as np

EXACT = 12  # up to so many pairs all sign flips are taken: 4,096
ROUNDING = 1e-9  # of a cell's mean size: flips whose sums differ by rounding alone count as equal


def standard_error(values):
    """Of the mean over pairs, with n - 1; NaN of a single pair, which says nothing about the spread."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / len(values) ** 0.5


def interval(values, level=0.95, n=2000, seed=0):
    """The bootstrap interval of the mean (percentiles of the means of n samples of pairs, drawn with repetition), (low,
    high). Efron and Tibshirani 1993, chapter 13."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, e.g. 0.95, got {level!r:.40}")
    values = np.asarray(values, np.float64)
    flat, size = values.reshape(len(values), -1), len(values)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size, np.full(size, 1 / size), size=n) / size  # [n, n_pairs]: how often each was drawn
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.empty(flat.shape[1]), np.empty(flat.shape[1])
    for cells in pieces(flat.shape[1], 4096):
        low[cells], high[cells] = np.quantile(counts @ flat[:, cells], tails, axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def p_value(values, n=10_000, seed=0, correction=None):
    """Two-sided p of each cell's mean by flipping signs; all flips up to EXACT pairs, else n random ones, (hits + 1)/(n + 1).

    correction=None: of each cell by itself. "family-wise": against the largest cell of each flip, so that the chance of any
    false cell in the map is at most p. "false discovery": Benjamini and Hochberg 1995, so that of the cells with p up to q
    a share of at most q is false. values are effects: 0 must mean no effect.
    """
    if correction not in (None, "family-wise", "false discovery"):
        raise ValueError(f'correction must be None, "family-wise" or "false discovery", got {correction!r:.40}')
    values = np.asarray(values, np.float64)
    flat = values.reshape(len(values), -1)
    observed = np.abs(flat.mean(axis=0))  # [n_cells]
    observed -= ROUNDING * np.abs(flat).mean(axis=0)
    hits, total = np.zeros(flat.shape[1]), 0
    for signs in flips(len(flat), n, seed):
        means = np.abs(signs @ flat) / len(flat)  # [n_flips, n_cells]
        if correction == "family-wise":
            means = means.max(axis=1, keepdims=True)
        hits += (means >= observed).sum(axis=0)
        total += len(signs)
    p = hits / total if len(flat) <= EXACT else (hits + 1) / (total + 1)
    p = benjamini_hochberg(p) if correction == "false discovery" else p
    return p.reshape(values.shape[1:])


def flips(n_pairs, n, seed, at_once=256):
    """Yield signs [some, n_pairs] of +1 and -1: every combination of few pairs, else n at random."""
    if n_pairs <= EXACT:
        numbers = np.arange(2**n_pairs)[:, None]
        every = 1.0 - 2 * (numbers >> np.arange(n_pairs) & 1)
        yield from (every[some] for some in pieces(len(every), at_once))
        return
    rng = np.random.default_rng(seed)
    for some in pieces(n, at_once):
        yield rng.integers(0, 2, (some.stop - some.start, n_pairs)) * 2.0 - 1


def benjamini_hochberg(p):
    """The smallest rate of false discoveries at which each cell would be called one."""
    order = np.argsort(p, kind="stable")
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1)
    return adjusted


def pieces(n, size):
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
