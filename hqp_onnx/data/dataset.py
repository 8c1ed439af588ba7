"""Data as a re-iterable sequence of batches, checked against a model's inputs.

A dataset is a row source (``count`` samples, any slice of them on request; ``sources`` has the readers of files)
seen as the inputs of a model. An array that is an input of the model feeds it; every other is a target, which only
metrics and losses see: class numbers, masks, boxes, values, of any type and shape, first axis = samples. Inputs are
cast only where nothing can be lost (uint8 pixels to float32, say) and must be finite; targets stay as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.counts import counted
from hqp_onnx.data.ahead import ahead
from hqp_onnx.data.batch import LABELS, Batch, no_class_numbers
from hqp_onnx.data.fitting import constant, fitted
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.files import digest_of
from hqp_onnx.runtimes.session import TensorSpec, fixed_batch

_BATCH, _BATCH_BYTES = 100, 1 << 24


def batch_size(specs: Sequence[TensorSpec]) -> int:
    """Samples that are run at a time: the batch that ``specs`` fix, else 100, or fewer of more than 168 kB each."""
    if (fixed := fixed_batch(specs)) is not None:
        return fixed
    sizes = [math.prod(size or 1 for size in spec.shape[1:]) * spec.dtype.itemsize for spec in specs]
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, sum(sizes))))


class Source(Protocol):
    """Rows of a file or folder."""

    @property
    def name(self) -> str:
        """What an error message calls it."""

    @property
    def count(self) -> int:
        """Samples."""

    @property
    def labels(self) -> IntArray | None:
        """The class numbers of all samples, int64 [count]; None where the target 'labels' is something else."""

    @property
    def cuts(self) -> Sequence[int]:
        """Sample numbers where another shape begins, ascending."""

    @property
    def constants(self) -> Mapping[str, Array]:
        """Inputs that all samples share, without an axis of samples."""

    @property
    def readers(self) -> int:
        """Threads that are worth reading ahead with; 0 where reading is no work, or not for several threads."""

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive), of one shape, as stored."""

    def digest(self) -> str:
        """Of everything that decides the samples."""


