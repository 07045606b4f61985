"""What a sweep returns: the values with everything that is needed to read them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import is_bounded
from .prompts import PairTokens

ROUNDING = 1e-4  # more than float32 leaves of a difference of logits that is zero


OTHER_RUN = "the other run"  # the source of every patch that is not said to be another


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The metric after each patch.

    values has one axis for each entry of axes, in that order ("layer", "head", "position", "source"); axes[name] are
    the model's indices along it. share gives the same values on the scale where the run that was patched is 0 and the
    other is 1.
    """

    values: np.ndarray  # [n_layer, n_seq] for resid_post, and so on
    clean_value: float  # the metric of the clean run
    corrupted_value: float  # the metric of the corrupted run
    axes: dict[str, list[int]]
    site: str
    direction: str
    metric: str
    unit: str
    alpha: float
    tokens: PairTokens
    clean_labels: tuple[str, ...]  # a visible string for each position
    corrupted_labels: tuple[str, ...]
    answer_labels: tuple[str, str]  # (clean answer, corrupted answer)
    model: str
    revision: str | None = None
    logits: np.ndarray | None = None  # [*values.shape, n_vocab] of the last position, with keep_logits
    method: str = "patching"  # or "attribution", the first-order estimate
    source: str = OTHER_RUN  # what was written
    overwrites: int = 0  # how many there were in the patched run throughout
    spread: np.ndarray | None = None  # of several draws: the standard deviation beside each mean value
    places: tuple | None = None  # of the axis "set": what each patched, ((layer, head or None, position or None), ...)

    def __repr__(self) -> str:
        lo, hi = float(self.values.min()), float(self.values.max())
        return (
            f"Result({self.site} by {' x '.join(self.axes)} {list(self.values.shape)}, {self.direction}, "
            f"{self.unit} from {lo:.3f} to {hi:.3f}; "
            f"clean {self.clean_value:.3f}, corrupted {self.corrupted_value:.3f}; {self.model})"
        )

    def _repr_png_(self):
        """The heatmap, which a notebook shows for a result. The one import upwards, and only when a notebook asks."""
        from .draw.figure import figure

        return figure(self)._repr_png_()

    @property
    def base(self) -> str:
        """The run that was patched, "clean" or "corrupted"."""
        return "corrupted" if self.direction == "denoising" else "clean"

    @property
    def target(self) -> str:
        """The run that the vectors came from."""
        return "corrupted" if self.base == "clean" else "clean"

    @property
    def restores(self) -> bool:
        """Whether the clean run's vectors were written into the corrupted run: only then does a patch restore anything."""
        return self.base == "corrupted" and self.source == OTHER_RUN

    @property
    def way(self) -> str:
        """What was written where: "clean vectors written into the corrupted run"."""
        what = f"{self.target} vectors" if self.source == OTHER_RUN else self.source
        throughout = (
            f" of a model with {self.overwrites} overwrite{'s' * (self.overwrites > 1)}" if self.overwrites else ""
        )
        return f"{what} written into the {self.base} run{throughout}"

    @property
    def base_value(self) -> float:
        """The metric of the run that was patched: the value of a patch without effect."""
        return getattr(self, f"{self.base}_value")

    @property
    def target_value(self) -> float:
        """The metric of the run that the vectors came from: what a patch that carries everything over gives."""
        return getattr(self, f"{self.target}_value")

    @property
    def gap(self) -> float:
        """target_value - base_value."""
        return self.target_value - self.base_value

    @property
    def share(self) -> np.ndarray:
        """How far each patch moves the metric from base_value (0) to target_value (1); NaN where the two are equal."""
        return (self.values - self.base_value) / self.gap + 0.0 if self.gap else np.full_like(self.values, np.nan)

    @property
    def noise(self) -> float:
        """The size of a change of the metric that means nothing: ROUNDING of the larger run's value, and of an
        unbounded metric at least ROUNDING."""
        return ROUNDING * max(abs(self.clean_value), abs(self.corrupted_value), 0 if is_bounded(self.metric) else 1)

    def at(self, **place: int) -> float:
        """The value of one patch, by the model's indices: result.at(layer=3, position=4)."""
        if place.keys() != self.axes.keys():
            raise ValueError(f"at() needs {' and '.join(self.axes)} here, got {', '.join(place) or 'nothing'}")
        for axis, i in place.items():
            if i not in self.axes[axis]:
                raise ValueError(
                    f"{axis} {i} is not in this result; it has {axis} {', '.join(map(str, self.axes[axis]))}"
                )
        return float(self.values[tuple(chosen.index(place[axis]) for axis, chosen in self.axes.items())])

    def place(self, index: Sequence[int]) -> dict[str, int]:
        """The model's indices by axis, {"layer": 3, "position": 4}, of the patch at values[index]."""
        return {axis: chosen[i] for (axis, chosen), i in zip(self.axes.items(), index)}

    def label(self, axis: str, index: int) -> str:
        """How one entry of an axis is called: its number, and at a position its token, or both where they differ."""
        if axis not in ("position", "source"):
            return f"{axis} {index}"
        return f"{index} {self.token_label(index)}"

    def tokens_at(self, position: int) -> tuple[str, ...]:
        """The label of the token at a position, or both labels where the texts differ."""
        both = self.clean_labels[position], self.corrupted_labels[position]
        return both if position in self.tokens.differing else both[:1]

    def token_label(self, position: int) -> str:
        """ "␣was", or "␣Jones → ␣Smith" where the two texts differ."""
        return " → ".join(self.tokens_at(position))
