"""Boards over the system's own ssh and scp, with the user's own configuration, keys and known hosts.

    ssh://[USER@]HOST[:PORT][?python=PATH]

Nothing is asked (BatchMode): who can log in without a password can use a board. The conversation with the script is
one connection, which copies share (ControlMaster), and which ends by itself where nothing comes back for 15 seconds.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

from hqp_onnx.boards.transport import DEVICES, LostError
from hqp_onnx.errors import BoardError, MissingRuntimeError, UsageError, last_line

FOLDER = ".hqp-onnx"
"""In the home folder there; a folder in it for each job."""

_SETTINGS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3")
_NO_CONNECTION = 255
_SAFE = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:-]*")  # never an option of ssh, nor anything that a shell expands
_COPY_SECONDS = 900.0
_COMMAND_SECONDS = 60.0


@dataclass(frozen=True)
class Ssh:
    """See the module.

    Attributes:
        host: with the user, if one is named.
        port: 0 for what ssh takes.
        python: there.
        job: an unpredictable name: of the folder there, and of the socket by which the connection is shared here.
    """

    host: str
    port: int = 0
    python: str = "python3"
    job: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def name(self) -> str:
        """As ssh is told."""
        return f"{self.host}:{self.port}" if self.port else self.host

    def prepare(self) -> None:
        """See ``Transport``."""
        self._run(["ssh", *self._options("-p"), self.host, f"umask 077 && mkdir -p {self._folder}"], _COMMAND_SECONDS)

    def send(self, file: Path) -> None:
        """See ``Transport``."""
        user, at, address = self.host.rpartition("@")
        place = f"{user}{at}[{address}]" if ":" in address else self.host
        command = ["scp", "-q", *self._options("-P"), str(file), f"{place}:{self._folder}/{file.name}"]
        self._run(command, _COPY_SECONDS)

    def start(self, script: str, errors: BinaryIO) -> subprocess.Popen[bytes]:
        """See ``Transport``."""
        self._socket.unlink(missing_ok=True)  # of a connection that was lost
        shared = ["-o", "ControlMaster=yes"] if os.name == "posix" else []
        command = f"cd {self._folder} && exec {self._python} -u {script}"
        words = ["ssh", *shared, *self._options("-p"), self.host, command]
        pipe = subprocess.PIPE  # out of reach of the terminal's Ctrl-C: whoever ends cleans up there first
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=errors, start_new_session=True)

    @property
    def _python(self) -> str:
        """For a shell, which expands the home folder alone."""
        home, rest = ("~/", self.python[2:]) if self.python.startswith("~/") else ("", self.python)
        return home + shlex.quote(rest)

    @property
    def _socket(self) -> Path:
        return Path(tempfile.gettempdir()) / f"hqp-{self.job}"

    @property
    def _folder(self) -> str:
        return f"{FOLDER}/{self.job}"

    def _options(self, port: str) -> list[str]:
        settings = [*_SETTINGS, *([f"ControlPath={self._socket}"] if os.name == "posix" else [])]
        words = [word for setting in settings for word in ("-o", setting)]
        return [*words, port, str(self.port)] if self.port else words

    def _run(self, command: list[str], seconds: float) -> None:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False, errors="replace"
            )
        except subprocess.TimeoutExpired as e:
            raise LostError(f"{command[0]} took more than {seconds:g} s") from e
        if done.returncode == 0:
            return
        said = last_line(done.stderr) or f"{command[0]} ends with {done.returncode}"
        if done.returncode == _NO_CONNECTION or "closed" in said.lower() or "lost" in said.lower():
            raise LostError(said)
        raise BoardError(f"{self.name}: {said}")


@DEVICES.register("ssh")
def ssh(device: str) -> Ssh:
    """The board of an address.

    Raises:
        UsageError: no address that ssh could take.
        MissingRuntimeError: no ssh or scp here.
    """
    expected = f"{{--device}} {device}: expected ssh://[USER@]HOST[:PORT][?python=PATH]"
    try:
        parts = urlsplit(device)
        port, asked = parts.port or 0, parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as e:
        raise UsageError(expected) from e
    words = [parts.hostname or "", *([parts.username] if parts.username is not None else [])]
    unknown = [key for key in asked if key != "python"]
    if unknown or parts.password or parts.path.strip("/") or not all(_SAFE.fullmatch(word) for word in words):
        raise UsageError(expected)
    for tool in ("ssh", "scp"):
        if not shutil.which(tool):
            raise MissingRuntimeError(f"there is no {tool} here: install OpenSSH's client (openssh-client)")
    return Ssh("@".join(reversed(words)), port, asked.get("python", ["python3"])[-1])
