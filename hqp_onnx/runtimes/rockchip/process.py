"""The toolkit's process, seen from here: started, asked, ended. Whatever else ends it is one error."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from typing import IO, Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.rockchip import script
from hqp_onnx.runtimes.rockchip.install import require

_SECONDS = 1800.0  # of a build
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_SAID = re.compile(r"^E (?:RKNN: \[[\d:.]+\] )?(?:\w+: )?(?P<words>.*\w.*)$")
_RAISED = re.compile(r"^\w*(?:Error|Exception): (?P<words>.*\w.*)$")


class Simulator:
    """A model that the toolkit has built for a chip, in a process of its own.

    Args:
        model: serialised ONNX, all of whose sizes are stated.
        chip: as "rk3588".
        samples: inputs of the model, by which the toolkit quantizes it; none where it is built as it is.

    Raises:
        ModelError: it refuses the model, crashes or does not end.
        MissingRuntimeError: it is not installed.
    """

    def __init__(self, model: bytes, chip: str, samples: Sequence[Sequence[Array]] = ()) -> None:
        python = require()
        self._chip = chip
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        (self._folder / script.MODEL).write_bytes(model)
        if samples:
            self._write(samples)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-I", str(Path(script.__file__).resolve()), str(self._folder), chip],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder,  # where it leaves files of its own
                env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            )
        self.close = weakref.finalize(self, _end, self._process, self._temporary)
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    @property
    def content(self) -> bytes:
        """Of the .rknn file."""
        return (self._folder / script.BUILT).read_bytes()

    @property
    def log(self) -> str:
        """All that was said so far."""
        return _COLOURS.sub("", self._log.read_text(errors="replace"))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs in the model's order; ``ModelError`` where it fails."""
        named: dict[str, Any] = {str(number): x for number, x in enumerate(inputs)}
        np.savez(self._folder / script.INPUTS, **named)
        count = self._answer(b"run\n")["count"]
        with np.load(self._folder / script.OUTPUTS) as stored:
            return [stored[str(number)] for number in range(count)]

    def _write(self, samples: Sequence[Sequence[Array]]) -> None:
        """A file for each input, and a line for each run."""
        lines = []
        for number, inputs in enumerate(samples):
            names = [f"sample{number}_{place}.npy" for place in range(len(inputs))]
            for name, x in zip(names, inputs, strict=True):
                np.save(self._folder / name, x)
            lines.append(" ".join(names))
        (self._folder / script.SAMPLES).write_text("\n".join(lines) + "\n")

    @property
    def _log(self) -> Path:
        return self._folder / "log.txt"

    def _answer(self, question: bytes = b"") -> dict[str, Any]:
        timer = Timer(_SECONDS, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            found = _asked(self._process.stdin, self._process.stdout, question)
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if late:
            raise ModelError(f"rknn-toolkit2 did not end within {_SECONDS:g} seconds for {self._chip}")
        if found is None:
            raise ModelError(self._ended())
        if "error" in found:
            raise ModelError(f"rknn-toolkit2 cannot take the model for {self._chip}: {self._reason(found['error'])}")
        return found

    def _ended(self) -> str:
        code = self._process.wait()
        how = f"crashed, signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"rknn-toolkit2 {how}, on this model for {self._chip}: {self._reason('it gave no reason')}"

    def _reason(self, raised: str) -> str:
        """What it was that it first complained of, or else what was raised in the end."""
        lines = self.log.splitlines()
        found = [match["words"] for line in lines if (match := _RAISED.match(line))]
        found += [match["words"] for line in lines if (match := _SAID.match(line)) and "Traceback" not in line]
        return (found[0] if found else raised).strip()[:300]


def _asked(stdin: IO[bytes] | None, stdout: IO[bytes] | None, question: bytes) -> dict[str, Any] | None:
    """The answer; None where the process has ended."""
    assert stdin is not None and stdout is not None
    try:
        stdin.write(question)
        stdin.flush()
        line = stdout.readline()
    except OSError:
        return None
    found: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
    return found


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    folder.cleanup()
