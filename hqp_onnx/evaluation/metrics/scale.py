"""How statistics of single samples make one number, and how far two models' numbers surely are apart.

    rows r_i, one per sample;  value = f(sum_i w_i r_i),  w = 1;  drop = value of the baseline - value of a candidate

``Mean``: rows are scores in low..high. The bounds of a mean drop are exact (``paired``), and an evaluation may stop as
soon as all samples left at their best would not reach what is required.
``OfSums``: rows are statistics [k], as counts of true positives or squared errors. The drop's bounds are percentiles of
a paired bootstrap: the samples are drawn anew, with replacement, for both models alike. Where ``best`` is given, the
row of a sample that nothing could be better than, an evaluation may stop as well.
Where less is better, a drop is a rise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.evaluation.metrics.quantity import POINTS
from hqp_onnx.evaluation.paired import upper_bound

_ROUNDING = 1e-9  # of a sample, or of a value: max_drop * samples is rarely exact in binary
_AT_ONCE = 1 << 22  # weights of a bootstrap that are in memory


class Scale(ABC):
    """From rows, first axis = samples, to a value.

    Attributes:
        unit: see ``Quantity``.
        higher: whether more is better.
    """

    unit: str
    higher: bool

    @abstractmethod
    def value(self, rows: Any, samples: int) -> float:
        """The value; at its best where only some of ``samples`` were seen."""

    def total(self, rows: Any) -> Any:
        """The sum of rows, as ``reach`` takes it."""
        return rows.sum(0)

    def reach(self, total: Any, left: int) -> float:
        """What can be attained at best when ``left`` samples are to come after those in ``total``."""
        return math.inf

    def attained(self, rows: Any, samples: int) -> float:
        """How good: what ``required`` is compared with."""
        return (1.0 if self.higher else -1.0) * self.value(rows, samples)

    def required(self, baseline: Any, max_drop: float) -> float:
        """What a candidate must attain, by the baseline's rows."""
        value = self.value(baseline, baseline.shape[0])
        return (value if self.higher else -value) - max_drop - _ROUNDING * max(1.0, abs(value))

    def in_units_of_attained(self, amount: float, samples: int) -> float:
        """A change of the value as one of what is attained."""
        return amount

    def drop(self, baseline: float, candidate: float) -> float:
        """How much worse a value is."""
        return baseline - candidate if self.higher else candidate - baseline

    def drop_of(self, baseline: Any, candidate: Any) -> float:
        """How much worse a candidate is, from rows of the same samples."""
        return self.drop(self.value(baseline, baseline.shape[0]), self.value(candidate, candidate.shape[0]))

    @abstractmethod
    def upper_drop(self, baseline: Any, candidate: Any, confidence: float) -> float:
        """What the drop exceeds with probability 1 - ``confidence`` at most, from rows of the same samples."""

    @abstractmethod
    def interval(self, baseline: Any, candidate: Any) -> tuple[float, float]:
        """The two-sided 95 % interval of the drop."""


class Resampled(Scale):
    """A scale whose bounds are percentiles of a paired bootstrap of ``draws`` resamples."""

    draws: ClassVar[int] = 2000

    @abstractmethod
    def resampled(self, rows: Any, weights: Array) -> FloatArray:
        """Values [draws] with the samples' weights, integers [draws, samples]."""

    def upper_drop(self, baseline: Any, candidate: Any, confidence: float) -> float:
        """A percentile."""
        return float(np.quantile(self._drops(baseline, candidate), confidence))

    def interval(self, baseline: Any, candidate: Any) -> tuple[float, float]:
        """Two percentiles."""
        low, high = np.quantile(self._drops(baseline, candidate), (0.025, 0.975))
        return float(low), float(high)

    def _drops(self, baseline: Any, candidate: Any) -> FloatArray:
        """Of the resamples that have a value: a class may be in none of the samples drawn."""
        sign = 1.0 if self.higher else -1.0
        parts = [
            sign * (self.resampled(baseline, weights) - self.resampled(candidate, weights))
            for weights in resamples(baseline.shape[0], self.draws)
        ]
        drops: FloatArray = np.concatenate(parts)
        known = drops[np.isfinite(drops)]
        return known if len(known) else np.array([np.inf])


