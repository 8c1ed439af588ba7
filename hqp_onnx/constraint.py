"""The budget: how far the metric may fall, and how sure a measured fall is.

A candidate is admitted while A_baseline - A <= max_drop, A being the mean score on D_val; the comparison is
made on sums of scores, so that counts are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqp_onnx.errors import UsageError
from hqp_onnx.metrics import FloatArray, Scores

_ROUNDING = 1e-9  # of a sample: max_drop * samples is rarely exact in binary
_Z95 = 1.959964


@dataclass(frozen=True)
class Budget:
    """``baseline`` scores and the largest drop of their mean, 0..1 (0.015 = 1.5 points)."""

    baseline: Scores
    max_drop: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 1:
            raise UsageError(f"--max-drop {self.max_drop}: expected a fraction in 0..1, such as 0.015 for 1.5 points")

    @property
    def required(self) -> float:
        """Sum of scores that a candidate must reach."""
        samples = self.baseline.samples
        return float(self.baseline.values.sum() - self.max_drop * samples - _ROUNDING * samples)

    def admits(self, scores: Scores) -> bool:
        """Whether a candidate is inside the budget; one that was not fully evaluated never is."""
        return scores.complete and float(scores.values.sum()) >= self.required


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
    half = _Z95 * float(difference.std(ddof=1)) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return Interval(drop, drop - half, drop + half)
