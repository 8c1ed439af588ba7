"""Data as a re-iterable sequence of batches, checked against a model's inputs.

A dataset is a row source (``count`` samples, any slice of them on request; ``sources`` has the readers of files)
seen as the inputs of a model. An array that is an input of the model feeds it; every other is a target, which only
metrics and losses see: class numbers, masks, boxes, values, of any type and shape, first axis = samples. Inputs are
cast only where nothing can be lost (uint8 pixels to float32, say) and must be finite; targets stay as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.data.batch import LABELS, Batch, no_class_numbers
from hqp_onnx.errors import DataError, UsageError
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

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive), as stored."""


@dataclass(frozen=True)
class Dataset:
    """``source`` as the inputs ``specs`` of a model.

    Args:
        source: where rows come from.
        specs: the model's inputs.
        batch_size: samples per batch; the last batch may be shorter.
        limit: use only the first ``limit`` samples.
        relabeled: class numbers that replace the target 'labels', int64 [len(self)].

    Raises:
        DataError: empty data, a missing input, a wrong shape or dtype, ``relabeled`` of another length.
        UsageError: ``batch_size`` or ``limit`` below 1.
    """

    source: Source
    specs: Sequence[TensorSpec]
    batch_size: int = 100
    limit: int | None = None
    relabeled: IntArray | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError(f"batch size {self.batch_size} and limit {self.limit} must be at least 1")
        if self.source.count == 0:
            raise DataError(f"{self.source.name}: no samples")
        self.rows(0, 1)
        if self.relabeled is not None and len(self.relabeled) != len(self):
            raise DataError(f"{self.source.name}: {len(self.relabeled)} labels for {len(self)} samples")

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

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self), self.batch_size):
            stop = min(start + self.batch_size, len(self))
            yield self.rows(start, stop)

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` as the model takes them."""
        feeds, targets = self._sorted(self.source.rows(start, stop))
        fitted = {spec.name: _convert(feeds[spec.name], spec, self.source.name, start) for spec in self.specs}
        if self.relabeled is not None:
            targets[LABELS] = self.relabeled[start:stop]
        return Batch(fitted, targets)

    def _sorted(self, batch: Batch) -> tuple[Mapping[str, Array], dict[str, Array]]:
        """What feeds the model, and what does not."""
        known = {spec.name for spec in self.specs}
        arrays = {**batch.targets, **batch.feeds}
        if missing := sorted(known - arrays.keys()):
            raise DataError(
                f"{self.source.name}: no array for model input '{missing[0]}'; found {sorted(arrays)}. "
                "Name the arrays as the model's inputs"
            )
        targets = {name: values for name, values in batch.feeds.items() if name not in known}
        targets |= {name: values for name, values in batch.targets.items() if name in batch.feeds or name not in known}
        return arrays, targets

    def check_labels(self, classes: int | None) -> None:
        """Raise ``DataError`` unless every sample has a class number in 0 .. classes - 1."""
        labels = self.labels
        if labels is None:
            raise DataError(f"{self.source.name}: {no_class_numbers(self.rows(0, 1).targets)}")
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

    def labeled_with(self, labels: IntArray) -> Dataset:
        """The same samples under other labels, int64 [len(self)]."""
        return replace(self, relabeled=labels)


def _convert(values: Array, spec: TensorSpec, source: str, start: int) -> Array:
    """``values`` as ``spec`` wants them; DataError where that would lose something."""
    where = f"{source}: array '{spec.name}'"
    if values.ndim != len(spec.shape) or any(
        want is not None and want != have for want, have in zip(spec.shape[1:], values.shape[1:], strict=False)
    ):
        raise DataError(f"{where} has shape {list(values.shape)}, the model wants {spec} (first axis = samples)")
    if not _castable(values.dtype, spec.dtype):
        raise DataError(f"{where} is {values.dtype}, the model wants {spec.dtype}: convert it first")
    with np.errstate(over="ignore"):  # said below
        converted = values.astype(spec.dtype, copy=False)
    if np.issubdtype(converted.dtype, np.floating):
        finite = np.isfinite(converted.reshape(len(converted), -1)).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            what = f"numbers beyond {spec.dtype}" if np.isfinite(values[row]).all() else "NaN or infinity"
            raise DataError(f"{where} holds {what} in sample {start + row}")
    return converted


def _castable(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    if np.issubdtype(want, np.floating):
        return bool(np.issubdtype(have, np.floating) or np.can_cast(have, np.int16) or np.can_cast(have, want))
    return bool(np.can_cast(have, want))
