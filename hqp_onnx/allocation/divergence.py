"""How far a pruned model's outputs are from the original's, on calibration samples that its refit has not seen.

    classes         mean over positions of KL(p || q),  p, q = softmax of the original's and the pruned model's logits
    decisions       mean over samples of the sum of KL(p || q) of each decision,  p, q = sigmoid of the logits
    anything else   mean over outputs of sum |y - y'|^2 / sum |y - mean of y|^2

What an output says follows from the metric (``Task``). Logits may also be probabilities. Of other models, outputs that
are tensors of floats count; one that has another shape than the original's tells as little as its mean. Outputs that
are not finite are infinitely far. Where there are only integers, as of a model that ends in ArgMax, it is the share of
those that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx
from scipy.special import expit

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.runtimes.session import work_session

_LEAST = np.finfo(np.float64).tiny
_MOST_BYTES = 1 << 28

Build = Callable[[PruningPlan], onnx.ModelProto]
"""The pruned model of a plan, refitted on other samples."""


class Divergence:
    """Divergence of plans, each measured once.

    Args:
        original: the model to stay close to.
        build: see ``Build``.
        batches: samples.
        task: what the judged output says.
        threads: of onnxruntime.

    Raises:
        ModelError: onnxruntime cannot run the original.
    """

    def __init__(
        self, original: onnx.ModelProto, build: Build, batches: Sequence[Batch], task: Task, threads: int = 0
    ) -> None:
        self._original, self._build, self._batches = original, build, batches
        self._task, self._threads = task, threads
        self._known: dict[bytes, float] = {}

    @cached_property
    def _wanted(self) -> list[dict[str, Array]]:
        """Of the original, for as many batches as ``_MOST_BYTES`` hold; others are not looked at."""
        return list(_within(self._run(self._original, self._batches), _MOST_BYTES))

    def __call__(self, plan: PruningPlan) -> float:
        """0 for what equals the original."""
        key = plan.removed.tobytes()
        if key not in self._known:
            self._known[key] = self._measured(self._build(plan)) if len(plan) else 0.0
        return self._known[key]

    def _measured(self, model: onnx.ModelProto) -> float:
        wanted = self._wanted
        found, integers = list(self._run(model, self._batches[: len(wanted)])), all(map(_whole, wanted[0].values()))
        discrete = self._task.kind in ("classes", "decisions") and wanted[0]
        measure = self._of_integers if integers else self._of_classes if discrete else self._of_values
        value = measure(found)
        return value if np.isfinite(value) else np.inf

    def _run(self, model: onnx.ModelProto, batches: Sequence[Batch]) -> Iterator[dict[str, Array]]:
        """What counts of the outputs, by batch."""
        session = work_session(model, threads=self._threads)
        return (_counted(session.run(batch.feeds)) for batch in batches)

    def _of_classes(self, found: Sequence[Mapping[str, Array]]) -> float:
        name, total, rows = self._task.output or next(iter(self._wanted[0])), 0.0, 0
        for x, y in zip(self._wanted, found, strict=True):
            log_p, log_q = (_log_probabilities(values[name], self._task) for values in (x, y))
            total += float(np.sum(np.exp(log_p) * (log_p - log_q)))
            rows += len(log_p) if self._task.kind == "classes" else len(x[name])
        return max(total, 0.0) / rows

    def _of_values(self, found: Sequence[Mapping[str, Array]]) -> float:
        shares = []
        for name in self._wanted[0]:
            wanted, others = ([batch[name] for batch in batches] for batches in (self._wanted, found))
            mean = sum(float(y.sum()) for y in wanted) / max(sum(y.size for y in wanted), 1)
            spreads = [float(np.square(y - mean).sum()) for y in wanted]
            pairs = zip(wanted, others, spreads, strict=True)
            error = sum(float(np.square(x - y).sum()) if x.shape == y.shape else spread for x, y, spread in pairs)
            shares.append(error / max(sum(spreads), _LEAST))
        return float(np.mean(shares)) if shares else 0.0

    def _of_integers(self, found: Sequence[Mapping[str, Array]]) -> float:
        pairs = [(x[name], y[name]) for x, y in zip(self._wanted, found, strict=True) for name in x]
        shares = [float((x != y).mean()) if x.shape == y.shape else 1.0 for x, y in pairs if x.size]
        return float(np.mean(shares)) if shares else 0.0


def _within(batches: Iterator[dict[str, Array]], most: int) -> Iterator[dict[str, Array]]:
    """The first of them, up to one that is above ``most`` bytes in all."""
    size = 0
    for batch in batches:
        yield batch
        size += sum(values.nbytes for values in batch.values())
        if size > most:
            return


def _whole(values: Array) -> bool:
    return values.dtype.kind != "f"


def _counted(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that are floats, as float64; or those that are integers."""
    arrays = {name: np.atleast_1d(y) for name, y in outputs.items() if isinstance(y, (np.ndarray, np.generic))}
    floats = {name: y for name, y in arrays.items() if y.dtype.kind == "f"}
    if not floats:
        return {name: y for name, y in arrays.items() if y.dtype.kind in "iub"}
    return {name: y.astype(np.float64) for name, y in floats.items()}


def _log_probabilities(values: FloatArray, task: Task) -> FloatArray:
    """Of logits, or of probabilities, as float64 [positions, classes]."""
    if task.kind == "decisions":
        shares = values if values.min(initial=0) >= 0 and values.max(initial=0) <= 1 else expit(values)
        rows = np.stack([shares.ravel(), 1 - shares.ravel()], 1)
    elif task.axis is None:
        rows = values.reshape(len(values), -1)
    else:
        rows = np.moveaxis(values, task.axis, -1).reshape(-1, values.shape[task.axis])
    if (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(rows, 1e-12)))
    shifted = rows - rows.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
