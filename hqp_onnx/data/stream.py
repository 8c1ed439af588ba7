"""Samples that come one item after the other, as often as they are asked for.

    first pass     counts, checks that items are alike, and notes the digest of each
    up to 64 MiB   a second pass must give the same; that is kept in memory
    more           iterated anew whenever it is read from the start, one item in memory, each held to its digest; after
                   a few steps back into the middle, the next pass is written to a temporary file, which serves from
                   then on and vanishes with the process
    an iterator    which cannot be read twice, goes into memory or the temporary file at once

A batch never joins samples of different shapes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256

import numpy as np

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.data.batch import Batch, joined
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.data.stored import SMALL, OpenFile, Rows, StoredArray, spilled
from hqp_onnx.errors import DataError

_STEPS_BACK = 2  # into the middle, before what is yielded is written down
_SAME = "it must yield the same each time (no shuffling, no random changes without a fixed seed)"
Items = Callable[[], Iterator[ArraySource]]


class Stream:
    """Items as samples, see the module; read by one thread at a time.

    Args:
        items: gives an iterator over all items.
        name: what errors call it.
        once: whether ``items`` can be called but once.

    Attributes:
        count: samples.
        labels: class numbers, int64 [count], or None.
        cuts: sample numbers where another shape begins.

    Raises:
        DataError: there is no item, one is unlike the first, or a pass differs from the first.
    """

    readers = 0

    def __init__(self, items: Items, name: str, once: bool = False) -> None:
        self.name, self._items = name, items
        self.constants: Mapping[str, Array] = {}
        self._digests: list[str] = []
        self._starts = [0]
        self._kept: list[ArraySource] | None = None
        self._open: Iterator[ArraySource] = iter(())
        self._place, self._back = -1, 0
        self._current: ArraySource | None = None
        self._first_pass(once)

    def _first_pass(self, once: bool) -> None:
        labels, cuts, size, kept = [], [], 0, _Kept(self.name)
        first = last = None
        for piece in self._items():
            first = first or piece
            self.constants = first.constants
            _require_alike(piece, first)
            if last is not None and _shapes(piece) != last:
                cuts.append(self._starts[-1])
            last = _shapes(piece)
            labels.append(piece.labels)
            size += piece.bytes
            self._digests.append(piece.digest())
            self._starts.append(self._starts[-1] + piece.count)
            if once:
                kept.add(piece)
        if first is None:
            raise DataError(f"{self.name} yields nothing; expected feed dictionaries")
        self.cuts = tuple(cuts)
        known = [numbers for numbers in labels if numbers is not None]
        self.labels: IntArray | None = np.concatenate(known) if len(known) == len(labels) else None
        if not once and size <= SMALL:
            for place in range(len(self._digests)):
                kept.add(self._item(place))
            once = True
        if once:
            self._kept, self._current = kept.pieces, None

    @property
    def count(self) -> int:
        """Samples."""
        return self._starts[-1]

    @property
    def in_memory(self) -> ArraySource | None:
        """All of it, where it is small and of one shape."""
        if self._kept is None or self.cuts or not all(isinstance(x, np.ndarray) for x in self._kept[0].arrays.values()):
            return None
        whole = joined([piece.rows(0, piece.count) for piece in self._kept])
        return ArraySource(self.name, whole.feeds, whole.targets, self.constants)

    def digest(self) -> str:
        """SHA-256 of what is yielded."""
        return sha256("".join(self._digests).encode()).hexdigest()

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive), as yielded."""
        stop = min(stop, self.count)
        parts: list[Batch] = []
        while start < stop or not parts:
            place = bisect_right(self._starts, start) - 1
            piece, first = self._item(min(place, len(self._digests) - 1)), self._starts[place]
            end = min(stop, self._starts[place + 1])
            parts.append(piece.rows(start - first, end - first))
            start = end
        return joined(parts)

    def _item(self, place: int) -> ArraySource:
        if self._kept is not None:
            return self._kept[place]
        if place < self._place:
            self._back += place > 0
            if self._back > _STEPS_BACK:
                self._kept = self._written()
                return self._kept[place]
            self._place = -1
        if self._place < 0:
            self._open = self._items()
        while self._place < place:
            self._current = self._next(self._place + 1)
            self._place += 1
        assert self._current is not None  # a place was reached
        return self._current

    def _next(self, place: int) -> ArraySource:
        """The item that follows, if it is what it was; behind the last one nothing follows."""
        piece = next(self._open, None)
        same = piece is not None and piece.digest() == self._digests[place]
        if piece is None or not same or (place == len(self._digests) - 1 and next(self._open, None) is not None):
            raise DataError(f"{self.name}: item {place + same} is not what it was in the first pass: {_SAME}")
        return piece

    def _written(self) -> list[ArraySource]:
        kept = _Kept(self.name, in_memory=False)
        self._open = self._items()
        for place in range(len(self._digests)):
            kept.add(self._next(place))
        return kept.pieces


class _Kept:
    """Pieces in memory, and once they are too large for that, in a temporary file."""

    def __init__(self, name: str, in_memory: bool = True) -> None:
        self.pieces: list[ArraySource] = []
        self._name, self._size = name, 0 if in_memory else SMALL
        self._file: OpenFile | None = None

    def add(self, piece: ArraySource) -> None:
        """Keep ``piece``."""
        self._size += piece.bytes
        self.pieces.append(piece)
        if self._file is not None:
            self.pieces[-1] = self._stored(piece, self._file)
        elif self._size > SMALL:
            self._file = spilled(self._name, piece.bytes)
            self.pieces = [self._stored(each, self._file) for each in self.pieces]

    def _stored(self, piece: ArraySource, file: OpenFile) -> ArraySource:
        def stored(values: Rows) -> Rows:
            offset = file.stream.seek(0, 2)
            file.stream.write(np.ascontiguousarray(values[:]).data)
            return StoredArray(piece.name, file, offset, values.dtype, values.shape)

        arrays, targets = ({k: stored(x) for k, x in part.items()} for part in (piece.arrays, piece.targets))
        return ArraySource(piece.name, arrays, targets)


def _shapes(piece: ArraySource) -> list[tuple[int, ...]]:
    return [values.shape[1:] for values in (*piece.arrays.values(), *piece.targets.values())]


def _require_alike(piece: ArraySource, first: ArraySource) -> None:
    if piece.arrays.keys() != first.arrays.keys() or piece.targets.keys() != first.targets.keys():
        raise DataError(f"{piece.name} has other arrays than the first item, or targets where that has none")
    for key, value in piece.constants.items():
        if not np.array_equal(value, first.constants.get(key, ())):
            raise DataError(f"{piece.name}: '{key}' has no axis of samples, but is not what it is in the first item")
    for part, known in ((piece.arrays, first.arrays), (piece.targets, first.targets)):
        for key, values in part.items():
            have, want = (values.dtype, values.ndim), (known[key].dtype, known[key].ndim)
            if have != want and values.dtype.kind not in "SU":
                raise DataError(
                    f"{piece.name}: '{key}' is {have[0]} with {have[1]} axes, and in the first item {want[0]} with "
                    f"{want[1]}"
                )
