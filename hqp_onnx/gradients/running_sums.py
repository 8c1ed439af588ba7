"""Sums over samples in float64, kept in a file so that an interrupted run goes on where it stopped.

Each call of ``add`` is one fixed micro-batch, and a file always holds whole micro-batches: a resumed run adds the
same numbers in the same order, and ends with the same bits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from numpy.typing import NDArray

from hqp_onnx.archives import read_arrays
from hqp_onnx.arrays import Array, content
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError
from hqp_onnx.files import write_arrays

SECONDS = 3.0  # between two writes


def run_key(model: onnx.ModelProto, first: Batch, *settings: object) -> str:
    """Digest of what the sums depend on: the model, the first batch and its size, and ``settings``."""
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for name in sorted(first.feeds):
        digest.update(content(first.feeds[name]))
    for name in sorted(first.targets):
        digest.update(f"{name} {first.targets[name].dtype}".encode() + first.targets[name].tobytes())
    digest.update(repr((len(first), *settings)).encode())
    return digest.hexdigest()


class RunningSums:
    """A context manager: an exception inside leaves the file behind, a normal end removes it.

    Args:
        path: the file, or None to keep nothing.
        key: of the run; a file with another key is ignored.
        sums: zeros, by name.

    Attributes:
        sums: float64 arrays by name.
        done: samples in ``sums``.

    Raises:
        DataError: the file is not a checkpoint.
    """

    def __init__(self, path: Path | None, key: str, sums: Mapping[str, NDArray[np.float64]]) -> None:
        self._path, self._key = path, key
        self.sums, self.done = dict(sums), 0
        self._resume()
        self._stored, self._when = self.done, time.monotonic()

    def add(self, values: Mapping[str, Array], done: int) -> None:
        """Add float64 ``values``, the sums over a micro-batch; ``done`` samples are then in the sums."""
        for name, total in self.sums.items():
            total += values[name]
        self.done = done
        if time.monotonic() - self._when >= SECONDS:
            self._store()

    def __enter__(self) -> RunningSums:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._store()
        elif self._path:
            self._path.unlink(missing_ok=True)

    def _store(self) -> None:
        if self._path is None or self._stored == self.done:
            return
        sums = {f"sum/{name}": total for name, total in self.sums.items()}
        write_arrays(self._path, {"key": np.array(self._key), "done": np.array(self.done), **sums})
        self._stored, self._when = self.done, time.monotonic()

    def _resume(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            stored = read_arrays(self._path)
            if str(stored["key"]) == self._key:
                self.sums = {name: stored[f"sum/{name}"] for name in self.sums}
                self.done = int(stored["done"])
        except (DataError, KeyError, TypeError, ValueError) as e:
            raise DataError(f"{self._path}: not a checkpoint of saliency scores ({e}): remove it") from e
