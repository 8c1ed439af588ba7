"""What runs in a worker: one task at a time, in sessions that stay open from one task to the next."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from typing import Any, Literal, NamedTuple

from hqp_onnx.errors import HqpError
from hqp_onnx.version import __version__
from hqp_onnx.workers import gpus
from hqp_onnx.workers.parcels import unpacked

KEPT_BYTES = 1 << 31  # of models and data
_OPEN = 2  # pieces of work whose sessions stay open
_NUMERIC = ("numpy", "onnxruntime", "onnxruntime-gpu")  # what decides the bits of a result


class Answer(NamedTuple):
    """What ``perform`` gives: a pickled result, digests that are missing, a pickled error, or the worker's versions."""

    kind: Literal["done", "missing", "failed", "other version"]
    value: Any
    worker: str


_LOCK = threading.Lock()
_PARTS: OrderedDict[str, tuple[Any, int]] = OrderedDict()
_WORK: OrderedDict[tuple[bytes, int], Callable[[Any], Any]] = OrderedDict()


@cache
def versions() -> str:
    """Of this package, and of what computes."""
    found = (f"{name} {version}" for name in _NUMERIC if (version := _version(name)))
    return ", ".join([f"hqp_onnx {__version__}", *found])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def perform(expected: str, content: bytes, parts: dict[str, bytes | None], threads: int, item: bytes) -> Answer:
    """Do one item of work.

    Args:
        expected: what ``versions`` must be here.
        content: of the ``Parcel`` of the work, an object whose ``opened(threads)`` is a function of items.
        parts: of it, None for those that the worker may have.
        threads: of onnxruntime.
        item: pickled.
    """
    name = f"{socket.gethostname()}, process {os.getpid()}"
    if versions() != expected:
        return Answer("other version", versions(), name)
    with _LOCK:  # a Dask worker may have several threads
        if missing := _missing(content, parts, threads):
            return Answer("missing", missing, name)
        try:
            result = _opened(content, threads)(pickle.loads(item))
        except HqpError as e:
            return Answer("failed", pickle.dumps(e), name)
        return Answer("done", pickle.dumps(result, protocol=5), name)


def _missing(content: bytes, parts: dict[str, bytes | None], threads: int) -> list[str]:
    """The parts that are needed and not here, once those that came are kept."""
    if (content, threads) in _WORK:
        return []
    for digest, part in parts.items():
        if part is not None:
            _PARTS[digest] = pickle.loads(part), len(part)
    return [digest for digest in parts if digest not in _PARTS]


def _opened(content: bytes, threads: int) -> Callable[[Any], Any]:
    key = content, threads
    if key not in _WORK:
        while len(_WORK) >= _OPEN:
            _WORK.popitem(last=False)
        _WORK[key] = unpacked(content, _part).opened(threads)
        _forget()
    _WORK.move_to_end(key)
    return _WORK[key]


def _part(digest: str) -> Any:
    _PARTS.move_to_end(digest)
    return _PARTS[digest][0]


def _forget() -> None:
    """Drop what was not used for longest, beyond ``KEPT_BYTES``."""
    while len(_PARTS) > 1 and sum(size for _, size in _PARTS.values()) > KEPT_BYTES:
        _PARTS.popitem(last=False)


def begin(started: Any = None, devices: Sequence[str] = ()) -> None:
    """At the start of a process of our own: Ctrl-C is its parent's business, and it does not outlive that.

    Args:
        started: a counter of processes, shared by all.
        devices: GPUs, of which it takes one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if started is not None:
        with started.get_lock():
            number, started.value = started.value, started.value + 1
        gpus.take(number, devices)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
