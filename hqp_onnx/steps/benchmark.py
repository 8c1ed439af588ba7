"""``hqp benchmark``: the latency of models, timed in turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import onnx

from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.latency import Latency, measure
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.model import ModelSource, open_session
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.session import try_run
from hqp_onnx.runtimes.targets import Target


def benchmark_models(
    models: Sequence[ModelSource],
    batch: int,
    threads: int = 0,
    target: str | Target = "onnxruntime",
    progress: Progress = silent,
) -> dict[str, Latency]:
    """Latency of models run in turn on the same seeded input; see ``hqp_onnx.benchmark``."""
    if isinstance(models, (str, Path, onnx.ModelProto)):
        models = [models]
    models = list(models)
    if not models:
        raise UsageError("no models: give one or more")
    if batch < 1:
        raise UsageError(f"{{--batch}} {batch}: expected 1 or more")
    names = [f"<model {n}>" if isinstance(m, onnx.ModelProto) else str(m) for n, m in enumerate(models, 1)]
    sessions = {name: open_session(m, target, threads) for name, m in zip(names, models, strict=True)}
    first = models[0] if isinstance(models[0], onnx.ModelProto) else onnx.load(models[0])
    feeds = example_feeds(model_io.to_graph(first), leading=sessions[names[0]].batch or batch)
    for name, session in sessions.items():
        try_run(session, feeds, name)
    return measure(sessions, feeds, progress=partial(progress, "latency"))
