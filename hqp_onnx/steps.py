"""Single steps of the main job, on files and in memory: open, inspect, score, prune, quantize, evaluate, benchmark."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx import cost, model_io
from hqp_onnx.calibration_export import TENSORRT_VERSION, tensorrt_number, write_calibration
from hqp_onnx.channel_map import ChannelMap, ParamAxis
from hqp_onnx.channels import analyze
from hqp_onnx.dataset import Dataset, batch_size
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.latency import Latency, measure
from hqp_onnx.metrics import Metric, Scores, classes, evaluate, load_metric, predictions
from hqp_onnx.mixed_precision import faster_in_float
from hqp_onnx.moments import input_moments
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.canonicalize import canonicalize_with_shapes
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize import Quantized, Recipe, prepare, quantize, quantize_prepared
from hqp_onnx.passes.quantize_int4 import quantize_int4
from hqp_onnx.placement import quantizable
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking import Ranking, rank
from hqp_onnx.runners import open_runner, remarks, stand_in
from hqp_onnx.runtime import Runner
from hqp_onnx.saliency import filter_scores
from hqp_onnx.shapes import Shapes, example_feeds
from hqp_onnx.sources import Data, open_dataset
from hqp_onnx.targets import Target, target

IN_MEMORY = Path("<model>")
"""What errors call a model that is no file."""


@dataclass(frozen=True)
class Model:
    """A checked model: the file (``IN_MEMORY`` if there is none), a session on it, its canonical graph and shapes."""

    path: Path
    session: Runner
    graph: gs.Graph
    shapes: Shapes

    def channels(self) -> ChannelMap:
        """The units of the graph."""
        return analyze(self.graph, self.shapes)


def open_model(source: Path | onnx.ModelProto, threads: int = 0, target_name: str = "onnxruntime") -> Model:
    """Load, check and canonicalise a file or a ModelProto, which is left; the session is of the target's runtime.

    Raises:
        ModelError: see ``model_io.load``; or the runtime cannot load it.
        MissingRuntimeError: the runtime is not installed.
    """
    if isinstance(source, Path):
        path, proto = source, model_io.load(source)
    else:
        path, proto = IN_MEMORY, onnx.ModelProto()
        proto.CopyFrom(source)  # onnx-graphsurgeon names tensors inside the model that it imports
        model_io.check(proto, path)
    try:
        session = open_runner(source, target(target_name), threads=threads)
        canonical, shapes = canonicalize_with_shapes(model_io.to_graph(proto))
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from e
    return Model(path, session, canonical.graph, shapes)


def open_data(model: Model, data: Data, preprocess: Path | None = None, metric: Metric | None = None) -> Dataset:
    """``data`` as the inputs of ``model``; with ``metric``, labels are checked or made as it needs them.

    Raises:
        DataError: the data do not fit the model or the metric.
        ModelError: the model does not run on them.
    """
    dataset = open_dataset(
        data, model.session.inputs, preprocess=preprocess, batch_size=batch_size(model.session.inputs)
    )
    try:
        model.session.run(dataset.rows(0, 1).feeds)
    except ModelError as e:
        raise ModelError(f"{model.path}: {e}") from e
    if metric is not None and metric.labels == "data":
        dataset.check_labels(classes(model.session.outputs))
    if metric is not None and metric.labels == "original":
        dataset = dataset.labeled_with(predictions(model.session, dataset))
    return dataset


def inspect(path: Path) -> dict[str, Any]:
    """Units, groups, frozen channels with reasons, MACs and parameters, as JSON values."""
    model = open_model(path)
    channels = model.channels()
    counts = cost.positions(model.graph, model.shapes)
    prunable_params, prunable_macs = cost.prunable(model.graph, channels, counts)
    return {
        "model": str(path),
        "units": channels.units,
        "prunable": len(channels.prunable),
        "params": cost.params(model.graph),
        "macs": cost.macs(model.graph, counts),
        "prunable_params": prunable_params,
        "prunable_macs": prunable_macs,
        "groups": [_group(channels, axes) for axes in channels.groups()],
    }


def _group(channels: ChannelMap, axes: Sequence[ParamAxis]) -> dict[str, Any]:
    units = np.unique(np.concatenate([channels.members[axis] for axis in axes]))
    units = units[units >= 0].tolist()
    frozen = {str(unit): channels.frozen[unit] for unit in units if unit in channels.frozen}
    members = [{"tensor": axis.tensor, "axis": axis.axis} for axis in axes]
    counts = {"units": len(units), "prunable": len(units) - len(frozen)}
    branch = bool(units) and bool(channels.branch_of[units[0]] >= 0)
    return {**counts, "branch": branch, "members": members, "frozen": frozen}


def score(
    path: Path,
    data: str,
    output: Path,
    saliency: str,
    preprocess: Path | None,
    progress: Progress,
    *,
    engine: str = "native",
    loss: str | None = None,
    draws: int = 1,
) -> Ranking:
    """Write ``scores.npz`` of a model; see ``rank``."""
    model = open_model(path)
    dataset = open_data(model, data, preprocess)
    if dataset.labeled:
        dataset.check_labels(classes(model.session.outputs))
    ranking = rank(
        model.graph,
        model.channels(),
        saliency,
        dataset,
        progress=progress,
        engine=engine,
        loss=loss,
        draws=draws,
    )
    ranking.save(output)
    return ranking


def quantize_file(
    path: Path,
    output: Path,
    data: str | None,
    target_name: str,
    method: str,
    preprocess: Path | None,
    progress: Progress,
    *,
    precision: str = "int8",
    calibration_out: Path | None = None,
    tensorrt_version: str = TENSORRT_VERSION,
    int4_weights: float | None = None,
    **recipe: bool,
) -> tuple[str, ...]:
    """Write a model in ``precision``: int8, mixed or fp16; or with INT4 weights; returns notes.

    Args:
        path: the float model.
        output: the model to write.
        data: calibration data, for int8, mixed and INT4 weights.
        target_name: what the model is laid out for, see ``targets.target``.
        method: calibration method.
        preprocess: for image folders.
        progress: called as calibration goes on.
        precision: int8, mixed (INT8 where it is faster on the target, see ``mixed_precision``) or fp16.
        calibration_out: folder for the ranges, in the formats of ``calibration_export``; they are to be those of the
            model itself, so that it is not equalized.
        tensorrt_version: named in TensorRT's cache.
        int4_weights: share of the Gemm and MatMul weights to store in INT4, in place of INT8.
        recipe: fields of ``passes.quantize.Recipe``.

    Raises:
        UsageError: int8 without data; fp16 or INT4 weights with ``calibration_out``, or with each other.
    """
    goal = target(target_name)
    if calibration_out is not None and (precision == "fp16" or int4_weights is not None):
        raise UsageError("--calibration-out needs INT8: float16 and INT4 weights take no calibration")
    if precision == "fp16":
        if int4_weights is not None:
            raise UsageError("--int4-weights and --precision fp16 exclude each other: leave one out")
        made = in_float16(open_model(path).graph)
        model_io.save(made.graph, output)
        return (*made.notes, *remarks(goal, precision))
    if data is None:
        raise UsageError(f"--precision {precision} needs calibration data: add --data DATA")
    tensorrt_number(tensorrt_version)
    model = open_model(path)
    dataset = open_data(model, data, preprocess)
    if int4_weights is not None:
        packed = int4_model(model, dataset, int4_weights, progress)
        model_io.save(packed.graph, output)
        return packed.notes
    if calibration_out is not None:
        recipe |= {"equalize": False}
    make = mixed_model if precision == "mixed" else quantize_model
    quantized = make(model, dataset, goal, method, progress, Recipe(**recipe))
    model_io.save(quantized.graph, output)
    if calibration_out is not None:
        write_calibration(quantized.calibration, calibration_out, tensorrt_version)
    return remarks(goal, precision)


def in_float16(graph: gs.Graph) -> PassResult:
    """``graph`` (canonical, float32) in float16; see ``passes.convert_fp16``."""
    return convert_fp16(fold_batchnorm(graph).graph)


def quantize_model(
    model: Model, data: Dataset, goal: Target, method: str, progress: Progress = silent, recipe: Recipe | None = None
) -> Quantized:
    """``model`` in INT8; see ``passes.quantize``."""
    total = len(data)
    return quantize(
        model.graph, data, goal, method, progress=lambda n: progress("calibration", n, total), recipe=recipe
    )


def mixed_model(
    model: Model, data: Dataset, goal: Target, method: str, progress: Progress = silent, recipe: Recipe | None = None
) -> Quantized:
    """``model`` in INT8 where that is faster, timed on ``goal`` with one sample; everywhere if ``goal`` is not here."""
    total, sample = len(data), next(iter(data.in_batches(model.session.batch or 1))).feeds
    prepared = prepare(
        model.graph, data, goal, method, progress=lambda n: progress("calibration", n, total), recipe=recipe
    )

    def opened(floats: Collection[str]) -> Runner:
        return open_runner(model_io.to_proto(quantize_prepared(prepared, goal, floats).graph), goal, spin=False)

    nodes = [] if stand_in(goal) else quantizable(prepared.graph, goal)
    floats = faster_in_float(nodes, opened, sample, partial(progress, "mixed precision"))
    return quantize_prepared(prepared, goal, floats)


def int4_model(model: Model, data: Dataset, share: float, progress: Progress = silent) -> PassResult:
    """``model`` with a share of its Gemm and MatMul weights in INT4, chosen by Fisher information."""
    proto = model_io.to_proto(model.graph)
    scores = filter_scores("fisher", proto, data, progress=lambda n, total: progress("fisher saliency", n, total))
    moments = input_moments(proto, None, data, progress=lambda n, total: progress("moments", n, total))
    return quantize_int4(model.graph, scores, share, moments)


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
        raise UsageError("--metric agreement needs the original model: add --reference MODEL")
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
