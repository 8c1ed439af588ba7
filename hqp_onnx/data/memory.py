"""Arrays as a source of samples, in memory or in files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hqp_onnx.arrays import Array, IntArray, read_only
from hqp_onnx.counts import counted
from hqp_onnx.data.batch import LABELS, Batch, class_numbers
from hqp_onnx.data.stored import Rows, StoredArray
from hqp_onnx.errors import DataError
from hqp_onnx.files import digest_of, fingerprint


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Arrays; first axis = samples; seen read-only.

    Attributes:
        name: what an error message calls it.
        arrays: by the name of the input.
        targets: by name; an array alone is 'labels'.
        constants: values that all samples share, without an axis of samples, by the name of the input.
        files: what they were read from.

    Raises:
        DataError: no array, an array of Python objects or of another length.
    """

    name: str
    arrays: Mapping[str, Rows]
    targets: Mapping[str, Rows] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    cuts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.arrays:
            raise DataError(f"{self.name}: no arrays; expected one per model input, first axis = samples")
        if not isinstance(self.targets, Mapping):
            object.__setattr__(self, "targets", {} if self.targets is None else {LABELS: self.targets})
        for key, values in (*self.arrays.items(), *self.targets.items()):
            if values.dtype.kind not in "biufcSU":
                raise DataError(f"{self.name}: array '{key}' is {values.dtype}, expected numbers")
            if values.ndim == 0 or len(values) != self.count:
                raise DataError(
                    f"{self.name}: array '{key}' has shape {list(values.shape)}, expected "
                    f"{counted(self.count, 'sample')} along the first axis, as '{next(iter(self.arrays))}' has"
                )
        for field_name, arrays in (("arrays", self.arrays), ("targets", self.targets)):
            object.__setattr__(self, field_name, {key: _read_only(values) for key, values in arrays.items()})

    @property
    def count(self) -> int:
        """Samples."""
        first = next(iter(self.arrays.values()))
        return len(first) if first.ndim else 1

    @property
    def labels(self) -> IntArray | None:
        """Class numbers, int64 [count], or None."""
        values = self.targets.get(LABELS)
        if values is None or values.ndim != 1:
            return None
        return class_numbers({LABELS: values[:]})

    @property
    def readers(self) -> int:
        """A thread that reads ahead, where there is something in a file."""
        return int(any(isinstance(values, StoredArray) for values in self.arrays.values()))

    @property
    def bytes(self) -> int:
        """Of all values."""
        each = (*self.arrays.values(), *self.targets.values())
        return sum(math.prod(values.shape) * values.dtype.itemsize for values in each)

    def digest(self) -> str:
        """Of the files; SHA-256 of names, types, shapes and values where there are none."""
        if self.files:
            return digest_of(*map(fingerprint, self.files))
        digest = hashlib.sha256()
        for kind, arrays in (("", self.arrays), ("target ", self.targets), ("constant ", self.constants)):
            for key, values in arrays.items():
                digest.update(f"{kind}{key} {values.dtype.str} {values.shape}\n".encode())
                for part in values.chunks() if isinstance(values, StoredArray) else (values,):
                    digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive), as stored."""
        feeds = {key: values[start:stop] for key, values in self.arrays.items()}
        return Batch(feeds, {key: values[start:stop] for key, values in self.targets.items()})


def _read_only(values: Rows) -> Rows:
    return read_only(values) if isinstance(values, np.ndarray) else values
