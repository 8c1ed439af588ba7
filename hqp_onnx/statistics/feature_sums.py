"""Sums of features and of their products over data, computed inside the model.

    gram = sum_p x_p x_p^T,   total = sum_p x_p        over samples and positions p

Nodes appended to the model make matrices of activations (patches by a depthwise Conv with one-hot kernels) and multiply
them, so activations are never copied out or kept. Sums over a batch are float32, over batches float64. Where means are
large beside deviations, float32 would lose what matters, the covariance; then nodes subtract c, the mean of the first
samples, and the sums about zero are put together in float64,

    gram = sum (x-c)(x-c)^T + c s^T + s c^T + n c c^T,   total = s + n c,       s = sum (x - c)

Features of one group are added up as they come, so memory grows with weights rather than with their uses. Grams that
do not fit ``GRAMS`` are measured by several passes over the data. Neighbouring positions say much the same, and a gram
costs their number times the square of F: of F >= ``WIDE`` features at more than ``ENOUGH`` F positions in all samples,
every k-th position is taken, k odd, so ``ENOUGH`` F remain (long recordings, large images).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from hqp_onnx.arrays import Array, Float32Array, FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import DataError
from hqp_onnx.graphs.nodes import reads
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Session, work_session
from hqp_onnx.statistics.summing import Features, Summing

WORKSPACE = 1 << 26  # bytes of patches in one run; larger batches are run in parts
GRAMS = 1 << 28  # bytes of grams that one run gives; what is beyond waits for another pass
WIDE, ENOUGH = 64, 1 << 16  # features from which on positions are thinned out, and positions per feature that stay
LARGE = 1e4  # squared mean of a feature over the mean variance, from which on means are subtracted first

_Measured = tuple[Array, Array, float]


@dataclass
class Sums:
    """``gram`` float64 [F, F] and ``total`` float64 [F] over ``count`` positions."""

    gram: FloatArray
    total: FloatArray
    count: float = 0.0

    def add(self, gram: Array, total: Array, count: float) -> None:
        """Add what others sum up to."""
        with np.errstate(invalid="ignore"):  # infinities of both signs
            self.gram += gram
            self.total += total
        self.count += count


def feature_sums(
    model: onnx.ModelProto,
    groups: Sequence[tuple[Features, ...]],
    data: Iterable[Batch],
    *,
    progress: StageProgress | None = None,
    threads: int = 0,
) -> list[Sums]:
    """Sums over all features of each group, which are of one size.

    Args:
        model: canonical, opset 13 or newer.
        groups: what to add up; different groups may share features.
        data: batches of the model's inputs, re-iterable.
        progress: called with (samples done, samples in all or 0 if unknown), passes counted as samples.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the model.
    """
    sums = [Sums(np.zeros((size, size)), np.zeros(size)) for size in (group[0].size for group in groups)]
    passes = list(_passes(list(dict.fromkeys(each for group in groups for each in group))))
    for number, features in enumerate(passes):
        homes = [[own for own, group in zip(sums, groups, strict=True) if each in group] for each in features]
        samples, whole = 0, len(data) if isinstance(data, Dataset) else 0
        work = _Pass(model, features, homes, threads, whole)
        for batch in data:
            work.add(batch)
            samples += len(batch)
            if progress is not None:
                progress(number * whole + samples, len(passes) * whole)
        if not samples:
            raise DataError("no calibration data: moments need at least one batch")
    return sums


def _passes(features: Sequence[Features]) -> Iterator[list[Features]]:
    """``features`` in portions whose grams fit ``GRAMS``."""
    portion: list[Features] = []
    room = GRAMS
    for each in features:
        need = 4 * each.size**2
        if portion and need > room:
            yield portion
            portion, room = [], GRAMS
        portion.append(each)
        room -= need
    if portion:
        yield portion


class _Pass:
    """Some features, measured in one pass over the data.

    Args:
        model, threads: see ``feature_sums``.
        features: to measure.
        homes: the sums that each of them belongs to.
        samples: that there will be; 0 if unknown.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        features: Sequence[Features],
        homes: Sequence[Sequence[Sums]],
        threads: int,
        samples: int,
    ) -> None:
        self._model, self._features, self._homes, self._threads = model, features, homes, threads
        self._prefix = unused_prefix("hqp.moments.", tensor_names(model.graph))
        count = range(len(features))
        self._names = [f"{self._prefix}{part}.{n}" for part in ("gram", "sum", "positions") for n in count]
        self._shifts: dict[int, Float32Array] = {}
        self._steps: dict[int, int] = {}
        self._samples, self._rows = samples, 0
        self._session = self._opened()

    def add(self, batch: Batch) -> None:
        """Measure a batch."""
        first = not self._rows
        if first:
            tried = self._session.batch or 1
            one = self._run(_slice(batch, 0, tried, tried))
            self._rows = self._session.batch or _affordable(one, self._features)
            self._thin([count * self._samples / tried for *_, count in one])
        for start in range(0, len(batch), self._rows):
            feeds = _slice(batch, start, self._rows, self._session.batch or 0)
            values = self._run(feeds)
            if first and start == 0 and self._centre(values):
                values = self._run(feeds)
            for number, value in enumerate(values):
                for home in self._homes[number]:
                    home.add(*_about_zero(value, self._shifts.get(number)))

    def _thin(self, positions: Sequence[float]) -> None:
        """Take fewer positions from now on, where there will be more than enough."""
        steps = [_step(each.size, count) for each, count in zip(self._features, positions, strict=True)]
        self._steps = {number: step for number, step in enumerate(steps) if step > 1}
        if self._steps:
            self._session = self._opened()

    def _centre(self, values: Sequence[_Measured]) -> bool:
        """Subtract means from now on, where that is called for; whether it is anywhere."""
        shifts = {number: _shift(*value) for number, value in enumerate(values)}
        self._shifts = {number: shift for number, shift in shifts.items() if shift is not None}
        if self._shifts:
            self._session = self._opened()
        return bool(self._shifts)

    def _opened(self) -> Session:
        instrumented = _instrumented(self._model, self._features, self._shifts, self._steps, self._prefix)
        return work_session(_needed(instrumented, self._names), self._names, self._threads)

    def _run(self, feeds: Mapping[str, Array]) -> list[_Measured]:
        """Gram, total and count of each of the features."""
        results, n = list(self._session.run(feeds).values()), len(self._features)
        return [(results[i], results[n + i], float(results[2 * n + i][0])) for i in range(n)]


