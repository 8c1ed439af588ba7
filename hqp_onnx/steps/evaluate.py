"""``hqp evaluate``: the metric of any runnable model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hqp_onnx.data.dataset import batch_size
from hqp_onnx.data.reading import Data
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics import Metric, ScoreFunction, Scores, classes, evaluate, load_metric, predictions
from hqp_onnx.model import ModelSource, name_of, open_session
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.session import try_run


def evaluate_model(
    model: ModelSource,
    data: Data,
    metric: str | Metric | ScoreFunction,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
    reference: ModelSource | None = None,
    target_name: str = "onnxruntime",
) -> Scores:
    """Scores of any runnable model, quantized ones included; see ``hqp_onnx.evaluate``."""
    chosen = load_metric(metric)
    session = open_session(model, target_name)
    if chosen.labels == "original" and reference is None:
        raise UsageError(f"{{--metric}} {chosen.name} needs the original model: add {{--reference}}")
    origin = open_session(reference, target_name) if reference is not None else session
    dataset = open_dataset(data, session.inputs, preprocess=preprocess, batch_size=batch_size(session.inputs))
    for source, opened in ((model, session), (reference, origin)):
        if source is not None:
            try_run(opened, dataset.rows(0, 1).feeds, name_of(source))
    if chosen.labels == "data":
        dataset.check_labels(classes(session.outputs))
    if chosen.labels == "original":
        dataset = dataset.labeled_with(predictions(origin, dataset))
    return evaluate(session, dataset, chosen, progress=partial(progress, "evaluation"))
