"""Which metric judges a model on data: the one asked for, checked; else the one that needs no explanation.

    class numbers, and an output [samples, classes]     top1
    anything else                                       fidelity: how near all outputs stay to the original's

A metric that says nothing of an output is refused with the name of one that does: ``agreement`` takes the argmax of a
row, which of a value, an embedding or independent tags is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric, ScoreFunction, load_metric
from hqp_onnx.evaluation.metrics.neighbours import OF_ORIGINAL
from hqp_onnx.evaluation.metrics.outputs import judged, logits_of, require_rows
from hqp_onnx.evaluation.metrics.running import classes
from hqp_onnx.evaluation.metrics.sample_axis import BySample
from hqp_onnx.evaluation.metrics.task import Task, task_of, task_of_targets
from hqp_onnx.runtimes.session import Runner

_UNIT = 1e-3  # by which the length of a unit vector may differ from 1
_OF_ALL = ("map", "map50", "fidelity")
_OF_KIND = {"classes": "miou, f1 or token-accuracy", "decisions": "f1", "values": "rmse, mae or r2", "any": ""}


@dataclass(frozen=True)
class Choice:
    """A metric that fits, what it says of the output, why it was taken, and what would judge targets, in words."""

    metric: Metric
    task: Task
    why: str = ""
    instead: str = ""

    @property
    def words(self) -> str:
        """As "metric top1 (class numbers, and output 'y' has 10 classes)"."""
        of = f" of output '{self.metric.output}'" if self.metric.output else ""
        return f"metric {self.metric.name}{of}{f' ({self.why})' if self.why else ''}"


def choose(
    asked: str | Metric | ScoreFunction | None,
    session: Runner,
    data: Dataset,
    output: str = "",
    ends: Mapping[str, str] | None = None,
    reference: bool = True,
) -> Choice:
    """The metric for a model on data.

    Args:
        asked: see ``load_metric``; None chooses.
        session: the original.
        data: to be judged on.
        output: the one to judge; "" for the first, or all.
        ends: the operators that outputs end in, as far as they are known.
        reference: whether the original's outputs can be had.

    Raises:
        ModelError: the metric says nothing of the output.
        DataError: the targets do not fit the metric.
        UsageError: no such metric or output.
    """
    if output and output not in (known := [spec.name for spec in session.outputs]):
        raise UsageError(f"{{--metric_output}} {output}: no such output, there are {', '.join(known)}")
    batch = next(iter(data))
    outputs = BySample(session).run(batch.feeds)
    metric, why = _default(outputs, data, output) if asked is None else (load_metric(asked), "")
    if metric.labels == "outputs" and metric.name in METRICS.own:
        require_rows(outputs, len(batch))
    metric = metric.of_output(output) if output else metric
    metric = _of_original(metric, data) if reference else metric
    if METRICS.find(metric.name) is not None and metric.name in METRICS.own:
        try:
            _try(metric, outputs, batch, data.source.name, ends or {})
        except (DataError, ModelError) as e:
            others = ", ".join(list(outputs)[1:])
            if output or not others or metric.name in _OF_ALL:
                raise
            raise type(e)(f"{e.template}. The other outputs are {others}: {{--metric_output}} judges them") from e
    return Choice(metric, task_of(metric, outputs, batch.targets), why, judging(metric.ordered(outputs), batch.targets))


def prepared(metric: Metric, session: Runner, data: Dataset, answers: Array | None = None) -> Dataset:
    """``data`` with the labels that a metric needs: those of the data, checked, or the original's ``answers``.

    Raises:
        DataError: there are none, or they are no classes.
    """
    if metric.labels == "data":
        data.check_labels(classes(session.outputs, metric.output))
    return data if answers is None else data.labeled_with(np.asarray(answers, np.int64))


def judging(outputs: Mapping[str, Array], targets: Mapping[str, Array]) -> str:
    """Metrics that may hold an output to what there is, in words; "" if none is known to."""
    if "boxes" in targets:
        return "map"
    return _OF_KIND[task_of_targets(outputs, targets).kind]


def _default(outputs: Mapping[str, Array], data: Dataset, output: str) -> tuple[Metric, str]:
    name = output or next(iter(outputs))
    if (width := _classes(outputs[name])) is not None and data.labels is not None:
        return load_metric("top1"), f"the data have class numbers, and output '{name}' {width} classes"
    fidelity = load_metric("fidelity")
    if not data.targets:
        return fidelity, "the data have no targets: outputs are held to the original's"
    targets = ", ".join(f"'{target}'" for target in data.targets)
    words = judging({name: outputs[name]}, next(iter(data)).targets)
    named = f"--metric names what judges them{f', as {words}' if words else ''}"
    return fidelity, f"outputs are held to the original's, and the targets {targets} are not used: {named}"


def _classes(values: Array) -> int | None:
    """Of an output [samples, classes], else None."""
    try:
        logits = logits_of({"": values})
    except ModelError:
        return None
    return logits.shape[1] if logits.dtype.kind == "f" else None


def _of_original(metric: Metric, data: Dataset) -> Metric:
    """Metrics of values and embeddings are held to the original's outputs where there are no targets."""
    if data.targets or metric.name not in ("cosine", "recall@1"):
        return metric
    return (
        replace(OF_ORIGINAL, output=metric.output) if metric.name == "recall@1" else replace(metric, labels="outputs")
    )


