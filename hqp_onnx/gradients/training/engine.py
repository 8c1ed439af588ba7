"""Per-sample gradients by onnxruntime-training: the second engine, of which ``PerSample`` is the first.

fisher: the loss of one sample at a time, so dL/dW is that sample's own; then ||dL_i/dW_f||^2.
taylor: dL/dgate for a whole batch at once (``ort_model``), then its square.

A worker process (``ort_worker``) imports onnxruntime-training from its own folder (``ort_install``).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError, GradientError, MissingRuntimeError
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients.filters import weight_uses
from hqp_onnx.gradients.loss import Loss, LossName, classes, logits_of
from hqp_onnx.gradients.per_sample import Kind
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.task_loss import NAMES
from hqp_onnx.gradients.trace import fixed_batch, trace
from hqp_onnx.gradients.training.install import find, install, install_directory
from hqp_onnx.gradients.training.loss_model import loss_model
from hqp_onnx.gradients.training.process import Worker
from hqp_onnx.gradients.training.worker import IGNORED, LABELS
from hqp_onnx.passes.lowering.prepare_for_gradients import prepare_for_gradients
from hqp_onnx.runtimes.messages import Message, part
from hqp_onnx.runtimes.session import Session

__all__ = ["TrainingPerSample", "find", "install", "install_directory"]


_MEMORY = 1 << 28  # bytes of a batch
_LARGEST_BATCH = 64


class TrainingPerSample:
    """Per-sample filter gradients of a classifier, computed by onnxruntime-training; a context manager.

    Args and attributes are those of ``PerSample``.

    Args:
        model: float32, its first output [N, classes]: logits, or their Softmax or LogSoftmax; explicit pads.
        sample: feeds of at least one sample.
        kind: "fisher", ||dL_i/dW_f||^2, or "taylor", <W_f, dL_i/dW_f>^2.
        loss: "cross-entropy" with labels, or "sampled" (also None), with those drawn from the model's distribution.
        threads: of onnxruntime; 0 is its own choice.
        directory: where onnxruntime-training is, if not in ``install_directory()``.

    Attributes:
        filters: number of filters of each weight.
        batch: samples per message to the worker.
        loss: the loss that was taken; its ``rounds`` give what a call needs beside the feeds.

    Raises:
        MissingRuntimeError: onnxruntime-training is not installed.
        GradientError: it cannot differentiate the model, or the worker ends.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("fisher", "taylor")

    def __init__(
        self,
        model: onnx.ModelProto,
        sample: Mapping[str, Array],
        *,
        kind: Kind = "fisher",
        loss: LossName | Task | onnx.ModelProto | None = "cross-entropy",
        threads: int = 0,
        directory: Path | None = None,
    ) -> None:
        folder = find(directory)
        if folder is None:
            raise MissingRuntimeError(
                "onnxruntime-training is not installed: run `hqp setup training`, or use {--engine} native"
            )
        loss = loss or "sampled"
        if loss != "cross-entropy" and loss != "sampled":
            name = loss if isinstance(loss, str) else NAMES[loss.kind] if isinstance(loss, Task) else "of its own"
            raise GradientError(
                f"the loss '{name}' needs {{--engine}} native: ort-training has cross-entropy and sampled, of one row"
            )
        ready = prepare_for_gradients(model)
        tape = Tape(ready, trace(ready, sample, fixed_batch(ready)))
        logits = logits_of(tape)
        self.loss, self._kind = Loss(loss, {}, LABELS, classes(tape, logits)), kind
        self.filters = {u.weight: tape.traced.values[u.weight].shape[u.axis] for u in weight_uses(ready.graph)}
        fixed = fixed_batch(ready)
        self.batch = fixed or max(1, min(_LARGEST_BATCH, _MEMORY // (12 * tape.traced.size)))
        self._rows = self.batch if kind == "taylor" else fixed or 1
        self._session = Session(ready, [logits], threads=threads) if loss == "sampled" else None
        self._model = loss_model(tape, logits, kind, sample, self._rows)
        self._worker = Worker(folder, self._setup(threads)) if self._model.axes else None
        if self._worker is not None:
            weakref.finalize(self, self._worker.close)

    def _setup(self, threads: int) -> Message:
        built = self._model
        gates = [gate for some in built.gates.values() for gate in some]
        return {
            "model": np.frombuffer(built.model.SerializeToString(), np.uint8),
            "wrt": np.array(gates or list(built.axes)),
            "axes": np.array(list(built.axes.values())),
            "samples": np.array(self._kind == "fisher"),
            "rows": np.array(self._rows),
            "threads": np.array(threads),
            **{f"fixed/{name}": value for name, value in built.values.items()},
        }

    def __call__(self, feeds: Mapping[str, Array], targets: Array | None = None) -> dict[str, Array]:
        """Values [n, filters] by weight.

        Args:
            feeds: the model's inputs.
            targets: int64 classes [n]; for the sampled loss float32 numbers in [0, 1) [n].

        Raises:
            DataError: a label is missing, or is not a class.
            GradientError: the worker ends.
        """
        if targets is None:
            raise DataError("no labels: ort-training needs one for every sample")
        labels = targets if self._session is None else _drawn(next(iter(self._session.run(feeds).values())), targets)
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.loss.classes:
            low, high = labels.min(), labels.max()
            raise DataError(f"labels {low} .. {high} are not all classes: expected 0 .. {self.loss.classes - 1}")
        norms = {name: np.zeros((len(labels), count)) for name, count in self.filters.items()}
        for start in range(0, len(labels) if self._worker else 0, self.batch):
            rows = slice(start, start + self.batch)
            part_feeds = {name: x[rows] for name, x in feeds.items()}
            for name, values in self._values(part_feeds, labels[rows].astype(np.int64)).items():
                norms[name][rows] = values
        return norms

    def _values(self, feeds: Mapping[str, Array], labels: NDArray[np.int64]) -> Mapping[str, Array]:
        assert self._worker is not None
        values = part(self._worker.ask(self._request(feeds, labels)), "value/")
        if self._kind == "fisher":
            return values
        return {name: _squares(values, gates, self._rows)[: len(labels)] for name, gates in self._model.gates.items()}

    def _request(self, feeds: Mapping[str, Array], labels: NDArray[np.int64]) -> Message:
        """For taylor, with gates, and filled up to a whole run with rows that are ignored."""
        short = self._rows - len(labels) if self._kind == "taylor" else 0
        rows = {name: np.concatenate([x, np.repeat(x[-1:], short, 0)]) for name, x in feeds.items()}
        for gates in self._model.gates.values():
            rows |= {gate: np.ones(shape, np.float32) for gate, shape in gates.items()}
        message = {f"feed/{name}": value for name, value in rows.items()}
        return {**message, LABELS: np.concatenate([labels, np.full(short, IGNORED)])}

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()

    def __enter__(self) -> TrainingPerSample:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _squares(gradients: Mapping[str, Array], gates: Mapping[str, tuple[int, ...]], rows: int) -> Array:
    """Squares [rows, filters] of the sums over a weight's gates and a sample's rows."""
    sums = [gradients[gate].reshape(rows, -1, max(shape[1:])).sum(1, dtype=np.float64) for gate, shape in gates.items()]
    total: Array = np.square(np.sum(sums, 0))
    return total


def _drawn(logits: Array, uniform: Array) -> NDArray[np.int64]:
    """Label = #{c: P(class <= c) <= u}, as in ``loss``."""
    z = logits.reshape(len(logits), -1)
    p = np.exp(z - z.max(1, keepdims=True))
    cumulative = np.cumsum(p / p.sum(1, keepdims=True), axis=1)
    passed: NDArray[np.int64] = (cumulative <= uniform[:, None]).sum(1)
    return np.minimum(passed, z.shape[1] - 1)
