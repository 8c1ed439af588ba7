"""``hqp benchmark``: the latency of models, timed in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.boards.board import BoardRunner, OnBoard
from hqp_onnx.counts import counted
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.evaluation.latency import Latency, measure
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.limits import check_threads
from hqp_onnx.model import ModelSource, open_session
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.runners import require_timed
from hqp_onnx.runtimes.same_inputs import require_same_inputs
from hqp_onnx.runtimes.session import Runner, try_run
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.runtimes.targets import target as target_named


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
    require_timed(target if isinstance(target, Target) else target_named(target))
    check_threads(threads, isinstance(target, Target) and isinstance(target.runtime, OnBoard))
    names = [f"<model {n}>" if isinstance(m, onnx.ModelProto) else str(m) for n, m in enumerate(models, 1)]
    sessions = {name: open_session(m, target, threads) for name, m in zip(names, models, strict=True)}
    feeds = _feeds(models[0], sessions[names[0]], batch)
    for name, session in sessions.items():
        _require_feeds(name, session, names[0], sessions[names[0]], batch)
        try_run(session, feeds, name)
    found = measure(sessions, feeds, progress=partial(progress, "latency"))
    return {name: replace(latency, joules=_joules(sessions[name], feeds)) for name, latency in found.items()}


def _require_feeds(name: str, session: Runner, first: str, firsts: Runner, batch: int) -> None:
    """Raise where a model does not take the inputs of the first."""
    require_same_inputs(name, session, first, firsts)
    rows = firsts.batch or batch
    if session.batch is not None and session.batch < rows:
        asked = f"{first} takes {rows}" if firsts.batch else f"{{--batch}} is {rows}"
        raise UsageError(f"{name}: takes {counted(session.batch, 'sample')} a run, but {asked}: give it as {{--batch}}")


def _joules(session: Runner, feeds: dict[str, Array]) -> float | None:
    """Of a sample, on a board that says it."""
    joules = session.energy(feeds) if isinstance(session, BoardRunner) else None
    return None if joules is None else joules / max((len(x) for x in feeds.values() if x.ndim), default=1)


def _feeds(model: ModelSource, session: Runner, batch: int) -> dict[str, Array]:
    """Seeded inputs of a model; a file that is not ONNX states all its sizes."""
    if isinstance(model, onnx.ModelProto) or Path(model).suffix == ".onnx":
        proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
        try:
            return example_feeds(model_io.to_graph(proto), leading=session.batch or batch)
        except DataError as e:
            raise UsageError(f"{{--batch}} {batch}: {e.template}. Give a smaller one") from e
    rng = np.random.default_rng(0)
    sizes = {spec: tuple(size or batch for size in spec.shape) for spec in session.inputs}
    return {spec.name: rng.standard_normal(shape).astype(spec.dtype) for spec, shape in sizes.items()}
