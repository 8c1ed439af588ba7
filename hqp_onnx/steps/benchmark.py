"""``hqp benchmark``: the latency of models, timed in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.latency import Latency, measure
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.progress import Progress, silent
from hqp_onnx.steps.evaluate import open_session


def benchmark(
    paths: Sequence[Path],
    batch: int,
    threads: int = 0,
    target_name: str = "onnxruntime",
    progress: Progress = silent,
) -> dict[str, Latency]:
    """Median latency of models run in turn on the same seeded input; keys are the paths."""
    if batch < 1:
        raise UsageError(f"--batch {batch}: expected 1 or more")
    sessions = {str(path): open_session(path, target_name, threads) for path in paths}
    first = next(iter(sessions.values()))
    feeds = example_feeds(model_io.to_graph(onnx.load(paths[0])), leading=first.batch or batch)
    return measure(sessions, feeds, progress=lambda done, total: progress("latency", done, total))
