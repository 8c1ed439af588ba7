"""Quality of a model on data, sample by sample: top-1, top-5, agreement with the original, or a user's function.

A metric gives every sample a score in 0..1; the model's metric is their mean. Scores are kept per sample, so
that two models on the same data can be compared in pairs, and so that an evaluation can stop as soon as no
remaining sample can change its verdict.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hqp_onnx.arrays import Array, FloatArray, IntArray
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import HqpError, ModelError, UsageError
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Runner, TensorSpec

ScoreFunction = Callable[[Mapping[str, Array], IntArray | None], FloatArray]

NAMES = ("top1", "top5", "agreement")


@dataclass(frozen=True)
class Scores:
    """Scores of the samples seen, float64 [seen], out of ``samples``; fewer were seen if the verdict was certain."""

    values: FloatArray
    samples: int

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
    labels: str = "data"


def load_metric(name: str) -> Metric:
    """``top1``, ``top5``, ``agreement`` (top-1 against the original model's own answers) or ``FILE.py:function``.

    A user's function takes (outputs by name, labels or None) and returns scores in 0..1, one per sample.

    Raises:
        UsageError: none of these, or no such function.
    """
    if name == "top1":
        return Metric(name, lambda outputs, labels: _top(1, outputs, labels))
    if name == "top5":
        return Metric(name, lambda outputs, labels: _top(5, outputs, labels))
    if name == "agreement":
        return Metric(name, lambda outputs, labels: _top(1, outputs, labels), "original")
    file, _, function = name.partition(":")
    if not file.endswith(".py") or not function:
        raise UsageError(f"unknown metric '{name}': expected {', '.join(NAMES)} or FILE.py:function")
    return Metric(name, _user_function(Path(file), function), "any")


def evaluate(
    session: Runner, data: Dataset, metric: Metric, required: float = 0.0, progress: StageProgress | None = None
) -> Scores:
    """Scores of a model on ``data``, stopping once their sum can no longer reach ``required``."""
    total, seen, values = 0.0, 0, []
    for batch in data:
        scores = np.asarray(metric.function(session.run(batch.feeds), batch.labels), np.float64)
        if scores.shape != (len(batch),) or not ((scores >= 0) & (scores <= 1)).all():
            raise UsageError(f"metric '{metric.name}' must return one score in 0..1 per sample of the batch")
        values.append(scores)
        total, seen = total + scores.sum(), seen + len(batch)
        if progress is not None:
            progress(seen, len(data))
        if total + len(data) - seen < required:
            break
    return Scores(np.concatenate(values), len(data))


def predictions(session: Runner, data: Dataset) -> IntArray:
    """The model's top-1 answers, int64 [samples]."""
    return np.concatenate([_logits(session.run(batch.feeds)).argmax(1) for batch in data])


def classes(outputs: tuple[TensorSpec, ...]) -> int | None:
    """Number of classes of a classifier's first output; None where it is dynamic."""
    return outputs[0].shape[-1] if outputs and outputs[0].shape else None


def _top(count: int, outputs: Mapping[str, Array], labels: IntArray | None) -> FloatArray:
    logits = _logits(outputs)
    assert labels is not None  # Dataset.check_labels has been called
    rows = np.arange(len(labels))
    above = (logits > logits[rows, labels][:, None]).sum(1)
    ties_before = (logits == logits[rows, labels][:, None]) & (np.arange(logits.shape[1]) < labels[:, None])
    hits: FloatArray = (above + ties_before.sum(1) < count).astype(np.float64)
    return hits


def _logits(outputs: Mapping[str, Array]) -> Array:
    name, logits = next(iter(outputs.items()))
    logits = logits.reshape(len(logits), -1) if logits.ndim > 2 and logits[0].size == max(logits.shape[1:]) else logits
    if logits.ndim != 2:
        raise ModelError(
            f"output '{name}' has shape {list(logits.shape)}, top1, top5 and agreement need [samples, classes]: "
            "give --metric FILE.py:function"
        )
    return np.asarray(logits)


def _user_function(file: Path, name: str) -> ScoreFunction:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"{file}: no such metric file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except HqpError:
        raise
    except Exception as e:  # a user's file may raise anything
        raise UsageError(f"{file}: cannot be imported: {e}") from e
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{file}: no function '{name}'")

    def score(outputs: Mapping[str, Array], labels: IntArray | None) -> FloatArray:
        try:
            scores: FloatArray = np.asarray(function(outputs, labels), np.float64)
        except Exception as e:  # as above
            raise UsageError(f"{file}:{name} failed: {type(e).__name__}: {e}") from e
        return scores

    return score
