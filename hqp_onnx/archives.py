"""Arrays from .npz files that anyone may have made: nothing is unpickled, nothing is read before its size is known.

An archive is a zip file of .npy files, each a header (type, shape) and that many values. The header and the length that
the archive declares must agree, and all values together must fit into memory: a few kB can declare terabytes of zeros.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError, HqpError, one_line
from hqp_onnx.files import require_regular
from hqp_onnx.limits import available_bytes

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_KINDS = "biufcSU"
_SUFFIX = ".npy"


def read_arrays(file: Path) -> dict[str, Array]:
    """The arrays of a .npz file, by name: numbers and strings, no Python objects.

    Raises:
        DataError: no such file, a pipe or a device, no .npz, damaged, of Python objects, or larger than memory.
    """
    with open_archive(file) as (archive, members):
        _require_room(sum(member.file_size for member in members.values()))
        return {name: _array(archive, member) for name, member in members.items()}


@contextmanager
def open_archive(file: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """A .npz file and its members by the names of the arrays, the header of each checked.

    Raises:
        DataError: see ``read_arrays``; also whatever the block raises of a damaged file.
    """
    require_regular(file, "a .npz file")
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(file) as archive:
            warnings.simplefilter("ignore")  # numpy's, on headers of Python 2
            yield archive, _members(archive)
    except (MemoryError, HqpError):
        raise
    except Exception as e:  # of damaged files, zipfile, zlib and numpy's parser of headers raise a dozen types
        raise DataError(f"{file}: not a readable .npz file of numeric arrays: {_reason(file, e)}") from e


def _reason(file: Path, error: Exception) -> str:
    with file.open("rb") as stream:
        bare = stream.read(6) == b"\x93NUMPY"
    return "it holds one bare array: call it .npy, or name the array with numpy.savez" if bare else one_line(error)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(_SUFFIX)
        if name == member.filename or name in found:
            raise ValueError(f"'{member.filename}' is {'a second array of that name' if name in found else 'no array'}")
        if member.flag_bits & 1:
            raise ValueError(f"'{name}' is encrypted")
        with archive.open(member) as stream:
            array_header(stream, name, member.file_size)
        found[name] = member
    return found


def array_header(
    stream: IO[bytes], name: str, length: int, start: int = 0
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran order, and type of a .npy file of ``length`` bytes, which begins at ``start``.

    Raises:
        ValueError: the header does not describe numbers or strings, or other values than follow.
    """
    version: Any = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"array '{name}' has a header of version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, on headers of Python 2
        shape, fortran, dtype = _HEADERS[version](stream)
    if dtype.kind not in _KINDS or not dtype.itemsize:
        raise ValueError(f"array '{name}' holds Python objects" if dtype.hasobject else f"array '{name}' is {dtype}")
    if any(size < 0 for size in shape) or stream.tell() - start + math.prod(shape) * dtype.itemsize != length:
        raise ValueError(f"array '{name}' is said to be {dtype}{list(shape)}, which is not what follows")
    return shape, fortran, dtype


def _require_room(size: int) -> None:
    room = available_bytes()
    if room is not None and size > room:
        raise ValueError(f"its arrays take {size / 1e9:.1f} GB, and {room / 1e9:.1f} GB of memory are free")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        values: Array = npy.read_array(stream, allow_pickle=False)
    return values
