"""Quality of a model on data, sample by sample: top-1, top-5, agreement with the original, or a user's function.

A metric gives every sample a score in 0..1; the model's metric is their mean. Scores are kept per sample, so
two models on the same data can be compared in pairs, and an evaluation can stop as soon as no remaining sample can
change its verdict. A sample whose outputs hold NaN or infinities scores 0 under every metric,
which never sees it.

Anything that is named is a ``Metric`` or a function of (outputs by name, labels or None), which returns scores [n]:
an entry point of the group ``hqp_onnx.metrics``, or ``FILE.py:name``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from hqp_onnx.arrays import Array, FloatArray, IntArray, read_only, real_numbers
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.nonfinite import NONE, NonFinite, chosen_samples, finite_samples
from hqp_onnx.progress import StageProgress
from hqp_onnx.registry import Registry, outside_code
from hqp_onnx.runtimes.session import Runner, TensorSpec

ScoreFunction = Callable[[Mapping[str, Array], IntArray | None], FloatArray]


@dataclass(frozen=True)
class Scores:
    """Scores of the samples seen, float64 [seen], out of ``samples``; fewer were seen if the verdict was certain.

    ``nonfinite`` are those among them that scored nothing since their outputs are not finite.
    """

    values: FloatArray
    samples: int
    nonfinite: NonFinite = NONE

    @property
    def complete(self) -> bool:
        """Whether every sample was seen."""
        return len(self.values) == self.samples

    @property
    def metric(self) -> float:
        """Mean score; an upper bound of it (unseen samples count 1) where the evaluation stopped early."""
        return float((self.values.sum() + self.samples - len(self.values)) / self.samples)


@dataclass(frozen=True)
class Metric:
    """A named score function; ``labels`` says where labels come from: ``data``, ``original`` or ``any``."""

    name: str
    function: ScoreFunction
    labels: Literal["data", "original", "any"] = "data"

    def scores(self, outputs: Mapping[str, Array], batch: Batch) -> Scores:
        """Scores of one batch.

        Raises:
            UsageError: the function fails, or does not return one score in 0..1 per sample.
        """
        finite, nonfinite = finite_samples(outputs, len(batch))
        values = np.zeros(len(batch))
        if finite.all():
            values[:] = self._checked(outputs, batch.labels, len(batch))
        elif finite.any():
            labels = None if batch.labels is None else batch.labels[finite]
            values[finite] = self._checked(chosen_samples(outputs, finite), labels, int(finite.sum()))
        return Scores(values, len(batch), nonfinite)

    def _checked(self, outputs: Mapping[str, Array], labels: IntArray | None, count: int) -> FloatArray:
        shown = {
            name: read_only(values) if isinstance(values, np.ndarray) else values for name, values in outputs.items()
        }
        with outside_code(f"metric '{self.name}' failed"):
            scores = real_numbers(self.function(shown, labels))
        if scores.shape != (count,) or not ((scores >= 0) & (scores <= 1)).all():
            raise UsageError(f"metric '{self.name}' must return one score in 0..1 per sample of the batch")
        return scores


def _is_metric(candidate: Any) -> bool:
    return callable(candidate) or isinstance(candidate, Metric)


METRICS: Registry[Metric | ScoreFunction] = Registry("metric", "hqp_onnx.metrics", _is_metric)


def load_metric(metric: str | Metric | ScoreFunction) -> Metric:
    """A metric by its name in ``METRICS`` or ``FILE.py:name``, or of a function.

    Raises:
        UsageError: an unknown name.
    """
    entry = METRICS.get(metric) if isinstance(metric, str) else metric
    if isinstance(entry, Metric):
        return entry
    return Metric(metric if isinstance(metric, str) else getattr(entry, "__name__", "of a function"), entry, "any")


def evaluate(
    session: Runner, data: Dataset, metric: Metric, required: float = 0.0, progress: StageProgress | None = None
) -> Scores:
    """Scores of a model on ``data``, stopping once their sum can no longer reach ``required``."""
    total, seen, values, nonfinite = 0.0, 0, [], NONE
    for batch in data:
        scores = metric.scores(session.run(batch.feeds), batch)
        values.append(scores.values)
        nonfinite += scores.nonfinite
        total, seen = total + scores.values.sum(), seen + len(batch)
        if progress is not None:
            progress(seen, len(data))
        if total + len(data) - seen < required:
            break
    return Scores(np.concatenate(values), len(data), nonfinite)


def predictions(session: Runner, data: Dataset) -> IntArray:
    """The model's top-1 answers, int64 [samples].

    Raises:
        ModelError: some outputs are not finite.
    """
    answers, nonfinite = [], NONE
    for batch in data:
        outputs = session.run(batch.feeds)
        nonfinite += finite_samples(outputs, len(batch))[1]
        answers.append(_logits(outputs).argmax(1))
    require_finite(nonfinite, len(data))
    return np.concatenate(answers)


def require_finite(nonfinite: NonFinite, samples: int) -> None:
    """Raise ``ModelError`` where outputs of the model that others are held against are not finite."""
    if nonfinite:
        raise ModelError(
            f"the original model gives no answer everywhere: {nonfinite.words(samples)}. Mend it, or leave these "
            "samples out"
        )


def classes(outputs: tuple[TensorSpec, ...]) -> int | None:
    """Number of classes of a classifier's first output, [N, C] or [N, C, 1, 1]; None where it is dynamic."""
    if not outputs or not outputs[0].shape:
        return None
    several = [size for size in outputs[0].shape[1:] if size != 1]
    return several[0] if len(several) == 1 else outputs[0].shape[-1]


def _top(count: int, outputs: Mapping[str, Array], labels: IntArray | None) -> FloatArray:
    logits = _logits(outputs)
    assert labels is not None  # Dataset.check_labels has been called
    rows = np.arange(len(labels))
    above = (logits > logits[rows, labels][:, None]).sum(1)
    ties_before = (logits == logits[rows, labels][:, None]) & (np.arange(logits.shape[1]) < labels[:, None])
    hits: FloatArray = (above + ties_before.sum(1) < count).astype(np.float64)
    return hits


METRICS.register("top1")(Metric("top1", partial(_top, 1)))
METRICS.register("top5")(Metric("top5", partial(_top, 5)))
METRICS.register("agreement")(Metric("agreement", partial(_top, 1), "original"))


def _logits(outputs: Mapping[str, Array]) -> Array:
    name, logits = next(iter(outputs.items()))
    if not isinstance(logits, np.ndarray):
        raise ModelError(
            f"output '{name}' is no tensor, top1, top5 and agreement need one of [samples, classes]: give a metric of "
            "your own, FILE.py:function"
        )
    logits = logits.reshape(len(logits), -1) if logits.ndim > 2 and logits[0].size == max(logits.shape[1:]) else logits
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ModelError(
            f"output '{name}' has shape {list(logits.shape)}, top1, top5 and agreement need [samples, classes], "
            "two or more: give a metric of your own, FILE.py:function"
        )
    return np.asarray(logits)
