r"""Activation ranges from streaming histograms: KL divergence, percentile, squared error, min-max.

For each tensor, one pass over the data counts |x| in at most 8192 bins [k w, (k+1) w) of power-of-two width w. When a
value falls beyond the last bin, w doubles by adding neighbouring bins, so that no count is lost and memory never
depends on the number of samples. The threshold t, at most max|x|, then depends on the method:

``entropy`` (Migacz, "8-bit Inference with TensorRT", GTC 2017): bins are merged to at most 2048, h_0 .. h_{n-1}; each
candidate i >= 128 clips the distribution at bin i and quantizes it to 128 levels,

    P = (h_0, .., h_{i-2}, h_{i-1} + sum_{j>=i} h_j) / T        Q_j = (level's count) / (level's non-zero bins) / C_i

over the bins where P > 0 (a level has i/128 bins, rounded), and t is the upper edge of the i with least KL(P || Q).
With S the cumulated h log h, c and m the count and non-zero bins of a level, o the outliers and L the last level,

    T KL = S_{i-1} + (h_{i-1} + o) log(h_{i-1} + o) - T log T - sum_levels c log(c/m) - o log(c_L/m_L) + T log C_i

so that all candidates cost one array expression. Two safeguards, since a threshold that collapses ruins a network:
zero is exact under any scale and ReLU makes it abound, so that bin 0 counts as its neighbour does; and at most 0.1 % of
the other values may be clipped (gates, sparse and small tensors have distributions that mislead the divergence).

``percentile``: the least edge with the given share of |x| below it. ``mse``: the least squared error of rounding to
t/127 and clipping at t, over 128 evenly spaced t. ``minmax``: t = max|x|.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.data.dataset import Batch
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Session

FINE_BINS = 8192
COARSE_BINS = 2048
LEVELS = 128
WORKSPACE = 1 << 26  # bytes of activations fetched in one run; larger batches are run in parts
CLIPPED = 0.001  # largest share of non-zero values that entropy may clip


@dataclass(frozen=True, slots=True)
class Range:
    """Observed minimum ``lo``, maximum ``hi`` and chosen clipping ``threshold`` > 0 of a tensor."""

    lo: float
    hi: float
    threshold: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.lo, self.hi, self.threshold]).all() and self.lo <= self.hi and self.threshold > 0):
            raise ValueError(f"not a range: {self}")

    @property
    def clipped(self) -> tuple[float, float]:
        """The asymmetric range: observed values within the threshold, widened to hold zero."""
        return max(min(self.lo, 0.0), -self.threshold), min(max(self.hi, 0.0), self.threshold)


@dataclass(frozen=True)
class Calibration:
    """``ranges`` by tensor name, found by ``method``."""

    ranges: Mapping[str, Range]
    method: str

    def to_json(self) -> str:
        """JSON text from which ``from_json`` restores every float exactly."""
        return json.dumps({"method": self.method, "ranges": {k: asdict(r) for k, r in self.ranges.items()}}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """The calibration written by ``to_json``; ``DataError`` for any other text."""
        try:
            values = json.loads(text)
            return cls({name: Range(**r) for name, r in values["ranges"].items()}, str(values["method"]))
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise DataError(f"not a calibration file: {e}; write one with 'hqp quantize'") from e

    def tensorrt_cache(self, version: str) -> str:
        """TensorRT's calibration cache: ``version`` (as ``8603``) and each scale as big-endian float32 hex."""
        lines = [f"TRT-{version}-EntropyCalibration2"]
        for name, r in self.ranges.items():
            lines.append(f"{name}: {np.array(r.threshold / 127, '>f4').tobytes().hex()}")
        return "\n".join(lines) + "\n"


