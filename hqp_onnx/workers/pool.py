"""Where work is done: in this process, unless ``using`` names others.

Workers are a number of processes on this machine, the address of a cluster (see ``clusters``), or an ``Executor`` of
``concurrent.futures``, whatever stands behind it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, Union

from hqp_onnx.counts import article
from hqp_onnx.errors import UsageError, WorkerError, one_line
from hqp_onnx.registry import is_file_name, outside_code
from hqp_onnx.workers.clusters import CLUSTERS
from hqp_onnx.workers.gpus import gpus
from hqp_onnx.workers.worker import begin

Workers: TypeAlias = Union[int, str, Executor, None]  # noqa: UP007 - read at run time, by Python 3.10 too
"""Processes on this machine, an address, an executor; None for what is in use already."""

_UNKNOWN = 16  # workers, where an executor does not say how many it has
_LIVES = 3  # times that processes are started again after one has died, without any result in between


class Pool:
    """An executor, and what is known of it.

    Args:
        executor: of others; None for ``count`` processes of our own.
        count: its workers.
        share: threads that each may use.
        owned: whether it ends with the pool.
    """

    def __init__(self, executor: Executor | None, count: int, share: int, owned: bool) -> None:
        self.count, self._share, self._owned = count, share, owned
        self.is_here = executor is None
        self._executor = _processes(count) if executor is None else executor
        self._deaths = 0

    def submit(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        """Start work."""
        try:
            return self._executor.submit(function, *arguments)
        except RuntimeError as e:  # it was shut down, or has lost its processes
            if not self.is_here:
                raise WorkerError(f"the workers take no more work: {one_line(e)}") from e
            self.renew()
            return self._executor.submit(function, *arguments)

    def threads(self, asked: int) -> int:
        """Of onnxruntime in each worker, where ``asked`` are wanted in all; 0 is as many as there are."""
        return max(1, asked // self.count) if asked and self.is_here else self._share

    def progressed(self) -> None:
        """A result came."""
        self._deaths = 0

    def renew(self) -> None:
        """Replace what has lost a process.

        Raises:
            WorkerError: it is not ours, or loses processes again and again.
        """
        self._deaths += 1
        if not self.is_here or self._deaths > _LIVES:
            raise WorkerError(
                "workers die at their work: they may lack memory, so take fewer {--workers}; in a script, the call "
                "belongs under `if __name__ == '__main__':`"
            )
        self._kill()
        self._executor = _processes(self.count)

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self.is_here:
            self._kill()
        elif self._owned:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _kill(self) -> None:
        processes = list((getattr(self._executor, "_processes", None) or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


_POOL: ContextVar[Pool | None] = ContextVar("workers", default=None)


def active() -> Pool | None:
    """The pool in use; None where work is done in this process."""
    return _POOL.get()


@contextmanager
def using(workers: Workers) -> Iterator[None]:
    """Inside, statistics, evaluations and gradients are computed by ``workers``; the results are the same bits.

    Raises:
        UsageError: no such number or address.
        WorkerError: nobody answers at the address.
        MissingRuntimeError: the package for it is not installed.
    """
    pool = _opened(workers)
    if pool is None:
        yield
        return
    token = _POOL.set(pool)
    try:
        yield
    finally:
        _POOL.reset(token)
        pool.close()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, work is done in this process."""
    token = _POOL.set(None)
    try:
        yield
    finally:
        _POOL.reset(token)


def _opened(workers: Workers) -> Pool | None:
    if isinstance(workers, Executor):
        return _of(workers, owned=False)
    text = str(workers)
    if isinstance(workers, bool) or (workers is not None and not isinstance(workers, (int, str))):
        raise UsageError(f"{{--workers}} {workers}: expected a number, an address or an Executor")
    if workers is None or text == "1":
        return None
    if text.lstrip("+-").isdigit():
        return _here(int(text))
    scheme = text if is_file_name(text) else re.split(r"://|\?", text)[0]
    if scheme not in CLUSTERS.names and not is_file_name(text):
        raise UsageError(
            f"{{--workers}} {text}: expected a number of processes, tcp://HOST:PORT (Dask), ray or ray://HOST:PORT"
        )
    make = CLUSTERS.get(scheme)
    with outside_code(f"{{--workers}} {text}", WorkerError):
        executor = make(text)
    if not isinstance(executor, Executor):
        raise UsageError(f"{{--workers}} {text}: gives {article(type(executor).__name__)}, expected an Executor")
    return _of(executor, owned=True)


def _of(executor: Executor, owned: bool) -> Pool:
    known = getattr(executor, "workers", None) or getattr(executor, "_max_workers", None)
    return Pool(executor, known if isinstance(known, int) else _UNKNOWN, getattr(executor, "threads", 1), owned)


def _here(count: int) -> Pool:
    if count < 1:
        raise UsageError(f"{{--workers}} {count}: expected at least 1")
    return Pool(None, count, max(1, (os.cpu_count() or 1) // count), owned=True)


def _processes(count: int) -> Executor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, begin, (context.Value("i"), gpus()))
