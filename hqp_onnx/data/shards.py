"""Sums over samples, shard by shard: data are cut into shards that depend on the data alone, not on who computes them.

A shard holds ``SAMPLES`` at least, or ``BYTES`` of inputs where samples are large, and there are at most ``MOST``. What
is added up within a shard is so in the order of its batches, and shards are added in order: one process, any number of
workers, and workers that die give the same bits. Small data are one shard.

Data in files are read by the workers themselves. Data that only this process has, such as a generator's, are sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, Generic, Protocol, TypeVar

from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset, Portion
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import set_provider, work_provider
from hqp_onnx.workers import active, spread
from hqp_onnx.workers.parcels import packed

MOST = 64
SAMPLES, BYTES = 2500, 1 << 26
Numbered = tuple[int, Batch]
"""Samples, and the number of the first of them."""
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Summing(Protocol[R_co]):
    """A value that describes what is made of batches."""

    def opened(self, threads: int) -> Callable[[Iterable[Numbered]], Iterator[R_co]]:
        """What gives one or more results for the batches of a shard; sessions are opened here."""


Part = Sequence[range]
"""A shard: the samples of each of its batches."""


@dataclass(frozen=True, eq=False)
class Held:
    """Batches in memory, in the shards of the data that they were made of: ``rows`` n to n + 1 are the n-th."""

    held: Sequence[Batch]
    parts: Sequence[Part]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def batches(self, ranges: Iterable[range]) -> Iterator[Batch]:
        """See ``Dataset``."""
        return (self.held[each.start] for each in ranges)

    def rows(self, start: int, _: int) -> Batch:
        """See ``Dataset``."""
        return self.held[start]


def shards(data: Iterable[Batch]) -> list[Part]:
    """Of ``data``, the samples of each batch; a single shard, without ranges, for what is no ``Dataset``."""
    if isinstance(data, Held):
        return list(data.parts)
    if not isinstance(data, (Dataset, Portion)):
        return [[]]
    ranges = data.ranges
    inputs = sum(math.prod(n or 1 for n in x.shape[1:]) * x.dtype.itemsize for x in data.specs)
    samples = sum(map(len, ranges))
    count = max(1, min(MOST, len(ranges), max(samples // SAMPLES, samples * inputs // BYTES)))
    edges = [len(ranges) * number // count for number in range(count + 1)]
    return [ranges[a:b] for a, b in pairwise(edges)]


def each_batch(data: Dataset | Portion, start: int = 0) -> list[Part]:
    """Shards of one batch, for results that are small; from sample ``start`` on."""
    return [[range(max(x.start, start), x.stop)] for x in data.ranges if x.stop > start]


def shared_out(parts: Sequence[Part]) -> bool:
    """Whether workers do some of the ``parts``."""
    return len(parts) > 1 and active() is not None


def summed(
    work: Summing[R],
    data: Iterable[Batch],
    parts: Sequence[Part] | None = None,
    threads: int = 0,
    progress: StageProgress | None = None,
    opened: Callable[[Iterable[Numbered]], Iterator[R]] | None = None,
) -> Iterator[R]:
    """The results for all shards, in order.

    Args:
        work: what to do.
        data: samples.
        parts: ``shards`` of these, or others.
        threads: of onnxruntime; 0 lets it choose.
        progress: called with the samples done, and in all (0 where that is not known).
        opened: ``work``, if that is opened in this process already.
    """
    parts = shards(data) if parts is None else parts
    if not isinstance(data, (Dataset, Portion, Held)) or not shared_out(parts):
        yield from _here(opened or work.opened(threads), data, parts, progress)
        return
    whole = _OfShard(work, None if isinstance(data, Held) else data, work_provider())
    items: Iterable[Part | list[Numbered]] = parts
    parcel = None if isinstance(data, Held) else packed(whole)
    if parcel is None:
        whole, items = replace(whole, data=None), (_read(data, part) for part in parts)  # samples go with their shard
        parcel = packed(whole)
    if parcel is None:
        yield from _here(opened or work.opened(threads), data, parts, progress)
        return
    done, total = 0, len(data) if isinstance(data, Dataset) else 0
    for results, samples in spread(whole, items, threads, parcel):
        yield from results
        done += samples
        if progress is not None:
            progress(done, total)


def _here(
    run: Callable[[Iterable[Numbered]], Iterator[R]],
    data: Iterable[Batch],
    parts: Sequence[Part],
    progress: StageProgress | None,
) -> Iterator[R]:
    total = len(data) if isinstance(data, Dataset) else 0
    if not isinstance(data, (Dataset, Portion, Held)):
        yield from run(_counted(data, 0, total, progress))
        return
    ranges = [each for part in parts for each in part]
    batches, done = data.batches(ranges), 0
    for part in parts:
        starts = (each.start for each in part)
        shard = _counted(islice(batches, len(part)), done, total, progress)
        yield from run((start, batch) for start, (_, batch) in zip(starts, shard, strict=True))
        done += sum(map(len, part))


def _counted(batches: Iterable[Batch], done: int, total: int, progress: StageProgress | None) -> Iterator[Numbered]:
    for batch in batches:
        yield done, batch
        done += len(batch)
        if progress is not None:
            progress(done, total)


def _read(data: Dataset | Portion | Held, part: Part) -> list[Numbered]:
    return [(each.start, data.rows(each.start, each.stop)) for each in part]


@dataclass(frozen=True, eq=False)
class _OfShard(Generic[R]):
    """One shard in a worker, which gives its results and the number of its samples."""

    work: Summing[R]
    data: Dataset | Portion | None
    provider: str

    def opened(self, threads: int) -> Callable[[Any], tuple[list[R], int]]:
        """See ``Work``; an item is a ``Part`` of the data, or what was read of them."""
        set_provider(self.provider)
        run = self.work.opened(threads)

        def of_shard(item: Any) -> tuple[list[R], int]:
            samples = [0]
            return list(run(_tallied(self._numbered(item), samples))), samples[0]

        return of_shard

    def _numbered(self, item: Any) -> Iterable[Numbered]:
        if self.data is None:
            batches: list[Numbered] = item
            return batches
        return zip((each.start for each in item), self.data.batches(item), strict=True)


def _tallied(batches: Iterable[Numbered], samples: list[int]) -> Iterator[Numbered]:
    for start, batch in batches:
        yield start, batch
        samples[0] += len(batch)
