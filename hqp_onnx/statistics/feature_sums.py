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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np
import onnx

from hqp_onnx.arrays import Array, Float32Array, FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.shards import Numbered, shards, shared_out, summed
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

    @classmethod
    def zeros(cls, size: int) -> Sums:
        """Of nothing."""
        return cls(np.zeros((size, size)), np.zeros(size))

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
    sums: dict[int, Sums] = {}
    passes = list(_passes(list(dict.fromkeys(each for group in groups for each in group))))
    whole, parts = len(data) if isinstance(data, Sized) else 0, shards(data)
    for number, features in enumerate(passes):
        homes = tuple(tuple(n for n, group in enumerate(groups) if each in group) for each in features)
        work = _Pass(model, tuple(features), homes, whole)
        if shared_out(parts):
            work = replace(work, settled=work.settle(next(iter(data)), threads))
        empty = True
        for found in summed(work, data, parts, threads, _of_pass(progress, number, len(passes))):
            empty = False
            for home, part in found.items():
                if home in sums:
                    sums[home].add(part.gram, part.total, part.count)
                else:
                    sums[home] = part
        if empty:
            raise DataError("no calibration data: moments need at least one batch")
    return [sums[number] for number in range(len(groups))]


def _of_pass(progress: StageProgress | None, number: int, passes: int) -> StageProgress | None:
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, passes * total)


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


@dataclass(frozen=True)
class _Settled:
    """What is chosen by the first batch: samples per run, what is subtracted, and the steps of thinned positions."""

    rows: int
    shifts: Mapping[int, Float32Array]
    steps: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class _Pass:
    """``Summing``: some features, measured in one pass over the data; a shard gives sums by their number.

    Attributes:
        model: see ``feature_sums``.
        features: to measure.
        homes: numbers of the sums that each of them belongs to.
        samples: that there will be; 0 if unknown.
        settled: see there; None where the first batch is still to come.
    """

    model: onnx.ModelProto
    features: tuple[Features, ...]
    homes: tuple[tuple[int, ...], ...]
    samples: int
    settled: _Settled | None = None

    def opened(self, threads: int) -> Callable[[Iterable[Numbered]], Iterator[dict[int, Sums]]]:
        return _Measuring(self, threads)

    def settle(self, first: Batch, threads: int) -> _Settled:
        """By the first batch."""
        measuring = _Measuring(self, threads)
        measuring.begin(first)
        return _Settled(measuring.rows, measuring.shifts, measuring.steps)


class _Measuring:
    """A pass in a session."""

    def __init__(self, what: _Pass, threads: int) -> None:
        self._pass, self._threads = what, threads
        self._prefix = unused_prefix("hqp.moments.", tensor_names(what.model.graph))
        count = range(len(what.features))
        self._names = [f"{self._prefix}{part}.{n}" for part in ("gram", "sum", "positions") for n in count]
        settled = what.settled or _Settled(0, {}, {})
        self.rows, self.shifts, self.steps = settled.rows, settled.shifts, settled.steps
        self._session = self._opened()

    def __call__(self, batches: Iterable[Numbered]) -> Iterator[dict[int, Sums]]:
        """The sums over a shard."""
        sizes = {home: x.size for x, homes in zip(self._pass.features, self._pass.homes, strict=True) for home in homes}
        sums, samples = {home: Sums.zeros(size) for home, size in sizes.items()}, 0
        for _, batch in batches:
            samples += len(batch)
            first = [] if self.rows else self.begin(batch)
            for start in range(0, len(batch), self.rows):
                self._add(sums, first or self._values(batch, start))
                first.clear()  # results of a run are large: no two at a time
        if samples:
            yield sums

    def _add(self, sums: Mapping[int, Sums], values: Sequence[_Measured]) -> None:
        for number, value in enumerate(values):
            for home in self._pass.homes[number]:
                sums[home].add(*_about_zero(value, self.shifts.get(number)))

    def begin(self, batch: Batch) -> list[_Measured]:
        """Settle, by the first batch; what its first run gives then."""
        tried, features = self._session.batch or 1, self._pass.features
        counts = [count for *_, count in self._run(run_of(batch, 0, tried, tried))]
        self.rows = self._session.batch or _affordable(counts, features)
        self._thin([count * self._pass.samples / tried for count in counts])
        values = self._values(batch, 0)
        if self._centre(values):
            values.clear()
            return self._values(batch, 0)
        return values

    def _values(self, batch: Batch, start: int) -> list[_Measured]:
        return self._run(run_of(batch, start, self.rows, self._session.batch or 0))

    def _thin(self, positions: Sequence[float]) -> None:
        """Take fewer positions from now on, where there will be more than enough."""
        steps = [_step(each.size, count) for each, count in zip(self._pass.features, positions, strict=True)]
        self.steps = {number: step for number, step in enumerate(steps) if step > 1}
        if self.steps:
            self._session = self._opened()

    def _centre(self, values: Sequence[_Measured]) -> bool:
        """Subtract means from now on, where that is called for; whether it is anywhere."""
        shifts = {number: _shift(*value) for number, value in enumerate(values)}
        self.shifts = {number: shift for number, shift in shifts.items() if shift is not None}
        if self.shifts:
            self._session = self._opened()
        return bool(self.shifts)

    def _opened(self) -> Session:
        what = self._pass
        instrumented = _instrumented(what.model, what.features, self.shifts, self.steps, self._prefix)
        return work_session(needed(instrumented, self._names), self._names, self._threads)

    def _run(self, feeds: Mapping[str, Array]) -> list[_Measured]:
        """Gram, total and count of each of the features."""
        results, n = list(self._session.run(feeds).values()), len(self._pass.features)
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


def needed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``model``, in place, without the nodes that ``names`` do not depend on, and what only these read."""
    wanted, kept = set(names), []
    for node in reversed(model.graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads(node))
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    fed = {value.name for value in model.graph.input}  # some of which have a value of their own
    weights = [tensor for tensor in model.graph.initializer if tensor.name in wanted or tensor.name in fed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    return model


def _affordable(counts: Sequence[float], features: Sequence[Features]) -> int:
    """Samples whose matrices fit ``WORKSPACE``, given the positions of one sample."""
    floats = sum(x.size * int(count) for x, count in zip(features, counts, strict=True))
    return max(1, WORKSPACE // (4 * floats))


def run_of(batch: Batch, start: int, rows: int, least: int) -> Mapping[str, Array]:
    """Feeds of ``rows`` samples from ``start`` on, repeated in turn if fewer than ``least``."""
    part = np.arange(start, min(start + rows, len(batch)))
    return batch.part(np.resize(part, max(least, len(part)))).feeds
