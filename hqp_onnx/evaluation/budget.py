"""The budget: how far the metric may fall, and how certain a measured drop is.

A candidate is admitted while A_baseline - A <= max_drop, A being the mean score on D_val, and all its outputs are
finite; the comparison is made on sums of scores, so counts are exact. D_val is a sample, and the search takes the
candidate that just passes on it: on other data, the drop is as likely above the budget as below. With a confidence
above 0.5, it is the drop's upper bound at that confidence that must be inside the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hqp_onnx.arrays import FloatArray
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics import Scores, require_finite

_ROUNDING = 1e-9  # of a sample: max_drop * samples is rarely exact in binary
_Z95 = 1.959964


def check_budget(max_drop: float, confidence: float) -> None:
    """Raise ``UsageError`` for values that no budget takes."""
    if not 0 <= max_drop <= 1:
        raise UsageError(f"{{--max_drop}} {max_drop}: expected a share in 0..1, such as 0.015 for 1.5 points")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"{{--confidence}} {confidence}: expected 0.5 or more and below 1, such as 0.95")


@dataclass(frozen=True)
class Budget:
    """``baseline`` scores, the largest drop of their mean, 0..1 (0.015 = 1.5 points), and with what confidence.

    Raises:
        UsageError: ``max_drop`` or ``confidence`` is out of range.
        ModelError: the baseline's outputs are not all finite, so nothing can be held against it.
    """

    baseline: Scores
    max_drop: float
    confidence: float = 0.5

    def __post_init__(self) -> None:
        check_budget(self.max_drop, self.confidence)
        require_finite(self.baseline.nonfinite, self.baseline.samples)

    @property
    def required(self) -> float:
        """Sum of scores that a candidate must reach at least."""
        samples = self.baseline.samples
        return float(self.baseline.values.sum() - self.max_drop * samples - _ROUNDING * samples)

    def admits(self, scores: Scores) -> bool:
        """Whether a candidate is inside the budget; one not fully evaluated, or with outputs not finite, never is."""
        reached = float(scores.values.sum()) - self.margin(scores) * scores.samples
        return scores.complete and not scores.nonfinite and reached >= self.required

    def margin(self, scores: Scores) -> float:
        """How far the upper bound of a candidate's drop is above the drop (0 at a confidence of 0.5)."""
        seen = len(scores.values)
        return NormalDist().inv_cdf(self.confidence) * _standard_error(self.baseline.values[:seen] - scores.values)

    def words(self, scores: Scores) -> str:
        """The drop, and its upper bound if that is what counts, beside the budget; or what rules a candidate out."""
        drop, margin = (100 * x for x in (self.baseline.metric - scores.metric, self.margin(scores)))
        least = "" if scores.complete else "at least "
        bound = f" (up to {drop + margin:.2f} at {100 * self.confidence:g} %)" if margin and scores.complete else ""
        broken = f"{least}{scores.nonfinite.words(scores.samples)}; " if scores.nonfinite else ""
        return f"{broken}drop {least}{drop:.2f}{bound} of {100 * self.max_drop:g} points"

    def spent(self, pruning: float, scores: Scores) -> dict[str, float]:
        """Where the budget went: to pruning and to the lower precision that led to ``scores``, and what is left.

        Args:
            pruning: the drop of the pruned model, 0..1.
            scores: of the model that ships, on D_val.

        Returns:
            Shares of the metric that add up to ``max_drop``; above a confidence of 0.5 with the ``uncertainty``.
        """
        drop, margin = self.baseline.metric - scores.metric, self.margin(scores)
        uncertainty = {"uncertainty": margin} if self.confidence > 0.5 else {}
        return {"pruning": pruning, "precision": drop - pruning, **uncertainty, "left": self.max_drop - drop - margin}


@dataclass(frozen=True)
class Interval:
    """Mean drop and its 95 % interval, in the metric's unit."""

    drop: float
    low: float
    high: float


def paired_drop(baseline: FloatArray, candidate: FloatArray) -> Interval:
    """Drop of the mean score and its 95 % interval from the per-sample differences (normal approximation)."""
    difference = baseline - candidate
    drop = float(difference.mean())
    half = _Z95 * _standard_error(difference)
    return Interval(drop, drop - half, drop + half)


def _standard_error(values: FloatArray) -> float:
    """The standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
