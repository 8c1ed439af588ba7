"""Arrays that stay in their file: rows are read when they are asked for, and only those are in memory.

    FILE.npy                     read in place
    a member of a .npz           in place where it is stored as it is (numpy.savez); a compressed one
                                 (savez_compressed) is unpacked once: into memory where all of them take up to 64 MiB,
                                 else into a temporary file, which vanishes with the process
    arrays in Fortran order      likewise: their rows are scattered over the file

Rows are read, not mapped: what a process has mapped counts as its memory, and a file that shrinks would end it.
"""

from __future__ import annotations

import math
import os
import pickle
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from hqp_onnx.archives import array_header, open_archive
from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError, LimitError, one_line
from hqp_onnx.files import require_regular

SMALL = 64 << 20
"""Bytes that are kept in memory where they would have to be unpacked or asked for again."""
_CHUNK = 1 << 24


class OpenFile:
    """A file that is open as long as somebody holds it, wherever that ends; ``stream`` is closed. Thread-safe."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._number, self._lock = os.dup(stream.fileno()), threading.Lock()
        self.stream: IO[bytes] = os.fdopen(self._number, stream.mode, closefd=False)
        stream.close()

    def read(self, offset: int, room: memoryview) -> bool:
        """Fill ``room`` from ``offset`` on; whether there were so many bytes."""
        with self._lock:
            self.stream.seek(offset)
            return bool(self.stream.readinto(room) == len(room))  # type: ignore[attr-defined]

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the very end, modules are gone
        self.stream.close()
        close(self._number)


@dataclass(frozen=True, eq=False)
class StoredArray:
    """Rows of an open file, C order, from ``offset`` on.

    ``origin`` is the file that they came from and their name there; by it another process opens them again.
    """

    name: str
    file: OpenFile
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    origin: tuple[Path, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise pickle.PicklingError(f"{self.name}: only this process has it")
        status = self.origin[0].stat()
        return _again, (*self.origin, self.dtype, self.shape, (status.st_size, status.st_mtime_ns))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """Of one sample."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> Array:
        """A copy of some neighbouring rows.

        Raises:
            DataError: the file has become shorter.
        """
        start, stop, _ = rows.indices(len(self))
        values = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        room = values.reshape(-1).view(np.uint8).data
        if not self.file.read(self.offset + start * self.row_bytes, room):
            raise DataError(f"{self.name}: the file became shorter while it was read")
        return values

    def chunks(self) -> Iterator[Array]:
        """All rows, a few at a time."""
        step = max(1, _CHUNK // max(1, self.row_bytes))
        return (self[start : start + step] for start in range(0, len(self), step))


Rows = Array | StoredArray
"""Values of samples, in memory or in a file: type, shape, and slices of rows."""


def open_npy(file: Path) -> Rows:
    """The array of a .npy file.

    Raises:
        DataError: it is not one of numbers or text, or damaged.
    """
    require_regular(file, "a .npy file")
    opened = OpenFile(file.open("rb"))
    try:
        return _rows(str(file), opened, 0, file.stat().st_size, (file, ""))
    except Exception as e:  # numpy's parser of headers raises a dozen types
        raise DataError(f"{file}: not a readable .npy file of numbers: {one_line(e)}") from e


def open_npz(file: Path) -> dict[str, Rows]:
    """The arrays of a .npz file, by name, each where it is or unpacked, see the module.

    Raises:
        DataError: no such file, a pipe or a device, no .npz, damaged, or of Python objects.
        LimitError: no room to unpack it.
    """
    found: dict[str, Rows] = {}
    with open_archive(file) as (archive, members):
        opened = OpenFile(file.open("rb"))
        packed = sum(m.file_size for m in members.values() if m.compress_type != zipfile.ZIP_STORED)
        for name, member in members.items():
            where = f"{file}: array '{name}'"
            if member.compress_type == zipfile.ZIP_STORED:
                found[name] = _rows(where, opened, _start(opened.stream, member), member.file_size, (file, name))
                continue
            with archive.open(member) as stream:
                if packed <= SMALL:
                    found[name] = npy.read_array(stream, allow_pickle=False)
                    continue
                spill = spilled(where, member.file_size)
                shutil.copyfileobj(stream, spill.stream, _CHUNK)
                found[name] = _rows(where, spill, 0, member.file_size, (file, name))
    return found


def _again(file: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], state: tuple[int, int]) -> Rows:
    """What another process opened, when the file had the size and time ``state``.

    Raises:
        DataError: it is not there, or something else.
    """
    found = _opened(file, state).get(name)
    if found is None or found.dtype != dtype or found.shape != shape:
        raise DataError(f"{file}: is another file here, expected {dtype}{list(shape)}")
    return found


@lru_cache(2)
def _opened(file: Path, state: tuple[int, int]) -> dict[str, Rows]:
    """The arrays of a file, opened once until it is another."""
    return open_npz(file) if file.suffix != ".npy" else {"": open_npy(file)}


def _start(stream: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where the content of an uncompressed member begins: after its own header, a name and more."""
    stream.seek(member.header_offset)
    local = stream.read(30)
    start = member.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if member.compress_size != member.file_size or start + member.file_size > stream.seek(0, 2):
        raise ValueError(f"'{member.filename}' is said to be longer than it is")
    return start


def _rows(name: str, file: OpenFile, start: int, length: int, origin: tuple[Path, str]) -> Rows:
    """The array of a .npy file that lies in ``file``."""
    file.stream.seek(start)
    shape, fortran, dtype = array_header(file.stream, name, length, start)
    stored = StoredArray(name, file, file.stream.tell(), dtype, shape, origin)
    if not shape:
        file.stream.seek(stored.offset)
        return np.frombuffer(file.stream.read(dtype.itemsize), dtype).reshape(())
    return _unscattered(stored) if fortran and len(shape) > 1 else stored


def _unscattered(stored: StoredArray) -> Rows:
    """Of a Fortran array, whose transpose is what the file holds row by row: the same values, row by row."""
    size = stored.row_bytes * len(stored)
    if size <= SMALL:
        columns = StoredArray(stored.name, stored.file, stored.offset, stored.dtype, stored.shape[::-1])
        return np.ascontiguousarray(columns[:].T)
    spill = spilled(stored.name, size)
    step = max(1, _CHUNK // max(1, stored.row_bytes))
    for start in range(0, len(stored), step):
        mapped = np.memmap(stored.file.stream, stored.dtype, "r", stored.offset, stored.shape, "F")
        spill.stream.write(np.ascontiguousarray(mapped[start : start + step]).data)
    return StoredArray(stored.name, spill, 0, stored.dtype, stored.shape, stored.origin)


def spilled(name: str, size: int) -> OpenFile:
    """An empty temporary file for ``size`` bytes, which vanishes with the process.

    Raises:
        LimitError: the temporary folder has no room for it.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise LimitError(
            f"{name} takes {size / 1e9:.1f} GB once unpacked, and the temporary folder {folder} has "
            f"{free / 1e9:.1f} GB: free some, or name another folder in the variable TMPDIR"
        )
    return OpenFile(tempfile.TemporaryFile())