def resamples(samples: int, draws: int) -> Iterator[Array]:
    """How often each sample is drawn, int64 [some, samples], ``draws`` in all; always the same."""
    rng = np.random.default_rng(0)
    step = max(1, _AT_ONCE // samples)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        yield np.stack([np.bincount(rng.integers(0, samples, samples), minlength=samples) for _ in range(count)])


@dataclass(frozen=True)
class Mean(Scale):
    """The mean of scores in ``low``..``high``, float64 [samples]."""

    low: float = 0.0
    high: float = 1.0
    unit: str = POINTS
    higher: bool = True

    def value(self, rows: FloatArray, samples: int) -> float:
        """The mean."""
        return float((rows.sum() + self.high * (samples - len(rows))) / samples)

    def reach(self, total: float, left: int) -> float:
        """A sum of scores."""
        return total + self.high * left

    def attained(self, rows: FloatArray, samples: int) -> float:
        """The sum of scores: counts are exact."""
        return float(rows.sum())

    def required(self, baseline: FloatArray, max_drop: float) -> float:
        """A sum of scores."""
        samples = len(baseline)
        return float(baseline.sum() - max_drop * samples - _ROUNDING * samples)

    def in_units_of_attained(self, amount: float, samples: int) -> float:
        """A sum of scores."""
        return amount * samples

    def drop_of(self, baseline: FloatArray, candidate: FloatArray) -> float:
        """The mean of the differences."""
        return float((baseline - candidate).mean())

    def upper_drop(self, baseline: FloatArray, candidate: FloatArray, confidence: float) -> float:
        """Exact, see ``paired``."""
        return self._upper(baseline - candidate, confidence)

    def interval(self, baseline: FloatArray, candidate: FloatArray) -> tuple[float, float]:
        """Exact, see ``paired``."""
        return -self._upper(candidate - baseline, 0.975), self._upper(baseline - candidate, 0.975)

    def _upper(self, differences: FloatArray, confidence: float) -> float:
        width = self.high - self.low
        return (
            upper_bound(differences, confidence) if width == 1 else width * upper_bound(differences / width, confidence)
        )


@dataclass(frozen=True)
class OfSums(Resampled):
    """A function of the sums of statistics.

    Attributes:
        function: sums float64 [..., k] -> values [...]; NaN where there is none.
        best: the row of a sample that is as good as can be, if that is known beforehand.
    """

    function: Callable[[FloatArray], Any]
    unit: str = POINTS
    higher: bool = True
    best: tuple[float, ...] | None = None

    def value(self, rows: Any, samples: int) -> float:
        """The function of the sums."""
        if not rows.shape[1]:  # no sample was judged
            return math.nan
        left = samples - rows.shape[0]
        sums = self.total(rows) + (0 if self.best is None or not left else left * np.array(self.best))
        return self._of(sums)

    def resampled(self, rows: Any, weights: Array) -> FloatArray:
        """The function of weighted sums."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.function(np.asarray(weights.astype(np.float64) @ rows)), np.float64)

    def reach(self, total: Any, left: int) -> float:
        """By the best rows."""
        if self.best is None:
            return math.inf
        value = self._of(total + left * np.array(self.best))
        return value if self.higher else -value

    def _of(self, sums: FloatArray) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.function(np.asarray(sums, np.float64)))


SHARES = Mean()
"""Scores in 0..1, whose mean is the metric."""


def ratio(sums: FloatArray) -> FloatArray:
    """Of sums [..., 2], the first by the second."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def weighted_mean(unit: str = "", higher: bool = True) -> OfSums:
    """The mean of scores of any range, from rows (score, 1)."""
    return OfSums(ratio, unit, higher)