def _step(size: int, positions: float) -> int:
    """How many positions one stands for; odd, so rows of even width do not lose the same columns throughout."""
    step = int(positions / (ENOUGH * size)) if size >= WIDE else 1
    return max(1, step - (step % 2 == 0))


def _shift(gram: Array, total: Array, count: float) -> Float32Array | None:
    """What to subtract from features of these sums; None where means are small beside deviations, or not finite."""
    mean, power = total.astype(np.float64) / count, np.diag(gram).astype(np.float64) / count
    if not np.isfinite([mean, power]).all():
        return None
    variance = float(np.maximum(power - mean**2, 0).mean())
    return mean.astype(np.float32) if float(np.square(mean).max()) > LARGE * variance else None


def _about_zero(measured: _Measured, shift: Float32Array | None) -> _Measured:
    """Sums of features of which ``shift`` was subtracted."""
    gram, total, count = measured
    if shift is None:
        return measured
    c, s = shift.astype(np.float64), total.astype(np.float64)
    cross = np.outer(c, s)
    return gram + cross + cross.T + count * np.outer(c, c), s + count * c, count


def _instrumented(
    model: onnx.ModelProto,
    features: Sequence[Features],
    shifts: Mapping[int, Float32Array],
    steps: Mapping[int, int],
    prefix: str,
) -> onnx.ModelProto:
    """``model`` plus nodes that give, for the n-th features as a matrix, its gram, sum and number of positions.

    ``shifts`` are subtracted first, from the features of that number, and of ``steps`` positions one is taken.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    for n, x in enumerate(features):
        summing = Summing(prefix, n, x)
        summing.sum(summing.centred(summing.thinned(summing.matrix(half), steps.get(n)), shifts.get(n)))
        copy.graph.node.extend(summing.nodes)
        copy.graph.initializer.extend(summing.constants)
    return copy


def _needed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``model``, in place, without the nodes that ``names`` do not depend on."""
    wanted, kept = set(names), []
    for node in reversed(model.graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads(node))
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model


def _affordable(one: Sequence[_Measured], features: Sequence[Features]) -> int:
    """Samples whose matrices fit ``WORKSPACE``, given the results for one sample."""
    floats = sum(x.size * int(count) for x, (*_, count) in zip(features, one, strict=True))
    return max(1, WORKSPACE // (4 * floats))


def _slice(batch: Batch, start: int, rows: int, least: int) -> Mapping[str, Array]:
    """``rows`` samples from ``start`` on, repeated in turn if fewer than ``least``."""
    part = np.arange(start, min(start + rows, len(batch)))
    return batch.part(np.resize(part, max(least, len(part)))).feeds
