"""Limits of time and memory for models that nobody has run yet.

Time. A run that only looks at a model (shapes, the first sample) may take ``probe_seconds()``: then onnxruntime is told
to stop, which it does between two nodes, those inside a Loop included. One kernel is never interrupted.

Memory. What this process allocates beyond what the machine, or its control group, has available fails as
``MemoryError`` instead of waking the system's out-of-memory killer: a soft RLIMIT_DATA, which counts private writable
pages, not address space that CUDA reserves or files that are mapped. Linux alone counts so; elsewhere nothing is
limited.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from hqp_onnx.errors import LimitError, UsageError

PROBE_SECONDS = 60.0
VARIABLE = "HQP_PROBE_SECONDS"
LARGEST_PROBE = 1 << 28  # elements of an input that is made up
MOST_NODES = 1_000_000  # of a model whose functions are inlined
_CHOSEN: ContextVar[float | None] = ContextVar("probe_seconds", default=None)
_PROBING: ContextVar[bool] = ContextVar("probing", default=False)
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)

_EACH, _BOARD = 4, 256  # threads for a processor of this machine, and threads of a board, that may be asked for


def check_threads(threads: int, on_board: bool = False) -> None:
    """Raise ``UsageError`` for threads of which a runtime would only wait for the others; 0 lets it choose."""
    processors = os.cpu_count() or 1
    most = _BOARD if on_board else _EACH * processors
    if not 0 <= threads <= most:
        whose = "boards have no more processors" if on_board else f"this machine has {processors} processors"
        raise UsageError(f"{{--threads}} {threads}: expected 0 to {most}, since {whose}")


def set_probe_seconds(seconds: float | None) -> None:
    """Let runs that look at a model take so long, from here on in this context; None for the default.

    Raises:
        UsageError: no finite number above 0.
    """
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError(f"{{--probe_seconds}} {seconds:g}: expected seconds, above 0")
    _CHOSEN.set(seconds)


def probe_seconds() -> float:
    """How long such a run may take: as set, else what ``HQP_PROBE_SECONDS`` says, else 60.

    Raises:
        UsageError: the variable holds no number above 0.
    """
    if (chosen := _CHOSEN.get()) is not None:
        return chosen
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text or PROBE_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{VARIABLE} is '{text}': expected seconds, above 0")
    return seconds


@contextmanager
def probing() -> Iterator[None]:
    """Runs in this block only look at a model, and may take ``probe_seconds()`` each."""
    token = _PROBING.set(True)
    try:
        yield
    finally:
        _PROBING.reset(token)


@contextmanager
def deadline(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop``, from another thread, when a run that only looks has taken its time.

    Raises:
        LimitError: it was called.
    """
    if not _PROBING.get():
        yield
        return
    seconds = probe_seconds()
    passed = threading.Event()

    def end() -> None:
        passed.set()
        stop()

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as e:
        if passed.is_set():
            raise LimitError(
                f"a trial run did not end within {seconds:g} s: {{--probe_seconds}} (in Python, {VARIABLE}) allows more"
            ) from e
        raise
    finally:
        timer.cancel()


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Hold the process to the memory that is available now, while the block runs; a stricter limit stays."""
    room = available_bytes()
    if room is None or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([_data_bytes() + room, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def peak_bytes() -> int:
    """The most memory that this process had in use at a time; 0 where the system does not say."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM:") or 0


def available_bytes() -> int | None:
    """Memory that this process may still take; None where the system does not say."""
    rooms = [_kilobytes(Path("/proc/meminfo"), "MemAvailable:", "SwapFree:"), *(_left(*files) for files in _GROUPS)]
    return min((room for room in rooms if room is not None), default=None)


def _left(limit: Path, used: Path) -> int | None:
    """What a control group leaves; None if there is no such group, or no limit."""
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        return None


def _data_bytes() -> int:
    return _kilobytes(Path("/proc/self/status"), "VmData:") or 0


def _kilobytes(file: Path, *keys: str) -> int | None:
    """The sum of lines such as ``MemAvailable:  123 kB``, in bytes; None where there are none."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return None
    found = [int(words[1]) * 1024 for words in lines if words and words[0] in keys]
    return sum(found) if found else None