def _try(metric: Metric, outputs: Mapping[str, Array], batch: Batch, where: str, ends: Mapping[str, str]) -> None:
    """Judge the first batch, so that what does not fit is said before any work."""
    if metric.labels == "original":
        _require_answers(metric, metric.ordered(outputs), ends)
        _require_classes(metric, metric.ordered(outputs), batch.targets)
    elif metric.labels == "data":
        logits_of(metric.ordered(outputs))
    elif metric.labels == "targets" and not batch.targets:
        boxes = "arrays 'boxes' and 'classes', or {--targets} FILE.json"
        needed = boxes if metric.name.startswith("map") else "an array 'labels'"
        raise DataError(
            f"{where}: no targets, and {{--metric}} {metric.name} needs them: add {needed}, or use {{--metric}} "
            "fidelity, which needs none"
        )
    elif metric.labels == "targets":
        try:
            metric.tally(len(batch)).add(outputs, batch)
        except DataError as e:
            raise DataError(f"{where}: {{--metric}} {metric.name}: {e.template}") from e


def _require_classes(metric: Metric, outputs: Mapping[str, Array], targets: Mapping[str, Array]) -> None:
    """Raise ``ModelError`` where the targets say that an output holds values, or decisions of their own."""
    task = task_of_targets(outputs, targets)
    if task.kind in ("values", "decisions"):
        raise ModelError(
            f"the target '{task.target}' holds a number for each of output '{task.output}': {metric.name} would "
            f"compare only the largest. Use {{--metric}} {_OF_KIND[task.kind]}"
        )


def _require_answers(metric: Metric, outputs: Mapping[str, Array], ends: Mapping[str, str]) -> None:
    """Raise ``ModelError`` where the largest value of a row is no answer."""
    name, values = judged(outputs)
    logits = logits_of(outputs)
    of = f"output '{name}' {list(values.shape)}"
    if ends.get(name) == "Sigmoid":
        raise ModelError(
            f"{of} ends in Sigmoid: its values are decisions of their own, and {metric.name} would compare only the "
            "largest. Use {--metric} fidelity, or f1 where there are targets"
        )
    lengths = np.linalg.norm(logits.astype(np.float64), axis=1)
    if np.abs(lengths - 1).max(initial=0) < _UNIT and (logits < 0).any():
        raise ModelError(
            f"{of} holds vectors of length 1: an embedding has no classes, so {metric.name} says nothing of it. Use "
            "{--metric} recall@1, cosine or fidelity"
        )