@dataclass
class Histogram:
    """Counts of |x| seen so far: ``counts`` int64 [8192], bin width 2**``exponent`` (None before a non-zero value)."""

    counts: IntArray = field(default_factory=lambda: np.zeros(FINE_BINS, np.int64))
    exponent: int | None = None
    lo: float = np.inf
    hi: float = -np.inf

    @property
    def top(self) -> float:
        """Largest |x|."""
        return max(abs(self.lo), abs(self.hi))

    def add(self, values: Array) -> None:
        """Count finite ``values`` of any shape."""
        if not values.size:
            return
        values = values.astype(np.float32, copy=False)
        self.lo, self.hi = min(self.lo, float(values.min())), max(self.hi, float(values.max()))
        self._grow()
        bins = np.ldexp(np.abs(values.reshape(-1)), -(self.exponent or 0)).astype(np.int64)
        self.counts += np.bincount(bins, minlength=FINE_BINS)

    def _grow(self) -> None:
        if self.top == 0:
            return
        needed = int(np.frexp(self.top)[1]) - int(np.log2(FINE_BINS))  # top < 2**(needed + 13)
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            self.counts[: FINE_BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[FINE_BINS // 2 :] = 0
            self.exponent += 1

    def bins(self, limit: int = FINE_BINS) -> tuple[IntArray, float]:
        """IntArray up to the largest |x| in at most ``limit`` bins, and the bins' width."""
        assert self.exponent is not None
        used = int(np.ldexp(self.top, -self.exponent)) + 1
        merge = 1 << max(0, int(np.ceil(np.log2(used / limit))))
        counts = self.counts.reshape(-1, merge).sum(axis=1)[: -(-used // merge)]
        return counts, float(np.ldexp(merge, self.exponent))


def entropy_threshold(histogram: Histogram) -> float:
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


def percentile_threshold(histogram: Histogram, percentile: float) -> float:
    """Least bin edge with ``percentile`` % of |x| below it."""
    counts, width = histogram.bins()
    enough = np.cumsum(counts) >= counts.sum() * (percentile / 100)
    return min(float((np.argmax(enough) + 1) * width), histogram.top)


def mse_threshold(histogram: Histogram) -> float:
    """Threshold of least squared error, of 128 evenly spaced ones."""
    counts, width = histogram.bins()
    kept = np.flatnonzero(counts)
    x, weight = (kept + 0.5) * width, counts[kept].astype(np.float64)
    thresholds = histogram.top * np.arange(1, LEVELS + 1) / LEVELS
    errors = [weight @ (x - np.minimum(np.rint(x * 127 / t), 127) * t / 127) ** 2 for t in thresholds]
    return float(thresholds[int(np.argmin(errors))])


METHODS = ("entropy", "percentile", "mse", "minmax")


def threshold(histogram: Histogram, method: str, percentile: float = 99.99) -> float:
    """Clipping threshold by ``method``; 1.0 for a tensor that was always zero, which any scale represents."""
    if histogram.top == 0:
        return 1.0
    if method == "entropy":
        return entropy_threshold(histogram)
    if method == "percentile":
        return percentile_threshold(histogram, percentile)
    return mse_threshold(histogram) if method == "mse" else histogram.top


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Iterable[Batch],
    threads: int = 0,
    progress: StageProgress | None = None,
) -> dict[str, Histogram]:
    """Histograms of ``tensors`` (activations or inputs) over one pass of ``data``; errors as ``calibrate``."""
    histograms = {name: Histogram() for name in tensors}
    inputs = {value.name for value in model.graph.input}
    fetched = [name for name in tensors if name not in inputs]
    session = Session(model, outputs=fetched, threads=threads) if fetched else None
    samples = rows = 0
    total = len(data) if isinstance(data, Sized) else 0
    for batch in data:
        rows = rows or _affordable(session, batch)
        for start in range(0, len(batch), rows):
            feeds = {name: x[start : start + rows] for name, x in batch.feeds.items()}
            _count(histograms, {**feeds, **session.run(feeds)} if session else feeds, samples + start)
        samples += len(batch)
        if progress is not None:
            progress(samples, total)
    if not samples:
        raise DataError("no calibration samples: give at least one batch")
    if empty := [name for name, histogram in histograms.items() if not histogram.counts.any()]:
        raise DataError(f"tensor '{empty[0]}' had no values on any of {samples} calibration samples")
    return histograms


def _affordable(session: Session | None, batch: Batch) -> int:
    """Samples whose activations fit ``WORKSPACE``; without a ``session`` to fetch any, all."""
    if session is None:
        return max(1, len(batch))
    if session.batch:
        return session.batch
    one = session.run({name: x[:1] for name, x in batch.feeds.items()})
    return max(1, WORKSPACE // max(1, sum(values.nbytes for values in one.values())))


def _count(histograms: Mapping[str, Histogram], values: Mapping[str, Array], start: int) -> None:
    for name, histogram in histograms.items():
        if not np.isfinite(values[name]).all():
            raise DataError(f"tensor '{name}' is NaN or infinite on calibration samples from {start} on")
        histogram.add(values[name])


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Iterable[Batch],
    *,
    method: str = "entropy",
    percentile: float = 99.99,
    threads: int = 0,
    progress: StageProgress | None = None,
) -> Calibration:
    """Ranges of ``tensors``, from one pass over ``data``.

    Args:
        model: the float model.
        tensors: names of activations or graph inputs.
        data: batches of feeds; the last may be shorter.
        method: entropy, percentile, mse or minmax.
        percentile: share of |x| that the percentile method keeps, in %.
        threads: as for ``Session``.
        progress: called after each batch with the samples seen, and in all where that is known.

    Raises:
        UsageError: an unknown method, or a percentile outside (0, 100].
        DataError: no samples, or a tensor that is not finite (named).
        ModelError: onnxruntime cannot run the model.
    """
    if method not in METHODS:
        raise UsageError(f"unknown calibration method '{method}': expected one of {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile {percentile} is out of range: expected a value above 0, up to 100")
    histograms = collect(model, tensors, data, threads, progress)
    return Calibration({n: Range(h.lo, h.hi, threshold(h, method, percentile)) for n, h in histograms.items()}, method)


def _cumulated(x: Array) -> NDArray[np.float64]:
    """Sums of the first 0, 1, .., len(x) entries."""
    return np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])


def _xlogx(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.log(np.maximum(x, 1.0))  # counts are 0, or at least 1
