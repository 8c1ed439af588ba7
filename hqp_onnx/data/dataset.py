"""Data as a re-iterable sequence of batches, checked against a model's inputs.

A dataset is a row source (``count`` samples, any slice of them on request; ``sources`` has the readers of files)
seen as the inputs of a model. Values are cast only where nothing can be lost (uint8 pixels to float32, say) and
must be finite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hqp_onnx.arrays import Array, IntArray, read_only
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.runtimes.session import TensorSpec, fixed_batch

_BATCH, _BATCH_BYTES = 100, 1 << 24


def batch_size(specs: Sequence[TensorSpec]) -> int:
    """Samples that are run at a time: the batch that ``specs`` fix, else 100, or fewer of more than 168 kB each."""
    if (fixed := fixed_batch(specs)) is not None:
        return fixed
    sizes = [math.prod(size or 1 for size in spec.shape[1:]) * spec.dtype.itemsize for spec in specs]
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, sum(sizes))))


@dataclass(frozen=True, slots=True)
class Batch:
    """``feeds`` by input name, first axis = samples; ``labels`` int64 [samples], or None; all are read-only."""

    feeds: Mapping[str, Array]
    labels: IntArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "feeds", {name: read_only(values) for name, values in self.feeds.items()})
        object.__setattr__(self, "labels", None if self.labels is None else read_only(self.labels))

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))


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
        """Class numbers, int64 [count], or None."""

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive), as stored."""


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Arrays in memory, by input name; first axis = samples; seen read-only.

    Raises:
        DataError: no array, an array of Python objects or of another length, labels that are not class numbers.
    """

    name: str
    arrays: Mapping[str, Array]
    labels: IntArray | None = None

    def __post_init__(self) -> None:
        if not self.arrays:
            raise DataError(f"{self.name}: no arrays; expected one per model input, first axis = samples")
        for key, values in self.arrays.items():
            if values.dtype.kind not in "biuf":
                raise DataError(f"{self.name}: array '{key}' is {values.dtype}, expected numbers")
            if values.ndim == 0 or len(values) != self.count:
                raise DataError(
                    f"{self.name}: array '{key}' has shape {list(values.shape)}, expected {self.count} samples "
                    f"along the first axis, as '{next(iter(self.arrays))}' has"
                )
        object.__setattr__(self, "arrays", {key: read_only(values) for key, values in self.arrays.items()})
        if self.labels is not None:
            object.__setattr__(self, "labels", class_labels(self.labels, self.count, self.name))

    @property
    def count(self) -> int:
        """Samples."""
        first = next(iter(self.arrays.values()))
        return len(first) if first.ndim else 1

    def digest(self) -> str:
        """SHA-256 of names, types, shapes and values."""
        digest = hashlib.sha256()
        for key, values in {**self.arrays, "": np.zeros(0) if self.labels is None else self.labels}.items():
            digest.update(f"{key} {values.dtype.str} {values.shape}\n".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive), as stored."""
        feeds = {key: values[start:stop] for key, values in self.arrays.items()}
        return Batch(feeds, None if self.labels is None else self.labels[start:stop])


def class_labels(values: Array, count: int, where: str) -> IntArray:
    """``values`` as int64 [count].

    Raises:
        DataError: they are not integers, not one per sample (one-hot rows, say), or of another length.
    """
    if values.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are {values.dtype}, expected integer class numbers")
    if values.ndim != 1:
        raise DataError(
            f"{where}: labels have shape {list(values.shape)}, expected one class number per sample; "
            "convert one-hot rows with argmax"
        )
    if len(values) != count:
        raise DataError(f"{where}: {len(values)} labels for {count} samples, expected as many")
    if (wrong := values > np.iinfo(np.int64).max).any():
        row = int(np.argmax(wrong))
        raise DataError(f"{where}: label {values[row]} of sample {row} is no class number: it takes more than 63 bits")
    return read_only(values.astype(np.int64))


@dataclass(frozen=True)
class Dataset:
    """``source`` as the inputs ``specs`` of a model.

    Args:
        source: where rows come from.
        specs: the model's inputs.
        batch_size: samples per batch; the last batch may be shorter.
        limit: use only the first ``limit`` samples.
        labels: labels that replace the source's, int64 [len(self)].

    Raises:
        DataError: empty data, a missing input, a wrong shape or dtype, labels that are not class numbers.
        UsageError: ``batch_size`` or ``limit`` below 1.
    """

    source: Source
    specs: Sequence[TensorSpec]
    batch_size: int = 100
    limit: int | None = None
    labels: IntArray | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError(f"batch size {self.batch_size} and limit {self.limit} must be at least 1")
        if self.source.count == 0:
            raise DataError(f"{self.source.name}: no samples")
        sample = self.source.rows(0, 1)
        known = {spec.name for spec in self.specs}
        if missing := sorted(known - sample.feeds.keys()):
            raise DataError(
                f"{self.source.name}: no array for model input '{missing[0]}'; found {sorted(sample.feeds)}. "
                "Name the arrays as the model's inputs"
            )
        for spec in self.specs:
            _convert(sample.feeds[spec.name], spec, self.source.name, 0)
        if self.labels is not None:
            object.__setattr__(self, "labels", class_labels(self.labels, len(self), self.source.name))

    def __len__(self) -> int:
        return self.source.count if self.limit is None else min(self.limit, self.source.count)

    @property
    def labeled(self) -> bool:
        """Whether batches carry labels."""
        return self._labels() is not None

    def _labels(self) -> IntArray | None:
        labels = self.source.labels if self.labels is None else self.labels
        return None if labels is None else labels[: len(self)]

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self), self.batch_size):
            stop = min(start + self.batch_size, len(self))
            yield self.rows(start, stop)

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` as the model takes them."""
        batch = self.source.rows(start, stop)
        feeds = {spec.name: _convert(batch.feeds[spec.name], spec, self.source.name, start) for spec in self.specs}
        labels = self._labels()
        return Batch(feeds, None if labels is None else labels[start:stop])

    def check_labels(self, classes: int | None) -> None:
        """Raise ``DataError`` unless every sample has a label in 0 .. classes - 1."""
        labels = self._labels()
        if labels is None:
            raise DataError(
                f"{self.source.name}: no labels. Add an array 'labels', or use {{--metric}} agreement, which needs none"
            )
        bad = (labels < 0) | (labels >= (np.iinfo(np.int64).max if classes is None else classes))
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{self.source.name}: label {labels[row]} of sample {row} is not a class: "
                f"expected 0 .. {'?' if classes is None else classes - 1}"
            )

    def first(self, limit: int) -> Dataset:
        """The first ``limit`` samples."""
        labels = None if self.labels is None else self.labels[:limit]
        return replace(self, limit=min(limit, len(self)), labels=labels)

    def in_batches(self, batch_size: int) -> Dataset:
        """The same samples in batches of another size."""
        return replace(self, batch_size=batch_size)

    def labeled_with(self, labels: IntArray) -> Dataset:
        """The same samples under other labels, int64 [len(self)]."""
        return replace(self, labels=labels)


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
