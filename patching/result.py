"""What a sweep returns: the values with everything that is needed to read them."""

from dataclasses import dataclass

import numpy as np


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
    tokens: tuple  # prompts.PairTokens
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
        """The heatmap, which a notebook shows for a result."""
        from io import BytesIO

        from .draw.figure import figure

        picture = BytesIO()
        figure(self).savefig(picture, format="png", dpi=100)
        return picture.getvalue()

    @property
    def base_value(self):
        """The metric of the run that was patched."""
        return self.corrupted_value if self.direction == "denoising" else self.clean_value

    @property
    def target_value(self):
        """The metric of the run that the vectors came from: what a patch that carries everything over gives."""
        return self.clean_value if self.direction == "denoising" else self.corrupted_value

    @property
    def share(self):
        """How far each patch moves the metric from base_value (0) to target_value (1); NaN where the two are equal."""
        gap = self.target_value - self.base_value
        return (self.values - self.base_value) / gap + 0.0 if gap else np.full_like(self.values, np.nan)
