"""The worker process (``ort_worker``), seen from here: started, asked, ended. Whatever else ends it is one error."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hqp_onnx.arrays import Array
from hqp_onnx.errors import GradientError, one_line
from hqp_onnx.gradients.training import worker as ort_worker
from hqp_onnx.gradients.training.worker import Message

__all__ = ["Worker"]


class Worker:
    """A process that runs ``ort_worker`` with the training build in ``folder``; a context manager that ends it.

    Raises:
        GradientError: the process refuses the model, or ends before it answers.
    """

    def __init__(self, folder: Path, setup: Mapping[str, Array]) -> None:
        root = Path(__file__).resolve().parents[2]
        paths = [str(folder), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", ort_worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            self.ask(setup)
        except BaseException:
            self.close()
            raise

    def ask(self, message: Mapping[str, Array]) -> Message:
        """Send a message and wait for the answer."""
        assert self._process.stdin and self._process.stdout
        try:
            ort_worker.send(self._process.stdin, message)
            answer = ort_worker.receive(self._process.stdout)
        except (OSError, EOFError) as e:
            raise self._ended() from e
        if answer is None:
            raise self._ended()
        if "error" in answer:
            raise GradientError(_reason(str(answer["error"])))
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._log.close()
        with contextlib.suppress(BrokenPipeError):  # what was left to be written to the process
            self._process.__exit__(None, None, None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self) -> GradientError:
        code = self._process.wait()
        self._log.seek(0)
        lines = [
            line for line in self._log.read().decode(errors="replace").splitlines() if "[I:onnxruntime" not in line
        ]
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        said = f" ({lines[-1].strip()})" if lines else ""
        return GradientError(
            f"the onnxruntime-training worker ended {how}{said}: out of memory, or a broken installation. "
            "Use {--engine} native, or install it anew with `hqp setup training`"
        )


def _reason(error: str) -> str:
    """One line about what onnxruntime-training said."""
    missing = re.search(r"has not been registered: (\w+) for node *(\S*)", error)
    kernel = re.search(r"implementation for (\w+?)Grad\(\d+\) node with name '([^']*?)_Grad", error)
    if match := missing or kernel:
        op, name = match.groups()
        return f"{op} node '{name}' has no gradient in onnxruntime-training: use {{--engine}} native"
    return f"onnxruntime-training cannot differentiate the model: {one_line(error)[:300]}. Use {{--engine}} native"
