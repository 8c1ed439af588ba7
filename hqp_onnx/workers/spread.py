"""A map whose results come in order, whoever computed them: here, or by the workers in use.

    for result in spread(work, items): total += result          the same numbers in the same order: the same bits

Work that cannot be sent to another process is done here. A worker that dies loses its item, which is done again.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from typing import Any, Protocol, TypeVar

from hqp_onnx.errors import DataError, FileError, HqpError, WorkerError, one_line
from hqp_onnx.workers.parcels import Parcel, packed
from hqp_onnx.workers.pool import Pool, active
from hqp_onnx.workers.worker import Answer, perform, versions

_LOG = logging.getLogger(__name__)
_AHEAD = 2  # items in work or waiting, per worker
I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Work(Protocol[I_contra, R_co]):
    """A value that describes work. Models and arrays in it reach each worker once."""

    def opened(self, threads: int) -> Callable[[I_contra], R_co]:
        """What does one item, with so many threads of onnxruntime; sessions are opened here."""


def spread(
    work: Work[ItemT, ResultT], items: Iterable[ItemT], threads: int = 0, parcel: Parcel | None = None
) -> Iterator[ResultT]:
    """The result of each item, in order; ``parcel`` is ``work``, where that is packed already.

    Raises:
        HqpError: what the work raises.
        WorkerError: workers are of another version, or die again and again.
    """
    pool = active()
    parcel = parcel or (None if pool is None else packed(work))
    if pool is not None and parcel is None:
        _LOG.info("%s cannot be sent to workers: it is done in this process", type(work).__name__)
    if pool is None or parcel is None:
        yield from map(work.opened(threads), items)
        return
    yield from _Spread(pool, parcel, pool.threads(threads)).results(iter(items))


class _Spread:
    """One map over the workers of ``pool``."""

    def __init__(self, pool: Pool, parcel: Parcel, threads: int) -> None:
        self._pool, self._parcel, self._threads = pool, parcel, threads
        self._items: dict[int, bytes] = {}  # that have no result yet
        self._running: dict[Future[Answer], int] = {}
        self._done: dict[int, Any] = {}

    def results(self, items: Iterator[Any]) -> Iterator[Any]:
        """In order; what is not asked for any more is cancelled."""
        given = taken = 0
        try:
            while True:
                while given - taken < _AHEAD * self._pool.count and (item := next(items, self)) is not self:
                    self._items[given] = pickle.dumps(item, protocol=5)
                    self._submit(given)
                    given += 1
                if taken == given:
                    return
                while taken not in self._done:
                    self._collect()
                yield self._done.pop(taken)
                taken += 1
        except BaseException as e:
            running = [future for future in self._running if not future.cancel()]
            if isinstance(e, GeneratorExit):  # no more is asked for, and what follows may be timed
                wait(running)
            raise

    def _submit(self, number: int, parts: Iterable[str] = ()) -> None:
        sent = {digest: part if digest in parts else None for digest, part in self._parcel.parts.items()}
        arguments = versions(), self._parcel.content, sent, self._threads, self._items[number]
        self._running[self._pool.submit(perform, *arguments)] = number

    def _collect(self) -> None:
        """Take what is ready; at least one."""
        for future in wait(self._running, return_when=FIRST_COMPLETED).done:
            if future not in self._running:  # of processes that were replaced
                continue
            number = self._running.pop(future)
            try:
                self._take(number, future.result())
            except (BrokenExecutor, CancelledError):
                self._pool.renew()
                self._running.clear()
                for lost in self._items:
                    self._submit(lost)
            except ImportError as e:
                raise WorkerError(f"a worker lacks this package: {one_line(e)}. Install {versions()} there") from e

    def _take(self, number: int, answer: Answer) -> None:
        if answer.kind == "missing":
            self._submit(number, answer.value)
        elif answer.kind == "other version":
            raise WorkerError(f"worker {answer.worker} has {answer.value}, here it is {versions()}: install the same")
        elif answer.kind == "failed":
            raise _of_worker(pickle.loads(answer.value), "" if self._pool.is_here else answer.worker)
        else:
            self._pool.progressed()
            del self._items[number]
            self._done[number] = pickle.loads(answer.value)


def _of_worker(error: HqpError, worker: str) -> HqpError:
    """``error``, with the worker that could not read the data."""
    if not worker or not isinstance(error, (DataError, FileError)):
        return error
    return type(error)(f"{error.template} (on worker {worker}: data must be where every worker finds them)")
