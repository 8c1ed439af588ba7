"""How files and questions get to a board: by ssh, or by what a package or a file of the user's own brings.

``DEVICES`` has a function for each scheme of ``--device SCHEME://...``; ``FILE.py:name`` is one, too. It takes what
``--device`` says and gives a ``Transport``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from hqp_onnx.errors import UsageError
from hqp_onnx.registry import Registry, is_file_name, outside_code


class LostError(Exception):
    """The connection is lost, or was not made; the message says how. It is worth another try."""


@runtime_checkable
class Transport(Protocol):
    """A way to one board, and a folder of its own there."""

    @property
    def name(self) -> str:
        """What messages call the board."""

    def prepare(self) -> None:
        """Make the folder, or find it made.

        Raises:
            LostError, BoardError: no connection; the board refuses.
        """

    def send(self, file: Path) -> None:
        """Copy a file into the folder, under its name; errors as for ``prepare``."""

    def start(self, script: str, errors: BinaryIO) -> subprocess.Popen[bytes]:
        """Run a Python script of the folder, with pipes to its stdin and stdout; 127 is the status of no Python."""


DEVICES: Registry[Callable[[str], Transport]] = Registry("kind of device", "hqp_onnx.devices", also=("ssh://HOST",))


def transport_of(device: str) -> Transport:
    """The way to what ``--device`` names.

    Raises:
        UsageError: an unknown scheme, an address that makes no sense, or code from outside that gives no ``Transport``.
    """
    scheme, found, _ = device.partition("://")
    if not found and not is_file_name(device):
        raise UsageError(f"{{--device}} {device}: expected ssh://USER@HOST[:PORT] or FILE.py:name")
    make = DEVICES.get(device if is_file_name(device) else scheme)
    with outside_code(f"{{--device}} {device} fails"):
        board = make(device)
    if not isinstance(board, Transport):
        methods = "name, prepare, send and start"
        raise UsageError(f"{{--device}} {device} gives {board!r:.80}: expected a transport, with {methods}")
    return board
