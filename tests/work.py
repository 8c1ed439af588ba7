"""Work that other processes can import, as those that pytest starts cannot import a test."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hqp_onnx.errors import DataError


@dataclass(frozen=True, eq=False)
class Adding:
    """Adds an array; dies, or fails, at an item."""

    values: np.ndarray
    marker: str = ""

    def opened(self, threads: int) -> Callable[[int], tuple[float, int]]:
        return partial(added, self)


def added(work: Adding, item: int) -> tuple[float, int]:
    if item == 3 and work.marker and not Path(work.marker).exists():
        Path(work.marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if item < 0:
        raise DataError(f"no item {item}")
    return float(work.values.sum()) + item, os.getpid()


@dataclass(frozen=True)
class Touching:
    """Leaves a file behind, after a while."""

    folder: str

    def opened(self, threads: int) -> Callable[[int], int]:
        return partial(touched, self.folder)


def touched(folder: str, item: int) -> int:
    time.sleep(0.1)
    Path(folder, str(item)).touch()
    return item


@dataclass(frozen=True)
class Seeing:
    """What a process is told to see of the machine's GPUs."""

    def opened(self, threads: int) -> Callable[[int], tuple[int, str | None]]:
        return seen


def seen(item: int) -> tuple[int, str | None]:
    time.sleep(0.3)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")
