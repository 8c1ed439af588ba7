r"""Calibration methods: the magnitude at which a tensor's values are clipped, from their histogram.

A method is a function: it takes the ``Histogram`` of a tensor that was not always zero, and returns t > 0, in the units
of the tensor. A class of such functions may take a number: ``percentile:99.9`` is ``Percentile(99.9)``. Others come by
an entry point in the group ``hqp_onnx.calibrations``, or as ``FILE.py:name``.

``entropy`` (Migacz, "8-bit Inference with TensorRT", GTC 2017): bins are merged to at most 2048, h_0 .. h_{n-1}; each
candidate i >= 128 clips the distribution at bin i and quantizes it to 128 levels,

    P = (h_0, .., h_{i-2}, h_{i-1} + sum_{j>=i} h_j) / T        Q_j = (level's count) / (level's non-zero bins) / C_i

over the bins where P > 0 (a level has i/128 bins, rounded), and t is the upper edge of the i with least KL(P || Q).
With S the cumulated h log h, c and m the count and non-zero bins of a level, o the outliers and L the last level,

    T KL = S_{i-1} + (h_{i-1} + o) log(h_{i-1} + o) - T log T - sum_levels c log(c/m) - o log(c_L/m_L) + T log C_i

so all candidates cost one array expression. Two safeguards, since a threshold that collapses ruins a network:
zero is exact under any scale and ReLU makes it abound, so bin 0 counts as its neighbour does; and at most 0.1 % of
the other values may be clipped (gates, sparse and small tensors have distributions that mislead the divergence).

``percentile``: the least edge with the given share of |x| below it. ``mse``: the least squared error of rounding to
t/127 and clipping at t, over 128 evenly spaced t. ``minmax``: t = max|x|.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hqp_onnx.arrays import Array
from hqp_onnx.errors import UsageError
from hqp_onnx.registry import Registry, outside_code
from hqp_onnx.statistics.histogram import Histogram

Method: TypeAlias = Callable[[Histogram], float]
COARSE_BINS = 2048
LEVELS = 128
CLIPPED = 0.001  # largest share of non-zero values that entropy may clip


METHODS: Registry[Callable[..., Any]] = Registry(
    "calibration method", "hqp_onnx.calibrations", also=("percentile:NUMBER",)
)


def method(name: str) -> Method:
    """The method of that name, with its number if it ends in one.

    Returns:
        Thresholds of histograms; 1.0 for a tensor that was always zero, which any scale represents. It raises
        ``UsageError`` where the method fails, or gives no threshold.

    Raises:
        UsageError: an unknown method, one that takes no number, or a number that it refuses.
    """
    base, numbers = _split(name)
    known, _, digits = name.partition(":")
    if not numbers and digits and known in METHODS.names:
        raise UsageError(f"calibration method '{name}': '{digits}' is no number")
    chosen = METHODS.get(base)
    if isinstance(chosen, type):
        chosen = _answer(name, chosen, *numbers)
    elif numbers:
        raise UsageError(f"calibration method '{name}': '{base}' takes no number")
    return partial(_threshold, name, chosen)


def _threshold(name: str, method: Method, histogram: Histogram) -> float:
    if histogram.top == 0:
        return 1.0
    value: float = _answer(name, lambda: float(method(histogram)))
    if not (np.isfinite(value) and value > 0):
        raise UsageError(f"calibration method '{name}' gives {value}: expected a threshold above 0")
    return value


def _answer(name: str, function: Callable[..., Any], *arguments: object) -> Any:
    """What a function of a package or a file returns; where it fails, the reason in one line."""
    with outside_code(f"calibration method '{name}'"):
        return function(*arguments)


def _split(name: str) -> tuple[str, tuple[float, ...]]:
    """A name and its number, if it has one: no name in Python begins like a number."""
    base, _, digits = name.rpartition(":")
    try:
        return (base, (float(digits),)) if base and digits[:1] in "0123456789.+-" else (name, ())
    except ValueError as e:
        raise UsageError(f"calibration method '{name}': '{digits}' is no number") from e


@METHODS.register("entropy")
def entropy(histogram: Histogram) -> float:
    """Threshold of least KL divergence (module docstring)."""
    counts, width = histogram.bins(COARSE_BINS)
    h = counts.astype(np.float64)
    h[0] = h[1]
    last = np.arange(LEVELS, len(h) + 1)  # candidates i
    upto, filled = _cumulated(h), _cumulated(h > 0)
    total, outliers = upto[-1], upto[-1] - upto[last]
    edges = np.rint(last[:, None] * np.arange(LEVELS + 1) / LEVELS).astype(np.int64)
    c = np.diff(upto[edges], axis=1)
    m = np.diff(filled[edges], axis=1)
    m[:, -1] += (h[last - 1] == 0) & (outliers > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(c > 0, np.log(c / m), 0.0)
        tail = np.where(outliers > 0, outliers * np.log(c[:, -1] / m[:, -1]), 0.0)
        divergence = (
            _cumulated(_xlogx(h))[last - 1]
            + _xlogx(h[last - 1] + outliers)
            - (c * level).sum(axis=1)
            - tail
            + total * np.log(upto[last])
        )
    allowed = np.isfinite(divergence) & (outliers <= CLIPPED * total)
    best = last[np.argmin(np.where(allowed, divergence, np.inf))]
    return min(float(best * width), histogram.top)


@METHODS.register("percentile")
@dataclass(frozen=True)
class Percentile:
    """Least bin edge with ``percentile`` % of |x| below it."""

    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            wrong = f"calibration method 'percentile:{self.percentile:g}'"
            raise UsageError(f"{wrong}: expected a percentage above 0, up to 100, as percentile:99.9")

    def __call__(self, histogram: Histogram, /) -> float:
        """The threshold."""
        counts, width = histogram.bins()
        enough = np.cumsum(counts) >= counts.sum() * (self.percentile / 100)
        return min(float((np.argmax(enough) + 1) * width), histogram.top)


@METHODS.register("mse")
def mse(histogram: Histogram) -> float:
    """Threshold of least squared error, of 128 evenly spaced ones."""
    counts, width = histogram.bins()
    kept = np.flatnonzero(counts)
    x, weight = (kept + 0.5) * width, counts[kept].astype(np.float64)
    thresholds = histogram.top * np.arange(1, LEVELS + 1) / LEVELS
    errors = [weight @ (x - np.minimum(np.rint(x * 127 / t), 127) * t / 127) ** 2 for t in thresholds]
    return float(thresholds[int(np.argmin(errors))])


@METHODS.register("minmax")
def minmax(histogram: Histogram) -> float:
    """The largest magnitude."""
    return histogram.top


def _cumulated(x: Array) -> NDArray[np.float64]:
    """Sums of the first 0, 1, .., len(x) entries."""
    return np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])


def _xlogx(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.log(np.maximum(x, 1.0))  # counts are 0, or at least 1
