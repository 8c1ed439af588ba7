"""Sources made of others: with targets from elsewhere, padded to one shape, or some of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.counts import counted
from hqp_onnx.data.batch import Batch, class_numbers, joined
from hqp_onnx.data.dataset import Source
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.data.stored import Rows
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.files import digest_of
from hqp_onnx.runtimes.session import TensorSpec


class Derived:
    """What is as it is in ``source``."""

    source: Source

    @property
    def name(self) -> str:
        """As errors call the source."""
        return self.source.name

    @property
    def count(self) -> int:
        """Samples."""
        return self.source.count

    @property
    def labels(self) -> IntArray | None:
        """Class numbers, int64 [count], or None."""
        return self.source.labels

    @property
    def cuts(self) -> Sequence[int]:
        """Sample numbers where another shape begins."""
        return self.source.cuts

    @property
    def constants(self) -> Mapping[str, Array]:
        """Inputs that all samples share."""
        return self.source.constants

    @property
    def readers(self) -> int:
        """Threads that are worth reading ahead with."""
        return self.source.readers

    def digest(self) -> str:
        """Of everything that decides the samples."""
        return self.source.digest()


@dataclass(frozen=True)
class WithTargets(Derived):
    """``source`` with further targets, row by row."""

    source: Source
    further: ArraySource

    def __post_init__(self) -> None:
        if self.further.count != self.source.count:
            rows, samples = counted(self.further.count, "row"), counted(self.count, "sample")
            raise DataError(f"{self.further.name}: {rows} for {samples} of {self.name}")

    @property
    def labels(self) -> IntArray | None:
        """Class numbers, int64 [count], or None."""
        found: Mapping[str, Rows] = self.further.arrays
        if "labels" not in found:
            return self.source.labels
        return class_numbers({"labels": found["labels"][:]}) if found["labels"].ndim == 1 else None

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` with all of their targets."""
        batch = self.source.rows(start, stop)
        return Batch(batch.feeds, {**batch.targets, **self.further.rows(start, stop).feeds})

    def digest(self) -> str:
        """Of both."""
        return digest_of(self.source.digest(), self.further.digest())


@dataclass(frozen=True)
class Padded(Derived):
    """``source`` with the arrays of ``values`` padded at the end of their axes, so that batches are of one shape.

    An axis whose size the model fixes becomes as long as that, another as long as the longest in the batch.
    """

    source: Source
    values: Mapping[str, float]
    specs: Mapping[str, TensorSpec]

    @property
    def cuts(self) -> Sequence[int]:
        """None."""
        return ()

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop``, padded."""
        edges = [start, *(cut for cut in self.source.cuts if start < cut < stop), stop]
        parts = [self.source.rows(*edge) for edge in pairwise(edges)]
        if missing := self.values.keys() - parts[0].feeds.keys() - parts[0].targets.keys():
            raise DataError(f"{self.name}: no array '{min(missing)}', which {{--pad}} names")
        return joined([self._padded(part, parts) for part in parts])

    def digest(self) -> str:
        """Of the source, and of what it is padded with."""
        return digest_of(self.source.digest(), repr(sorted(self.values.items())))

    def _padded(self, part: Batch, parts: Sequence[Batch]) -> Batch:
        def padded(kind: str) -> dict[str, Array]:
            arrays: Mapping[str, Array] = getattr(part, kind)
            return {
                name: self._filled(name, values, [getattr(each, kind)[name].shape for each in parts])
                if name in self.values
                else values
                for name, values in arrays.items()
            }

        return Batch(padded("feeds"), padded("targets"), part.shared)

    def _filled(self, name: str, values: Array, shapes: Sequence[tuple[int, ...]]) -> Array:
        wanted = self.specs[name].shape[1:] if name in self.specs else (None,) * (values.ndim - 1)
        longest = [max(sizes) for sizes in zip(*(shape[1:] for shape in shapes), strict=True)]
        sizes = [most if size is None else max(size, most) for size, most in zip(wanted, longest, strict=False)]
        widths = [(0, 0), *((0, size - have) for size, have in zip(sizes, values.shape[1:], strict=False))]
        return np.pad(values, widths[: values.ndim], constant_values=self._fill(name, values))

    def _fill(self, name: str, values: Array) -> Array:
        wanted = np.asarray(self.values[name], np.float64)
        with np.errstate(invalid="ignore"):
            fill = wanted.astype(values.dtype)
        if not np.isfinite(wanted) or (values.dtype.kind != "f" and fill != wanted):
            raise UsageError(f"{{--pad}} {name}={wanted:g}: is no value of an array of {values.dtype}")
        return fill


@dataclass(frozen=True)
class Subset(Derived):
    """Some samples of ``source``, ascending; ``part`` says which in errors."""

    source: Source
    numbers: IntArray
    part: str

    @property
    def name(self) -> str:
        """Of the source, and which part."""
        return f"{self.source.name} ({self.part})"

    @property
    def count(self) -> int:
        """Samples."""
        return len(self.numbers)

    @property
    def labels(self) -> IntArray | None:
        """Class numbers, int64 [count], or None."""
        labels = self.source.labels
        return None if labels is None else labels[self.numbers]

    @property
    def cuts(self) -> Sequence[int]:
        """Where another shape begins."""
        return sorted(set(np.searchsorted(self.numbers, self.source.cuts).tolist()) - {0, self.count})

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` of these."""
        chosen = self.numbers[start:stop]
        edges = [0, *(np.flatnonzero(np.diff(chosen) != 1) + 1).tolist(), len(chosen)]
        return joined([self.source.rows(int(chosen[a]), int(chosen[b - 1]) + 1) for a, b in pairwise(edges)])

    def digest(self) -> str:
        """Of the source, and of which samples."""
        return digest_of(self.source.digest(), self.numbers.tobytes().hex())
