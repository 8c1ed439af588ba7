"""``hqp evaluate``: the metric of any runnable model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from hqp_onnx.data.batch import LABELS, no_class_numbers
from hqp_onnx.data.dataset import Dataset, batch_size
from hqp_onnx.data.reading import Data
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.evaluation.metrics import Metric, References, ScoreFunction, Scores, evaluate, load_metric
from hqp_onnx.evaluation.metrics.choice import Choice, choose
from hqp_onnx.evaluation.suspicion import suspicions
from hqp_onnx.evaluation.suspicious_inputs import suspicious_inputs
from hqp_onnx.model import ModelSource, ends_of_source, judged_data, name_of, open_session
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.same_inputs import require_same_inputs
from hqp_onnx.runtimes.session import Runner, try_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The metric that was taken, the scores by it, and what looks wrong."""

    choice: Choice
    scores: Scores
    warnings: tuple[str, ...] = ()


def evaluate_model(
    model: ModelSource,
    data: Data,
    metric: str | Metric | ScoreFunction | None,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
    reference: ModelSource | None = None,
    target_name: str = "onnxruntime",
    metric_output: str = "",
    announced: bool = True,
) -> Evaluation:
    """A judged model, quantized ones included; see ``hqp_onnx.evaluate``. The metric is logged where ``announced``."""
    if metric is not None and reference is None:
        _require_none(load_metric(metric))
    session = open_session(model, target_name)
    origin = open_session(reference, target_name) if reference is not None else session
    if reference is not None:
        require_same_inputs(name_of(reference), origin, name_of(model), session)
    size = min(batch_size(each.inputs) for each in (session, origin))
    dataset = open_dataset(data, session.inputs, preprocess=preprocess, batch_size=size, original=origin)
    for source, opened in ((model, session), (reference, origin)):
        if source is not None:
            try_run(opened, dataset.rows(0, 1).feeds, name_of(source))
    choice = choose(metric, origin, dataset, metric_output, ends_of_source(model if reference is None else reference))
    if reference is None:
        _require_targets(choice, dataset)
    if announced:
        log.info("%s", choice.words)
    dataset = judged_data(origin, dataset, choice.metric)
    references = References(origin, dataset.source.name) if choice.metric.labels == "outputs" else None
    report = partial(progress, "evaluation")
    scores = evaluate(session, dataset, choice.metric, progress=report, references=references)
    if not scores.nonfinite and not math.isfinite(scores.metric):
        raise DataError(f"{dataset.source.name}: {choice.metric.name} has no value: the data lack what it counts")
    if reference is not None:
        return Evaluation(choice, scores)
    found = (*suspicions(session, dataset, choice.metric, scores), *_of_inputs(model, session, dataset))
    return Evaluation(choice, scores, found)


def _of_inputs(model: ModelSource, session: Runner, data: Dataset) -> Iterator[str]:
    if isinstance(model, onnx.ModelProto):
        return suspicious_inputs(model, session, data)
    readable = Path(model).suffix == ".onnx"
    return suspicious_inputs(onnx.load(model) if readable else None, session, data)


def _require_targets(choice: Choice, data: Dataset) -> None:
    """Raise ``UsageError`` where the metric needs the original; where it was not asked for, say why it was taken."""
    if choice.why and not data.targets and choice.metric.labels in ("original", "outputs"):
        what = "no targets. Add an array 'labels', or {--targets}, or the original as {--reference}"
        raise UsageError(f"{data.source.name}: {what}")
    if choice.why and LABELS in data.targets and data.labels is None and not choice.instead:
        raise UsageError(f"{data.source.name}: {no_class_numbers(data.rows(0, 1))}, or the original as {{--reference}}")
    _require_none(choice.metric, choice.instead)


def _require_none(metric: Metric, instead: str = "") -> None:
    """Raise ``UsageError`` where the metric needs the original, which was not given."""
    if metric.labels in ("original", "outputs"):
        raise UsageError(
            f"{{--metric}} {metric.name} needs the original model: add {{--reference}}, or a {{--metric}} of targets"
            f"{f', as {instead}' if instead else ''}"
        )
