"""Second moments of two halves of the calibration data: what is fitted on one half can be judged on the other."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from hqp_onnx.data.dataset import Dataset, Portion
from hqp_onnx.errors import DataError
from hqp_onnx.progress import StageProgress
from hqp_onnx.statistics.moments import Moments, input_moments

Halves = tuple[Mapping[str, Moments], Mapping[str, Moments]]


def half_ranges(data: Dataset) -> tuple[list[range], ...]:
    """Ranges of samples: every other batch of ``data``, and those between; of a single batch, its halves."""
    ranges = data.in_batches(max(1, min(data.batch_size, len(data) // 2))).ranges
    return ranges[::2], ranges[1::2]


def halved_moments(
    model: onnx.ModelProto,
    data: Dataset,
    *,
    progress: StageProgress | None = None,
    threads: int = 0,
    user: str = "compensation",
) -> Halves:
    """Moments of the inputs of all weights over two sets of samples, for ``user``; see ``input_moments``.

    Raises:
        DataError: fewer than two samples.
    """
    parts = half_ranges(data)
    if not parts[1]:
        raise DataError(f"{data.source.name}: 1 sample, {user} needs two or more")
    halves, before = [], 0
    for part in parts:
        batches = Portion(data, part)
        shifted = None if progress is None else _shifted(progress, before, len(data))
        halves.append(input_moments(model, None, batches, progress=shifted, threads=threads))
        before += sum(map(len, part))
    return halves[0], halves[1]


def _shifted(progress: StageProgress, before: int, total: int) -> StageProgress:
    return lambda done, _: progress(before + done, total)


def joined(first: Mapping[str, Moments], second: Mapping[str, Moments]) -> dict[str, Moments]:
    """Moments over the samples of both, of weights that are in both; weights that shared moments still do."""
    sums: dict[int, Moments] = {}
    for name in (name for name in first if name in second):
        one, other = first[name], second[name]
        if id(one) not in sums:
            count = one.count + other.count
            gram, mean = (
                (a * one.count + b * other.count) / count for a, b in ((one.gram, other.gram), (one.mean, other.mean))
            )
            sums[id(one)] = Moments(gram, mean, count)
    return {name: sums[id(one)] for name, one in first.items() if name in second}
