"""Engines that a board builds: files go there, a script of trtexec runs there, and what it wrote comes back.

The build is a process of its own on the board, so a connection that is lost costs nothing but another question.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqp_onnx.boards import ssh  # noqa: F401 - registers its scheme
from hqp_onnx.boards.link import Link
from hqp_onnx.boards.transport import transport_of
from hqp_onnx.errors import BoardError, ModelError, one_line
from hqp_onnx.progress import StageProgress

_FAULT = "[E]"


@dataclass(frozen=True)
class Made:
    """What a script left: ``files`` by name, the end of its ``log``, watts while it ran the engine, and their meter."""

    files: Mapping[str, bytes]
    log: str
    watts: float | None
    meter: str


@dataclass(frozen=True)
class Builder:
    """A board with trtexec.

    Attributes:
        link: to it.
        tensorrt: its version as trtexec gives it, 8502 or 100300.
        gpu: name, and compute capability; None where nothing says it.
    """

    link: Link
    tensorrt: str
    gpu: tuple[str, int, int] | None

    def build(self, folder: Path, script: str, products: Sequence[str], progress: StageProgress) -> Made:
        """What ``script`` makes of the files of ``folder``, itself one of them.

        Args:
            folder: with files alone.
            script: its name.
            products: names of files that it writes.
            progress: called now and then, with the questions that were asked; there is no total.

        Raises:
            ModelError: it fails.
            BoardError: the connection was lost for good.
        """
        names = {path.name: self.link.add(path.read_bytes()) for path in sorted(folder.iterdir())}
        asked = 0
        while (found := self.link.ask("build", files=names, script=script))["running"]:
            asked += 1
            progress(asked, 0)
        for name in names.values():
            self.link.forget(name)
        if found["status"]:
            said = found["log"].splitlines()
            why = next((line for line in reversed(said) if _FAULT in line), said[-1] if said else "it says nothing")
            raise ModelError(f"{self.link.name}: trtexec ends with {found['status']}: {one_line(why)}")
        files = {name: self._read(found["place"], name) for name in products}
        return Made(files, found["log"], found["watts"], found["meter"])

    def _read(self, place: str, name: str) -> bytes:
        content = bytearray()
        while True:
            found: dict[str, Any] = self.link.ask("read", place=place, name=name, start=len(content))
            if not found["part"]:
                raise BoardError(f"{self.link.name}: {name} ends after {len(content)} of {found['size']} bytes")
            content += base64.b64decode(found["part"])
            if len(content) >= found["size"]:
                return bytes(content)


@contextmanager
def builder_of(device: str) -> Iterator[Builder]:
    """The board of an address, as long as it is needed.

    Raises:
        UsageError: an address that makes no sense.
        BoardError: it cannot be reached.
        ModelError: it has no trtexec.
    """
    link = Link(transport_of(device))
    try:
        said = link.ask("tensorrt")
        yield Builder(link, said["version"], tuple(said["gpu"]) if said["gpu"] else None)
    finally:
        link.close()
