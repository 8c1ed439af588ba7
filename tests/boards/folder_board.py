"""A board that is a folder of this machine: the script runs in it, in a process of its own, and may be cut off.

--device FILE.py:folder        board.json beside the working folder says where, and what goes wrong
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hqp_onnx.boards.transport import LostError


@dataclass
class FolderBoard:
    """``cuts``: of the answers that the board will give, after how many each connection is lost."""

    place: Path
    cuts: list[int] = field(default_factory=list)
    environment: dict[str, str] | None = None
    python: list[str] = field(default_factory=lambda: [sys.executable])
    sent: list[str] = field(default_factory=list)
    starts: int = 0
    damages: int = 0
    reachable: bool = True

    name: str = "board"

    @property
    def folder(self) -> Path:
        return self.place / "job"

    def prepare(self) -> None:
        if not self.reachable:
            raise LostError("no route to host")
        self.folder.mkdir(parents=True, exist_ok=True)

    def send(self, file: Path) -> None:
        self.sent.append(file.name)
        shutil.copyfile(file, self.folder / file.name)
        if self.damages and file.suffix != ".py":
            self.damages -= 1
            (self.folder / file.name).write_bytes(file.read_bytes()[:-1])

    def start(self, script: str, errors: BinaryIO) -> subprocess.Popen[bytes]:
        self.starts += 1
        words = [*self.python, "-u", str(self.folder / script)]
        if self.cuts:
            words = [sys.executable, "-c", CUT, str(self.cuts.pop(0)), *words]
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=self.environment
        )


CUT = """
import subprocess, sys
most, *words = sys.argv[1:]
talk = subprocess.Popen(words, stdin=sys.stdin, stdout=subprocess.PIPE)
answers = 0
for line in talk.stdout:
    if line.startswith(b"hqp:"):
        if answers == int(most):
            sys.stdout.buffer.write(line[: len(line) // 2])
            talk.kill()
            sys.exit(255)
        answers += 1
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""
