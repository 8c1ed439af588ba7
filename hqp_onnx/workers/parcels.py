"""Values as bytes for other processes. What is large goes apart, by its digest, so each process gets it once."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import onnx

LARGE = 1 << 20  # bytes that go apart


@dataclass(frozen=True)
class Parcel:
    """A value: ``content`` without its large parts, and ``parts`` by digest."""

    content: bytes
    parts: dict[str, bytes]


def packed(value: object) -> Parcel | None:
    """``value`` as bytes; None for what cannot be sent, such as an open file or a function of a user's file."""
    buffer = io.BytesIO()
    packer = _Packer(buffer)
    try:
        packer.dump(value)
    except Exception:  # noqa: BLE001 - whatever the parts of a value raise where they cannot be pickled
        return None
    return Parcel(buffer.getvalue(), packer.parts)


def unpacked(content: bytes, part: Callable[[str], Any]) -> Any:
    """The value of a ``Parcel``; ``part`` gives its parts by digest."""
    unpacker = _Unpacker(io.BytesIO(content))
    unpacker.part = part
    return unpacker.load()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.parts: dict[str, bytes] = {}

    def reducer_override(self, value: Any) -> Any:
        """Paths as another process finds them, whose working folder may be another; nothing that only this one has."""
        if getattr(value, "__module__", "") == "__main__" and isinstance(value, (type, FunctionType)):
            raise pickle.PicklingError(f"{value.__qualname__}: other processes have another __main__")
        return (Path, (str(value.absolute()),)) if isinstance(value, Path) else NotImplemented

    def persistent_id(self, value: Any) -> str | None:
        """The digest of what goes apart."""
        if isinstance(value, np.ndarray):
            large = value.nbytes >= LARGE and value.dtype.kind != "O"
        else:
            large = isinstance(value, onnx.ModelProto) or (isinstance(value, bytes) and len(value) >= LARGE)
        if not large:
            return None
        content = pickle.dumps(value, protocol=5)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        self.parts[digest] = content
        return digest


class _Unpacker(pickle.Unpickler):
    part: Callable[[str], Any]

    def persistent_load(self, digest: str) -> Any:
        """A part."""
        return self.part(digest)
