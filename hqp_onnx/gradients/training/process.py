"""The worker process (``ort_worker``), seen from here: started, asked, ended. Whatever else ends it is one error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hqp_onnx.arrays import Array
from hqp_onnx.errors import GradientError, one_line
from hqp_onnx.gradients.training import worker as ort_worker
from hqp_onnx.runtimes.messages import Child, EndedError, Message

__all__ = ["Worker"]


class Worker:
    """A process that runs ``ort_worker`` with the training build in ``folder``; a context manager that ends it.

    Raises:
        GradientError: the process refuses the model, or ends before it answers.
    """

    def __init__(self, folder: Path, setup: Mapping[str, Array]) -> None:
        self._child = Child(ort_worker.__name__, [folder], folder)
        try:
            self.ask(setup)
        except BaseException:
            self.close()
            raise

    def ask(self, message: Mapping[str, Array]) -> Message:
        """Send a message and wait for the answer."""
        try:
            answer = self._child.ask(message)
        except EndedError as e:
            raise GradientError(
                f"the onnxruntime-training worker ended {e}: out of memory, or a broken installation. "
                "Use {--engine} native, or install it anew with `hqp setup training`"
            ) from e
        if "error" in answer:
            raise GradientError(_reason(str(answer["error"])))
        return answer

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reason(error: str) -> str:
    """One line about what onnxruntime-training said."""
    missing = re.search(r"has not been registered: (\w+) for node *(\S*)", error)
    kernel = re.search(r"implementation for (\w+?)Grad\(\d+\) node with name '([^']*?)_Grad", error)
    if match := missing or kernel:
        op, name = match.groups()
        return f"{op} node '{name}' has no gradient in onnxruntime-training: use {{--engine}} native"
    return f"onnxruntime-training cannot differentiate the model: {one_line(error)[:300]}. Use {{--engine}} native"
