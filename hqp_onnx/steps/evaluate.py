"""``hqp evaluate``: the metric of any runnable model."""

from __future__ import annotations

from pathlib import Path

from hqp_onnx.data.dataset import batch_size
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import ArgumentError, ModelError
from hqp_onnx.evaluation.metrics import Scores, classes, evaluate, load_metric, predictions
from hqp_onnx.graphs import model_io
from hqp_onnx.progress import Progress
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import target


def evaluate_file(
    path: Path,
    data: str,
    metric_name: str,
    preprocess: Path | None,
    progress: Progress,
    reference: Path | None = None,
    target_name: str = "onnxruntime",
) -> Scores:
    """Scores of any runnable model, quantized ones included; ``agreement`` compares with ``reference``."""
    metric = load_metric(metric_name)
    session = open_session(path, target_name)
    if metric.labels == "original" and reference is None:
        raise ArgumentError(f"{{metric}} {metric.name} needs the original model: add {{reference}}")
    origin = open_session(reference, target_name) if reference is not None else session
    dataset = open_dataset(data, session.inputs, preprocess=preprocess, batch_size=batch_size(session.inputs))
    if metric.labels == "data":
        dataset.check_labels(classes(session.outputs))
    if metric.labels == "original":
        dataset = dataset.labeled_with(predictions(origin, dataset))
    return evaluate(session, dataset, metric, progress=lambda done, total: progress("evaluation", done, total))


def open_session(path: Path, target_name: str = "onnxruntime", threads: int = 0) -> Runner:
    """A session on a model file, quantized or not."""
    goal = target(target_name)
    model_io.require_file(path)
    try:
        return open_runner(path, goal, threads=threads)
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from e
