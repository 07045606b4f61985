"""How much of what a model does a circuit does by itself, and whether it is complete and minimal.

All that is outside the circuit is ablated: it gives what the other text's run gives ("other run"), the mean over the pairs' other
texts ("mean"), or nothing ("zero"). The percentage comes in two ways that differ (Miller et al. 2407.08734): the ratio of means and
the mean of ratios. Curves over circuits of growing size, with their areas CPR and CMD, are those of MIB (2504.13151).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minigpt2 import GPT2
from minigpt2.checks import quiet

from ..prompts import PromptPair
from .ablated import ABLATIONS, Ablated, of_mean, of_run, of_zero, run_edges, run_heads
from .circuit import Circuit
from .nodes import edge_mask
from .result import EdgeResult
from .setting import Setting, as_direction, as_metrics, as_pairs

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # MIB's
N_TEXTS = 8  # texts at once


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """The metric of each pair in the circuit, in the whole model, and with everything ablated: [n_pairs] each."""

    circuit: np.ndarray
    model: np.ndarray
    ablated: np.ndarray

    @property
    def percent(self):
        """100 x mean of the circuit / mean of the model: the ratio of means (IOI's measure)."""
        return 100 * float(self.circuit.mean() / self.model.mean())

    @property
    def mean_of_ratios(self):
        """100 x the mean over pairs of circuit / model."""
        return 100 * float((self.circuit / self.model).mean())

    @property
    def normalised(self):
        """(circuit - ablated) / (model - ablated), of the means: 0 is nothing, 1 the whole model (MIB's f)."""
        gap = self.model.mean() - self.ablated.mean()
        return float((self.circuit.mean() - self.ablated.mean()) / gap) if gap else float("nan")

    def __repr__(self):
        return (
            f"Faithfulness({self.percent:.2f} % (ratio of means), {self.mean_of_ratios:.2f} % (mean of ratios), circuit "
            f"{self.circuit.mean():.4f}, model {self.model.mean():.4f}, ablated {self.ablated.mean():.4f}; "
            f"{len(self.model)} pairs)"
        )


class Measure:
    """Pairs with their runs, a metric and an ablation: what any number of circuits are measured with."""

    def __init__(self, model, pairs, ablation, metric, direction):
        if ablation not in ABLATIONS:
            raise ValueError(f"unknown ablation {ablation!r:.60}; choose from {', '.join(ABLATIONS)}")
        self.model, self.ablation, pairs = model, ablation, as_pairs(pairs)
        self.settings = []
        for pair, one_metric in zip(pairs, as_metrics(metric, len(pairs))):
            setting = Setting(model, pair, as_direction(direction), one_metric)
            setting.texts = [run.tokens for run in (setting.base, setting.other)]
            setting.runs = setting.base = setting.other = None  # made again where they are needed: a set may be large
            self.settings.append(setting)
        self.whole = np.array([setting.base_value for setting in self.settings])

    @cached_property
    def means(self):
        return of_mean(self.model, [setting.texts[1] for setting in self.settings])

    @cached_property
    def nothing(self):
        """The metric of the circuit without any edge."""
        n = 1 + self.model.config.n_layer * (self.model.config.n_head + 1)
        return self.of_mask(np.zeros((n, self.model.config.n_layer * (3 * self.model.config.n_head + 1) + 1), bool))

    def ablated(self, settings):
        """What is given in place of what is outside, for some pairs of one length; an axis for them after the layer's."""
        if self.ablation == "zero":
            one = of_zero(self.model, len(settings[0].texts[1]))
        elif self.ablation == "mean":
            one = self.means
        else:
            texts = [setting.texts[1] for setting in settings]
            runs = self.model.run_batch(texts, keep=["z", "mlp_out", "resid_mid"])
            return Ablated(*(np.stack(arrays, axis=1) for arrays in zip(*map(of_run, runs))))
        return Ablated(*(array[:, None] for array in one))

    def batches(self):
        """Pairs of equal length, a few at a time: (their numbers, their settings)."""
        by_length = {}
        for i, setting in enumerate(self.settings):
            by_length.setdefault(len(setting.texts[0]), []).append(i)
        for numbers in by_length.values():
            for at in range(0, len(numbers), N_TEXTS):
                some = numbers[at : at + N_TEXTS]
                yield some, [self.settings[i] for i in some]

    def of_mask(self, mask):
        """The metric of each pair in a circuit of edges, [n_pairs]."""
        return self.of_masks([mask])[0]

    def of_masks(self, masks):
        """The same for several circuits, [n_circuits, n_pairs]; the ablated runs are made once."""
        values = np.empty((len(masks), len(self.settings)))
        for numbers, settings in self.batches():
            texts = np.array([setting.texts[0] for setting in settings])
            ablated = self.ablated(settings)
            for j, mask in enumerate(masks):
                with quiet():
                    rows = run_edges(self.model, texts, ablated, mask)
                values[j, numbers] = [s.read(row[None])[0] for s, row in zip(settings, rows)]
        return values

    def of_heads(self, heads):
        values = np.empty(len(self.settings))
        for numbers, settings in self.batches():
            ablated = self.ablated(settings)
            for i, (number, setting) in enumerate(zip(numbers, settings)):
                one = Ablated(*(array[:, min(i, array.shape[1] - 1)] for array in ablated))
                values[number] = setting.read(run_heads(self.model, setting.texts[0], one, heads)[None])[0]
        return values

    def of(self, circuit):
        return (
            self.of_mask(circuit.mask(self.model.config))
            if circuit.heads is None
            else self.of_heads(dict(circuit.heads))
        )

    def faithfulness(self, circuit):
        nothing = self.nothing if circuit.heads is None else self.of_heads({})
        return Faithfulness(self.of(circuit), self.whole, nothing)


def faithfulness(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    circuit: Circuit,
    *,
    ablation: str = "other run",
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
) -> Faithfulness:
    """Run the base texts with everything outside the circuit ablated, and read the metric.

    A circuit of edges: each reader reads each writer as it is in the circuit if the edge is in, and ablated if not. A circuit
    of heads: z of all other heads and positions is overwritten; the embedding and MLPs run on. Raises ValueError for an
    unknown ablation, and for a mean over texts of different lengths.
    """
    return Measure(model, pairs, ablation, metric, direction).faithfulness(circuit)


def completeness(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    circuit: Circuit,
    removed: Sequence[Sequence[str]],
    *,
    ablation: str = "other run",
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
) -> list[tuple[float, float]]:
    """For each set K of node names: (the circuit's mean value without K, the model's without K). A complete circuit loses
    what the model loses (Wang et al. 2211.00593, section 4: |F(C minus K) - F(M minus K)|)."""
    measure, config = Measure(model, pairs, ablation, metric, direction), model.config
    whole = Circuit.from_mask(config, edge_mask(config))
    masks = [part.without(k).mask(config) for k in removed for part in (circuit, whole)]
    means = measure.of_masks(masks).mean(axis=1)
    return list(zip(means[::2].tolist(), means[1::2].tolist()))


def minimality(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    circuit: Circuit,
    *,
    removed: Sequence[str] = (),
    ablation: str = "other run",
    direction: str = "noising",
    metric: str | Callable | list = "logit_difference",
) -> dict[str, float]:
    """For each node of the circuit: the mean value of the circuit without `removed` and without it, minus that without
    `removed` alone. Near 0: the node is not needed."""
    measure, config = Measure(model, pairs, ablation, metric, direction), model.config
    rest = circuit.without(removed)
    nodes = sorted(rest.nodes - {"input", "logits"})
    first, *others = measure.of_masks([c.mask(config) for c in (rest, *map(rest.without, nodes))]).mean(axis=1)
    return dict(zip(nodes, [float(value - first) for value in others]))


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness (normalised) of the strongest fractions of all edges, with MIB's areas."""

    fractions: tuple
    n_edges: tuple
    values: np.ndarray  # f of each

    @property
    def cpr(self):
        """The area under f: how quickly performance comes back."""
        return float(np.trapezoid(self.values, self.fractions))

    @property
    def cmd(self):
        """The area between f and 1: how far the circuits are from the model."""
        return float(np.trapezoid(np.abs(1 - self.values), self.fractions))


def curve(
    model: GPT2,
    pairs: PromptPair | Iterable[PromptPair],
    scores: EdgeResult,
    *,
    fractions: Sequence[float] = FRACTIONS,
    absolute: bool = True,
    ablation: str = "other run",
    metric: str | Callable | list = "logit_difference",
) -> Curve:
    """Faithfulness of the circuits of the strongest edges by `scores` (exact or estimated), pruned; absolute=False takes
    the largest effects with their sign."""
    measure, config = Measure(model, pairs, ablation, metric, scores.direction), model.config
    sizes, masks, order = [max(1, int(f * scores.n_edges)) for f in fractions], [], scores.order(absolute)
    for n in sizes:
        mask = np.zeros(scores.values.shape, bool)
        mask.reshape(-1)[order[:n]] = True
        masks.append(Circuit.from_mask(config, mask).pruned().mask(config))
    nothing, means = measure.nothing.mean(), measure.of_masks(masks).mean(axis=1)
    values = (means - nothing) / (measure.whole.mean() - nothing)
    return Curve(tuple(fractions), tuple(sizes), values)
