"""Messages to and from a process of our own: eight bytes of length and an .npz of arrays.

``Child`` starts such a process, a module of this package that ends when its stdin does, and tells how it ended where it
does so unasked. The module takes what it answers on from ``answers``.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Message = dict[str, NDArray[Any]]


class EndedError(Exception):
    """The process ended before it answered; the message says how, and its last line."""


def send(stream: IO[bytes], message: Mapping[str, NDArray[Any]]) -> None:
    """Write one message."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **message)
    stream.write(buffer.tell().to_bytes(8, "little"))
    stream.write(buffer.getbuffer())
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """Read one message; None at the end of the stream.

    Raises:
        EOFError: the stream ends inside a message.
    """
    header = stream.read(8)
    if not header:
        return None
    body = stream.read(int.from_bytes(header, "little"))
    if len(header) < 8 or len(body) < int.from_bytes(header, "little"):
        raise EOFError("the stream ended inside a message")
    with np.load(io.BytesIO(body)) as arrays:
        return dict(arrays)


def part(message: Mapping[str, NDArray[Any]], prefix: str) -> Message:
    """Entries whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in message.items() if name.startswith(prefix)}


def answers() -> IO[bytes]:
    """What a process answers on: its stdout, which from here on nothing else may enter."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints
    return out


class Child:
    """A process that runs ``module`` of this package.

    Args:
        module: its name, as for ``python -m``.
        paths: that it looks for modules in, before all others.
        folder: that it works in; None for this process's.
    """

    def __init__(self, module: str, paths: Sequence[Path] = (), folder: Path | None = None) -> None:
        root = Path(__file__).resolve().parents[2]
        known = [*map(str, paths), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(known)},
        )

    def ask(self, message: Mapping[str, NDArray[Any]]) -> Message:
        """Send a message and wait for the answer; ``EndedError`` where there is none."""
        assert self._process.stdin and self._process.stdout
        try:
            send(self._process.stdin, message)
            answer = receive(self._process.stdout)
        except (OSError, EOFError) as e:
            raise self._ended() from e
        if answer is None:
            raise self._ended()
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._log.close()
        with contextlib.suppress(BrokenPipeError):  # what was left to be written to the process
            self._process.__exit__(None, None, None)

    def _ended(self) -> EndedError:
        code = self._process.wait()
        self._log.seek(0)
        lines = [
            line for line in self._log.read().decode(errors="replace").splitlines() if "[I:onnxruntime" not in line
        ]
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return EndedError(f"{how} ({lines[-1].strip()})" if lines else how)
