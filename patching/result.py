"""What a sweep returns: the values with everything that is needed to read them."""

from dataclasses import dataclass

import numpy as np

from .metrics import is_bounded
from .prompts import PairTokens

ROUNDING = 1e-4  # more than float32 leaves of a difference of logits that is zero


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
    axes: dict
    site: str
    direction: str
    metric: str
    unit: str
    alpha: float
    tokens: PairTokens
    clean_labels: tuple  # a visible string for each position
    corrupted_labels: tuple
    answer_labels: tuple  # (clean answer, corrupted answer)
    model: str
    revision: str = None
    logits: np.ndarray = None  # [*values.shape, n_vocab] of the last position, with keep_logits
    method: str = "patching"  # or "attribution", the first-order estimate
    source: str = "the other run"  # what was written
    spread: np.ndarray = None  # of a random source with several draws: the standard deviation beside each mean value
    places: tuple = (
        None  # of the axis "set": what each patched together, ((layer, head or None, position or None), ...)
    )

    def __repr__(self):
        lo, hi = float(self.values.min()), float(self.values.max())
        return (
            f"Result({self.site} by {' x '.join(self.axes)} {list(self.values.shape)}, {self.direction}, "
            f"{self.unit} from {lo:.3f} to {hi:.3f}; "
            f"clean {self.clean_value:.3f}, corrupted {self.corrupted_value:.3f}; {self.model})"
        )

    def _repr_png_(self):
        """The heatmap, which a notebook shows for a result. The one import upwards, and only when a notebook asks."""
        from io import BytesIO

        from .draw.figure import figure

        picture = BytesIO()
        figure(self).savefig(picture, format="png", dpi=100)
        return picture.getvalue()

    @property
    def base(self) -> str:
        """The run that was patched, "clean" or "corrupted"."""
        return "corrupted" if self.direction == "denoising" else "clean"

    @property
    def target(self) -> str:
        """The run that the vectors came from."""
        return "corrupted" if self.base == "clean" else "clean"

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

    def at(self, **place) -> float:
        """The value of one patch, by the model's indices: result.at(layer=3, position=4)."""
        if place.keys() != self.axes.keys():
            raise ValueError(f"at() needs {' and '.join(self.axes)} here, got {', '.join(place) or 'nothing'}")
        for axis, i in place.items():
            if i not in self.axes[axis]:
                raise ValueError(
                    f"{axis} {i} is not in this result; it has {axis} {', '.join(map(str, self.axes[axis]))}"
                )
        return float(self.values[tuple(chosen.index(place[axis]) for axis, chosen in self.axes.items())])

    def place(self, index) -> dict:
        """The model's indices by axis, {"layer": 3, "position": 4}, of the patch at values[index]."""
        return {axis: chosen[i] for (axis, chosen), i in zip(self.axes.items(), index)}

    def label(self, axis, index) -> str:
        """How one entry of an axis is called: its number, and at a position its token, or both where they differ."""
        if axis not in ("position", "source"):
            return f"{axis} {index}"
        return f"{index} {self.token_label(index)}"

    def token_label(self, position) -> str:
        """ "␣was", or "␣Jones → ␣Smith" where the two texts differ."""
        clean, corrupted = self.clean_labels[position], self.corrupted_labels[position]
        return f"{clean} → {corrupted}" if position in self.tokens.differing else clean
