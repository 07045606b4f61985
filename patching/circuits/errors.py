"""The error report: what estimates of edges (EAP, EAP-IG) get wrong, beside the exact map of the same question."""

from dataclasses import dataclass

import numpy as np

from minigpt2.terminal import table

from .result import EdgeResult

TOPS = (20, 100, 200)


@dataclass(frozen=True)
class ErrorReport:
    """One estimate against the exact effects of the same edges."""

    method: str
    n_edges: int
    correlation: float  # Pearson's
    rank_correlation: float  # Spearman's, of |effect|: the order in which circuits are cut
    sign_errors: dict  # {n: how many of the n strongest exact edges are estimated with the other sign}
    recall: dict  # {n: the share of the n strongest exact edges among the n strongest estimated ones}
    worst: tuple  # (writer, reader, exact effect, estimated effect) by distance

    def lines(self, n=8):
        """The report as text."""
        recalls = ", ".join(f"{100 * share:.0f} % of {k}" for k, share in self.recall.items())
        signs = ", ".join(f"{wrong} of {k}" for k, wrong in self.sign_errors.items())
        rows = [[w, r, f"{exact:+.4f}", f"{estimate:+.4f}"] for w, r, exact, estimate in self.worst[:n]]
        return [
            f"{self.method} against {self.n_edges:,} exact edges: correlation {self.correlation:.3f}, rank correlation "
            f"{self.rank_correlation:.3f}",
            f"strongest edges found: {recalls}; wrong sign: {signs}",
            *table(["from", "to", "exact", "estimate"], rows),
        ]


def error_report(exact: EdgeResult, estimate: EdgeResult, tops=TOPS, n_worst=20) -> ErrorReport:
    """Compare two results edge by edge. Raises ValueError where they are not about the same question."""
    for name in ("writers", "readers", "direction", "metric", "alpha", "n_pairs", "model"):
        ours, theirs = getattr(exact, name), getattr(estimate, name)
        if ours != theirs:
            raise ValueError(f"the two results have different {name}: {ours!r:.60} and {theirs!r:.60}")
    if abs(exact.base_value - estimate.base_value) > 1e-3 * max(1, abs(exact.base_value)):
        raise ValueError(f"the two results patch different runs: {exact.base_value:.4f} and {estimate.base_value:.4f}")
    x, y = exact.effects[exact.mask], estimate.effects[exact.mask]
    strongest, found = exact.order(), estimate.order()
    tops = [n for n in tops if n <= exact.n_edges] or [exact.n_edges]
    a, b = exact.effects.reshape(-1), estimate.effects.reshape(-1)
    far = np.argsort(-np.where(exact.mask, np.abs(exact.effects - estimate.effects), -1).reshape(-1), kind="stable")
    worst = [(*np.unravel_index(i, exact.values.shape), float(a[i]), float(b[i])) for i in far[:n_worst]]
    return ErrorReport(
        method=estimate.method,
        n_edges=exact.n_edges,
        correlation=correlation(x, y),
        rank_correlation=correlation(ranks(np.abs(x)), ranks(np.abs(y))),
        sign_errors={n: int((np.sign(a[strongest[:n]]) * np.sign(b[strongest[:n]]) < 0).sum()) for n in tops},
        recall={n: len({*strongest[:n].tolist()} & {*found[:n].tolist()}) / n for n in tops},
        worst=tuple((exact.writers[w], exact.readers[r], ours, theirs) for w, r, ours, theirs in worst),
    )


def correlation(x, y):
    x, y = x.astype(np.float64) - x.mean(), y.astype(np.float64) - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale else float("nan")


def ranks(x):
    """The rank of each number; equal ones share the mean of theirs."""
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]
