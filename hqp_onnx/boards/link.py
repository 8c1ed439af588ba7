"""Questions to the script on a board, and its answers, over connections that may be lost.

Every question says all that its answer needs (``runtimes.bench``), so after a loss the board is connected to again and
the question asked again; answers that were had are not asked for twice. Files are sent when the board says that it
lacks them.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from hqp_onnx.boards.transport import LostError, Transport
from hqp_onnx.errors import BoardError, ModelError, last_line, one_line
from hqp_onnx.files import write_bytes
from hqp_onnx.runtimes import bench

log = logging.getLogger(__name__)
TRIES = 6  # without any answer in between
_PAUSE_SECONDS = 1.0  # before the second try, and twice as long before each further one
_ANSWER_SECONDS = 600.0
_END_SECONDS = 10.0
_NO_PYTHON = 127
_UNSENT = 3  # times that a file may arrive damaged


class Link:
    """A conversation with the script on a board; closed when the process ends, at the latest.

    Args:
        transport: the way to it.

    Raises:
        BoardError: the board cannot be reached or used.
    """

    def __init__(self, transport: Transport) -> None:
        self.name = transport.name
        self._transport = transport
        self._talk: subprocess.Popen[bytes] | None = None
        self._files = tempfile.TemporaryDirectory(prefix="hqp-")
        self._errors = Path(self._files.name) / "errors"
        self._held = Counter[str]()
        self._gone: set[str] = set()
        self._connected = False
        atexit.register(self.close)

    def add(self, content: bytes) -> str:
        """The name of a file that questions may mention, until it was forgotten as often as it was added."""
        name = hashlib.sha256(content).hexdigest()
        self._held[name] += 1
        self._gone.discard(name)
        if not (path := Path(self._files.name) / name).is_file():
            write_bytes(path, content)
        return name

    def forget(self, name: str) -> None:
        """Remove a file, here and there, with the next question, unless somebody else added it, too."""
        self._held[name] -= 1
        if not self._held[name]:
            self._gone.add(name)

    def ask(self, do: str, **what: Any) -> Any:
        """The answer to a question.

        Raises:
            ModelError: what fails there.
            BoardError: the board lacks something, or the connection was lost for good.
        """
        if gone := sorted(self._gone):
            self._gone.clear()
            for name in gone:
                (Path(self._files.name) / name).unlink(missing_ok=True)
            self.ask("forget", models=gone)
        losses, sent = 0, dict[str, int]()
        while True:
            try:
                said = self._answer({"do": do, **what})
                if "missing" in said:
                    sent[said["missing"]] = sent.get(said["missing"], 0) + 1
                    self._send(said["missing"], sent[said["missing"]])
                    continue
                return self._understood(said)
            except LostError as e:
                losses += 1
                self._lost(losses, one_line(e))

    def close(self) -> None:
        """Remove what was put on the board, and leave."""
        atexit.unregister(self.close)
        talk, self._talk = self._talk, None
        if talk is not None:
            try:
                talk.communicate(json.dumps({"do": "end"}).encode() + b"\n", timeout=_END_SECONDS)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                talk.kill()
                talk.communicate()
        self._files.cleanup()

    def _lost(self, losses: int, why: str) -> None:
        """Get ready for another try, or give up."""
        if self._talk is not None:
            self._talk.kill()
            self._talk.communicate()
        self._talk = None
        if not self._connected:
            raise BoardError(f"{self.name} cannot be reached: {why}. It must be possible to log in without a password")
        if losses >= TRIES:
            raise BoardError(f"{self.name}: the connection was lost {losses} times in a row: {why}")
        log.info("%s: the connection was lost (%s): once more", self.name, why)
        time.sleep(_PAUSE_SECONDS * 2 ** (losses - 1))

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        talk = self._talk = self._talk or self._started()
        assert talk.stdin is not None and talk.stdout is not None
        patience = threading.Timer(_ANSWER_SECONDS, talk.kill)
        patience.start()
        try:
            with suppress(BrokenPipeError):  # the script ended before it was asked; its status says why
                talk.stdin.write(json.dumps(question).encode() + b"\n")
                talk.stdin.flush()
            for line in talk.stdout:
                if line.startswith(bench.MARK.encode()):
                    answer: dict[str, Any] = json.loads(line[len(bench.MARK) :])
                    return answer
            raise self._ended(talk.wait())
        except OSError as e:
            raise LostError(one_line(e)) from e
        except ValueError as e:
            raise LostError("half an answer came") from e
        finally:
            patience.cancel()

    def _ended(self, status: int) -> LostError | BoardError:
        """Why the script ended before it answered."""
        words = last_line(self._errors.read_text(errors="replace")) or f"the script ended with status {status}"
        if status == _NO_PYTHON:
            return BoardError(f"{self.name} has no such Python ({words}): install python3, or name it by ?python=PATH")
        return LostError(words)

    def _started(self) -> subprocess.Popen[bytes]:
        self._transport.prepare()
        script = Path(bench.__file__)
        self._transport.send(script)
        with self._errors.open("wb") as errors:
            talk = self._transport.start(script.name, errors)
        self._connected = True
        return talk

    def _send(self, name: str, count: int) -> None:
        if count > _UNSENT:
            raise BoardError(f"{self.name}: a file arrived damaged {count - 1} times: is there room on the board?")
        self._transport.send(Path(self._files.name) / name)

    def _understood(self, said: dict[str, Any]) -> Any:
        if "needs" in said:
            raise BoardError(
                f"{self.name}: {said['python']} has no {said['needs']}: install it there (pip install numpy "
                "onnxruntime), or name a Python that has it by ?python=PATH"
            )
        if "error" in said:
            raise ModelError(f"{self.name}: {one_line(said['error'])}")
        return said["ok"]
