"""Some samples: what feeds the model, and what its outputs are held against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hqp_onnx.arrays import Array, BoolArray, IntArray, content, read_only
from hqp_onnx.errors import DataError

LABELS = "labels"
"""The target that class numbers and masks go by."""
_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples; all arrays are read-only.

    Attributes:
        feeds: by input name, first axis = samples.
        targets: by name, first axis = samples, of any type and shape. An array given for the dictionary is 'labels'.
        shared: names of feeds that have no axis of samples: all samples share them.
    """

    feeds: Mapping[str, Array]
    targets: Mapping[str, Array] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "feeds", {name: read_only(values) for name, values in self.feeds.items()})
        object.__setattr__(self, "targets", {name: read_only(x) for name, x in named_targets(self.targets).items()})

    def __len__(self) -> int:
        each = (*self.own.values(), *self.targets.values())
        return len(each[0]) if each else 1

    @property
    def labels(self) -> IntArray | None:
        """Class numbers, int64 [samples]; None where the target 'labels' is something else."""
        return class_numbers(self.targets)

    @property
    def own(self) -> Mapping[str, Array]:
        """The feeds that have an axis of samples."""
        return {name: values for name, values in self.feeds.items() if name not in self.shared}

    @property
    def common(self) -> Mapping[str, Array]:
        """The feeds that all samples share."""
        return {name: self.feeds[name] for name in self.shared}

    def digests(self) -> list[bytes]:
        """Of each sample's own inputs."""
        own = [x for name, x in sorted(self.feeds.items()) if name not in self.shared]
        rows = (b"".join(content(values[row]) for values in own) for row in range(len(self)))
        return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]

    def part(self, rows: slice | BoolArray | IntArray) -> Batch:
        """The samples that ``rows`` chooses."""
        feeds = {name: values if name in self.shared else values[rows] for name, values in self.feeds.items()}
        return Batch(feeds, {name: values[rows] for name, values in self.targets.items()}, self.shared)


def joined(batches: Sequence[Batch]) -> Batch:
    """The samples of all, which are of one shape.

    Raises:
        DataError: they are of several.
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    try:
        feeds = {
            name: values if name in first.shared else np.concatenate([batch.feeds[name] for batch in batches])
            for name, values in first.feeds.items()
        }
        targets = {name: np.concatenate([batch.targets[name] for batch in batches]) for name in first.targets}
    except ValueError as e:
        raise DataError("samples of different shapes cannot be joined: give them one, as by {--pad}") from e
    return Batch(feeds, targets, first.shared)


def named_targets(targets: Mapping[str, Array] | Array | None) -> Mapping[str, Array]:
    """Targets by name: an array alone is 'labels', None is no target."""
    if targets is None:
        return {}
    return targets if isinstance(targets, Mapping) else {LABELS: targets}


def class_numbers(targets: Mapping[str, Array]) -> IntArray | None:
    """The target 'labels' as int64 [samples] where it is one integer a sample, else None; 2^63 - 1 stands for more."""
    values = targets.get(LABELS)
    if values is None or values.ndim != 1 or values.dtype.kind not in "iu":
        return None
    if values.dtype == np.uint64:
        values = np.minimum(values, np.uint64(_LARGEST))  # no class either, and not negative
    return read_only(values.astype(np.int64, copy=False))


def no_class_numbers(sample: Batch) -> str:
    """Why the targets of a ``sample`` hold no class number, and what to do about it."""
    values = sample.targets.get(LABELS)
    if values is None and LABELS in sample.feeds:
        return "no labels: the array 'labels' is fed to the model's input of that name. Give classes by {--targets}"
    if values is None:
        others = ", ".join(f"'{name}'" for name in sample.targets)
        has = f" (but {others})" if others else ""
        return f"no labels{has}. Add an array 'labels', or use {{--metric}} agreement, which needs none"
    return f"the target 'labels' is {values.dtype}{list(values.shape[1:])} a sample, {_found(values)}"


def _found(values: Array) -> str:
    if values.ndim == 1:
        return "expected one class number: if these are classes, convert them to integers; else give another {--metric}"
    if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind in "iu":
        return "expected one class number: flatten it to [samples]"
    if values.dtype.kind == "f":
        return "expected one class number: of values, use {--metric} rmse or fidelity"
    if values.ndim == 2:
        return "expected one class number: convert one-hot rows with argmax; several tags a sample need {--metric} f1"
    return "expected one class number: classes of positions or pixels need another {--metric}, such as miou"
