"""Arrays in memory as a source of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hqp_onnx.arrays import Array, IntArray, read_only
from hqp_onnx.data.batch import Batch, class_numbers, named_targets
from hqp_onnx.errors import DataError


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Arrays in memory; first axis = samples; seen read-only.

    Attributes:
        name: what an error message calls it.
        arrays: by the name of the input.
        targets: by name; an array alone is 'labels'.

    Raises:
        DataError: no array, an array of Python objects or of another length.
    """

    name: str
    arrays: Mapping[str, Array]
    targets: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arrays:
            raise DataError(f"{self.name}: no arrays; expected one per model input, first axis = samples")
        object.__setattr__(self, "targets", named_targets(self.targets))
        for key, values in (*self.arrays.items(), *self.targets.items()):
            if values.dtype.kind not in "biufcSU":
                raise DataError(f"{self.name}: array '{key}' is {values.dtype}, expected numbers")
            if values.ndim == 0 or len(values) != self.count:
                raise DataError(
                    f"{self.name}: array '{key}' has shape {list(values.shape)}, expected {self.count} samples "
                    f"along the first axis, as '{next(iter(self.arrays))}' has"
                )
        for field_name, arrays in (("arrays", self.arrays), ("targets", self.targets)):
            object.__setattr__(self, field_name, {key: read_only(values) for key, values in arrays.items()})

    @property
    def count(self) -> int:
        """Samples."""
        first = next(iter(self.arrays.values()))
        return len(first) if first.ndim else 1

    @property
    def labels(self) -> IntArray | None:
        """Class numbers, int64 [count], or None."""
        return class_numbers(self.targets)

    def digest(self) -> str:
        """SHA-256 of names, types, shapes and values."""
        digest = hashlib.sha256()
        for kind, arrays in (("", self.arrays), ("target ", self.targets)):
            for key, values in arrays.items():
                digest.update(f"{kind}{key} {values.dtype.str} {values.shape}\n".encode())
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive), as stored."""
        feeds = {key: values[start:stop] for key, values in self.arrays.items()}
        return Batch(feeds, {key: values[start:stop] for key, values in self.targets.items()})