@dataclass(frozen=True)
class Dataset:
    """``source`` as the inputs ``specs`` of a model.

    Args:
        source: where rows come from.
        specs: the model's inputs.
        batch_size: samples per batch; the last batch may be shorter.
        limit: use only the first ``limit`` samples.
        relabeled: class numbers that replace the target 'labels', int64 [len(self)].
        constants: inputs that all samples share, without an axis of samples, by name; they go before the source's.
        states: outputs that become inputs of the next sample, by input; see ``data.states``.

    Raises:
        DataError: empty data, a missing input, a wrong shape or dtype, ``relabeled`` of another length.
        UsageError: ``batch_size`` or ``limit`` below 1.
    """

    source: Source
    specs: Sequence[TensorSpec]
    batch_size: int = 100
    limit: int | None = None
    relabeled: IntArray | None = None
    constants: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError(f"batch size {self.batch_size} and limit {self.limit} must be at least 1")
        if self.source.count == 0:
            raise DataError(f"{self.source.name}: no samples")
        known = {spec.name for spec in self.specs}
        shared = {name: value for name, value in self.source.constants.items() if name in known}
        object.__setattr__(self, "constants", {**shared, **self.constants})
        if unknown := self.constants.keys() - known:
            raise UsageError(
                f"{{--constant}} {min(unknown)}: the model has no such input, only {', '.join(sorted(known))}"
            )
        self.rows(0, 1)
        if self.relabeled is not None and len(self.relabeled) != len(self):
            raise DataError(
                f"{self.source.name}: {counted(len(self.relabeled), 'label')} for {counted(len(self), 'sample')}"
            )

    def __len__(self) -> int:
        return self.source.count if self.limit is None else min(self.limit, self.source.count)

    @property
    def targets(self) -> Mapping[str, TensorSpec]:
        """Name, type and shape of each target; the shapes are those of the first sample."""
        first = self.rows(0, 1).targets
        return {name: TensorSpec(name, values.dtype, (None, *values.shape[1:])) for name, values in first.items()}

    @property
    def labels(self) -> IntArray | None:
        """Class numbers of all samples, int64 [len(self)]; None where the target 'labels' is something else."""
        labels = self.source.labels if self.relabeled is None else self.relabeled
        return None if labels is None else labels[: len(self)]

    @property
    def labeled(self) -> bool:
        """Whether the samples have class numbers."""
        return self.labels is not None

    @property
    def ranges(self) -> list[range]:
        """The samples of each batch, which are of one shape."""
        edges = [0, *(cut for cut in self.source.cuts if cut < len(self)), len(self)]
        size = self.batch_size
        return [range(at, min(at + size, end)) for start, end in pairwise(edges) for at in range(start, end, size)]

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.ranges)

    def batches(self, ranges: Iterable[range]) -> Iterator[Batch]:
        """The samples of each of ``ranges``, read ahead."""
        return ahead(ranges, lambda part: self.rows(part.start, part.stop), self.source.readers)

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` as the model takes them."""
        batch = self.source.rows(start, stop)
        feeds, targets = self._sorted(batch)
        if self.relabeled is not None:
            targets[LABELS] = self.relabeled[start:stop]
        fed: dict[str, Array] = {}
        for spec in self.specs:
            if spec.name in self.constants or spec.name in batch.shared:
                value = self.constants.get(spec.name, feeds.get(spec.name))
                fed[spec.name] = constant(np.asarray(value), spec, self.source.name)
            else:
                fed[spec.name] = fitted(feeds[spec.name], spec, self.source.name, start, self.source.count)
        return Batch(fed, targets, batch.shared | frozenset(self.constants))

    def _sorted(self, batch: Batch) -> tuple[Mapping[str, Array], dict[str, Array]]:
        """What feeds the model, and what does not."""
        known = {spec.name for spec in self.specs}
        arrays = {**batch.targets, **batch.feeds}
        if missing := sorted(known - arrays.keys() - self.constants.keys()):
            raise DataError(
                f"{self.source.name}: no array for model input '{missing[0]}'; found {sorted(arrays)}. "
                "Name the arrays as the model's inputs; {--constant} NAME=VALUE sets one that all samples share"
            )
        targets = {name: values for name, values in batch.feeds.items() if name not in known}
        targets |= {name: values for name, values in batch.targets.items() if name in batch.feeds or name not in known}
        return arrays, targets

    def digest(self) -> str:
        """Of everything that decides the samples; which of them are used is not part of it."""
        values = (f"{name} {x.dtype} {x.shape} {x.tobytes().hex()}" for name, x in sorted(self.constants.items()))
        return digest_of(self.source.digest(), *values)

    def check_labels(self, classes: int | None) -> None:
        """Raise ``DataError`` unless every sample has a class number in 0 .. classes - 1."""
        labels = self.labels
        if labels is None:
            raise DataError(f"{self.source.name}: {no_class_numbers(self.rows(0, 1))}")
        bad = (labels < 0) | (labels >= (np.iinfo(np.int64).max if classes is None else classes))
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{self.source.name}: label {labels[row]} of sample {row} is not a class: "
                f"expected 0 .. {'?' if classes is None else classes - 1}"
            )

    def first(self, limit: int) -> Dataset:
        """The first ``limit`` samples."""
        labels = None if self.relabeled is None else self.relabeled[:limit]
        return replace(self, limit=min(limit, len(self)), relabeled=labels)

    def in_batches(self, batch_size: int) -> Dataset:
        """The same samples in batches of another size."""
        return replace(self, batch_size=batch_size)

    def only(self, part: Source) -> Dataset:
        """The samples of ``part``, which is some of the source, under the labels that they have there."""
        return replace(self, source=part, limit=None, relabeled=None)

    def labeled_with(self, labels: IntArray) -> Dataset:
        """The same samples under other labels, int64 [len(self)]."""
        return replace(self, relabeled=labels)


@dataclass(frozen=True)
class Portion:
    """Some ``ranges`` of the samples of ``data`` as batches, as often as they are asked for."""

    data: Dataset
    ranges: Sequence[range]

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.ranges)

    def __len__(self) -> int:
        """Samples."""
        return sum(map(len, self.ranges))

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """The model's inputs."""
        return self.data.specs

    def batches(self, ranges: Iterable[range]) -> Iterator[Batch]:
        """See ``Dataset``."""
        return self.data.batches(ranges)

    def rows(self, start: int, stop: int) -> Batch:
        """See ``Dataset``."""
        return self.data.rows(start, stop)
