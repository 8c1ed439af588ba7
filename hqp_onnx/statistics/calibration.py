"""Activation ranges, from one pass over the data: a histogram of each tensor, and its threshold by one method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.shards import Numbered, shards, shared_out, summed
from hqp_onnx.errors import DataError
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Session, work_session
from hqp_onnx.statistics import thresholds
from hqp_onnx.statistics.histogram import Histogram

WORKSPACE = 1 << 26  # bytes of activations fetched in one run; larger batches are run in parts


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
    """``ranges`` by tensor name, found by the method of that name (``thresholds.method``), its number included.

    ``unbounded`` are tensors that have none, since they were NaN or infinite on some samples.
    """

    ranges: Mapping[str, Range]
    method: str
    unbounded: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON text from which ``from_json`` restores every float exactly."""
        values = {"method": self.method, "ranges": {k: asdict(r) for k, r in self.ranges.items()}}
        return json.dumps(values | ({"unbounded": self.unbounded} if self.unbounded else {}), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """The calibration written by ``to_json``; ``DataError`` for any other text."""
        try:
            values = json.loads(text)
            ranges = {name: Range(**r) for name, r in values["ranges"].items()}
            return cls(ranges, str(values["method"]), tuple(map(str, values.get("unbounded", ()))))
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise DataError(f"not a calibration file: {e}; write one with 'hqp quantize'") from e

    def tensorrt_cache(self, version: str) -> str:
        """TensorRT's calibration cache: ``version`` (as ``8603``) and each scale as big-endian float32 hex."""
        lines = [f"TRT-{version}-EntropyCalibration2"]
        for name, r in self.ranges.items():
            lines.append(f"{name}: {np.array(r.threshold / 127, '>f4').tobytes().hex()}")
        return "\n".join(lines) + "\n"


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Iterable[Batch],
    threads: int = 0,
    progress: StageProgress | None = None,
) -> dict[str, Histogram]:
    """Histograms of ``tensors`` (activations or inputs) over one pass of ``data``; errors as ``calibrate``.

    Tensors that are NaN or infinite on some sample are left out.
    """
    work, parts = _Counting(model, tuple(tensors)), shards(data)
    if shared_out(parts):
        work = replace(work, rows=work.affordable(next(iter(data)), threads))
    histograms: dict[str, Histogram] | None = None
    for counted in summed(work, data, parts, threads, progress):
        histograms = counted if histograms is None else _joined(histograms, counted)
    if histograms is None:
        raise DataError("no calibration samples: give at least one batch")
    if empty := [name for name, histogram in histograms.items() if not histogram.counts.any()]:
        raise DataError(f"tensor '{empty[0]}' had no values on any of the calibration samples")
    return histograms


@dataclass(frozen=True, eq=False)
class _Counting:
    """``Summing``: the histograms of a shard; ``rows`` samples are run at a time, 0 for what the first batch allows."""

    model: onnx.ModelProto
    tensors: tuple[str, ...]
    rows: int = 0

    def opened(self, threads: int) -> Callable[[Iterable[Numbered]], Iterator[dict[str, Histogram]]]:
        session, rows = self._session(threads), self.rows

        def count(batches: Iterable[Numbered]) -> Iterator[dict[str, Histogram]]:
            nonlocal rows
            histograms, samples = {name: Histogram() for name in self.tensors}, 0
            for _, batch in batches:
                rows = rows or _affordable(session, batch)
                samples += len(batch)
                for start in range(0, len(batch), rows):
                    feeds = batch.part(slice(start, start + rows)).feeds
                    _count(histograms, {**feeds, **session.run(feeds)} if session else feeds)
            if samples:
                yield histograms

        return count

    def affordable(self, first: Batch, threads: int) -> int:
        """Samples that are run at a time."""
        return _affordable(self._session(threads), first)

    def _session(self, threads: int) -> Session | None:
        inputs = {value.name for value in self.model.graph.input}
        fetched = [name for name in self.tensors if name not in inputs]
        return work_session(self.model, fetched, threads) if fetched else None


def _joined(first: Mapping[str, Histogram], second: Mapping[str, Histogram]) -> dict[str, Histogram]:
    """Over the samples of both, of tensors that were finite in both."""
    return {name: first[name].joined(second[name]) for name in first if name in second}


def _affordable(session: Session | None, batch: Batch) -> int:
    """Samples whose activations fit ``WORKSPACE``; without a ``session`` to fetch any, all."""
    if session is None:
        return max(1, len(batch))
    if session.batch:
        return session.batch
    one = session.run(batch.part(slice(1)).feeds)
    return max(1, WORKSPACE // max(1, sum(values.nbytes for values in one.values())))


def _count(histograms: dict[str, Histogram], values: Mapping[str, Array]) -> None:
    for name in list(histograms):
        if np.isfinite(values[name]).all():
            histograms[name].add(values[name])
        else:
            del histograms[name]


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Iterable[Batch],
    *,
    method: str = "entropy",
    threads: int = 0,
    progress: StageProgress | None = None,
) -> Calibration:
    """Ranges of ``tensors``, from one pass over ``data``; those that are not finite have none (``unbounded``).

    Args:
        model: the float model.
        tensors: names of activations or graph inputs.
        data: batches of feeds; the last may be shorter.
        method: a name as ``thresholds.method`` takes it: ``entropy``, ``percentile:99.9``, ``mse``, ``minmax``, ...
        threads: as for ``Session``.
        progress: called after each batch with the samples seen, and in all where that is known.

    Raises:
        UsageError: an unknown method, or one that fails.
        DataError: no samples.
        ModelError: onnxruntime cannot run the model.
    """
    threshold = thresholds.method(method)  # wrong names are found before any work
    histograms = collect(model, tensors, data, threads, progress)
    ranges = {name: Range(h.lo, h.hi, threshold(h)) for name, h in histograms.items()}
    return Calibration(ranges, method, tuple(name for name in tensors if name not in ranges))
