"""``hqp build``: an ONNX model to a TensorRT engine, here or for another machine.

    model ─► checked, canonical ─► [Q/DQ by our ranges | float + cache] ─► [float weights] [float16] ─► engine

``engine.plan`` decides which of these steps a TensorRT version and a device need; this module carries them out. For
another machine (``elsewhere``) everything but the last step happens here, and that is written as a trtexec script. A
board (``device``) runs that script, and the engine comes back.
"""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.boards.engines import Made, builder_of
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import read_files
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.engine import builder, trtexec
from hqp_onnx.engine.build_report import BuildReport, BuiltOn, OnBoard, ShapeRange
from hqp_onnx.engine.cache import read_cache, version_number, version_text
from hqp_onnx.engine.calibrator import CalibrationBatches, calibrator
from hqp_onnx.engine.capability import Capability, detect
from hqp_onnx.engine.device import Device, compute_text
from hqp_onnx.engine.library import Library, is_engine
from hqp_onnx.engine.options import BuildOptions
from hqp_onnx.engine.parsing import refusals
from hqp_onnx.engine.plan import Plan, Request, choose
from hqp_onnx.engine.profiles import Profile, batch_of, profiles
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.verification import Verified
from hqp_onnx.files import forbid_overlap, json_text, make_folder, read_text, sha256, write_bytes, write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.interface import Interface
from hqp_onnx.graphs.record import Record
from hqp_onnx.graphs.tensor_types import float_activations
from hqp_onnx.model import held_to, open_session
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.make_symmetric import make_symmetric
from hqp_onnx.passes.quantize import Recipe, quantize
from hqp_onnx.passes.restore_float_weights import restore_float_weights
from hqp_onnx.passes.split_layer_norms import split_layer_norms
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.targets import FLOAT8, in_float8, target
from hqp_onnx.statistics import thresholds
from hqp_onnx.statistics.calibration import calibrate
from hqp_onnx.steps.writing import write_verified

_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
log = logging.getLogger(__name__)
_OPSET_8 = 17
_BATCH = 8  # every activation of a calibration batch is held at once
_LAYER_NORM = (8, 6, 0)  # the first TensorRT that has LayerNormalization


@dataclass(frozen=True)
class _Job:
    """A checked model with its data, and what will be done.

    ``restated`` says how its Q/DQ were brought into TensorRT's form; ``method`` is of the calibrator that it gets.
    """

    options: BuildOptions
    graph: gs.Graph
    restated: tuple[str, ...]
    shapes: dict[str, Profile]
    settings: builder.Settings
    data: Dataset | None
    able: Capability
    plan: Plan
    method: str
    progress: Progress


def build_file(options: BuildOptions, progress: Progress = silent) -> BuildReport:
    """Write the engine (or, for another machine, what trtexec needs there) and the report OUTPUT.json.

    Raises:
        ModelError: not an ONNX model that TensorRT can take, or TensorRT refuses it.
        DataError: the data or the cache do not fit.
        UsageError: an option that does not exist there, or contradicts another.
        MissingRuntimeError: no TensorRT, or no GPU.
        BoardError: the board cannot be reached.
    """
    return _built(options, progress) if options.device is None else _on_board(options, progress)


def _on_board(options: BuildOptions, progress: Progress) -> BuildReport:
    """Prepare everything here, and let the board build."""
    _check_files(options)
    timings, start = options.timing_cache, time.perf_counter()
    with builder_of(str(options.device)) as board, tempfile.TemporaryDirectory(prefix="hqp-") as name:
        folder, version = Path(name), version_text(board.tensorrt)
        inner = replace(options, device=None, elsewhere=version, output=folder / options.output.name)
        able = Capability.of_version(version)
        if board.gpu is not None:
            able = replace(able, device=Device(board.gpu[0], board.gpu[1:]))
        report = _built(inner, progress, able)
        _beside(inner.output, ".json").unlink()
        if timings is not None and timings.is_file():
            write_bytes(folder / timings.name, timings.read_bytes())
        products = [options.output.name, *([] if timings is None else [timings.name])]
        script = _beside(inner.output, ".sh").name
        log.info("%s builds %s; its TensorRT tries many kernels, which can take minutes", board.link.name, products[0])
        made = board.build(folder, script, products, partial(progress, "engine"))
    make_folder(options.output.parent)
    write_bytes(options.output, made.files[products[0]])
    if timings is not None:
        write_bytes(timings, made.files[timings.name])
    ran = trtexec.summary(made.log)
    batch = max((shape.opt[0] for shape in report.shapes.values() if shape.opt), default=1)
    report = replace(
        report,
        built=True,
        bytes=len(made.files[products[0]]),
        seconds=round(time.perf_counter() - start, 3),
        board=None if ran is None else _measured(board.link.name, ran, batch, made),
    )
    write_text(_beside(options.output, ".json"), json_text(report.json()))
    return report


def _measured(name: str, ran: trtexec.Summary, batch: int, made: Made) -> OnBoard:
    throughput = batch * ran.per_second
    joules = None if made.watts is None else made.watts / throughput
    return OnBoard(name, batch, ran.median_ms, ran.p99_ms, throughput, joules, made.meter)


def _built(options: BuildOptions, progress: Progress, able: Capability | None = None) -> BuildReport:
    start = time.perf_counter()
    job = _check(options, progress, able)
    make_folder(options.output.parent)
    graph = _prepare(job)
    if options.elsewhere is None:
        engine = _write_engine(job, graph)
        report = replace(
            _report(job, time.perf_counter() - start),
            bytes=len(engine.plan),
            weights_bytes=engine.weights_bytes,
            layers=None if engine.layers is None else tuple(engine.layers),
        )
    else:
        verified: dict[str, Any] = msgspec.to_builtins(_write_script(job, graph))
        warned = tuple(verified.pop("warnings"))
        report = replace(_report(job, time.perf_counter() - start), warnings=warned, verified=verified)
    write_text(_beside(options.output, ".json"), json_text(report.json()))
    return report


def require_build(precision: str | None, library: Library) -> None:
    """Raise what ``build_file`` would on this machine for ``precision``, None being a model with Q/DQ."""
    choose(Request(precision, quantized=precision is None), detect(library))


def _check(options: BuildOptions, progress: Progress, able: Capability | None) -> _Job:
    """Everything that can be wrong, before any work; ``able`` says what a board has."""
    thresholds.method(options.calibration)
    _check_files(options)
    graph, zeros, restated = _read(options.model)
    session = open_session(options.model)
    shapes = profiles(options.shapes, session.inputs)
    data = None
    if options.data is not None:
        batch = session.batch or _BATCH
        data = open_dataset(options.data, session.inputs, preprocess=options.preprocess, batch_size=batch)
    if able is None:
        able = detect(options.library) if options.elsewhere is None else Capability.of_version(options.elsewhere)
    plan = choose(options.request(bool(zeros), FLOAT8 in zeros), able)
    method = _calibrator_method(options, plan, able)
    dynamic = {spec.name: shapes[spec.name] for spec in session.inputs if None in spec.shape}
    settings = _settings(options, dynamic, plan)
    return _Job(options, graph, restated, shapes, settings, data, able, plan, method, progress)


def _check_files(options: BuildOptions) -> None:
    beside = (".json",) if options.elsewhere is None else (".json", ".onnx", ".sh")
    written = [options.output, *(_beside(options.output, suffix) for suffix in beside)]
    timings = None if options.timing_cache is None else options.timing_cache.resolve()  # TensorRT follows links
    forbid_overlap(
        {"output": written, "timing_cache": timings},
        {
            "the input model": model_io.parts(options.model),
            **read_files(options.data, options.preprocess),
            "the calibration cache": options.calibration_cache,
        },
    )


def _calibrator_method(options: BuildOptions, plan: Plan, able: Capability) -> str:
    """Entropy or minmax: a cache names its own, our ranges pass as entropy."""
    if plan.scales != "cache" or options.calibration_cache is None:
        return options.calibration if plan.scales == "tensorrt" else "entropy"
    cache = read_cache(options.calibration_cache, able.version)
    method = "entropy" if cache is None else cache.method
    if method == "minmax" and (options.dla is not None or options.elsewhere is not None):
        raise UsageError(f"{options.calibration_cache}: a DLA and trtexec read caches of the entropy calibrator only")
    return method


def _settings(options: BuildOptions, dynamic: dict[str, Profile], plan: Plan) -> builder.Settings:
    if options.dla is not None and (name := next((n for n, p in dynamic.items() if not p.fixed), None)):
        raise UsageError(
            f"{{--dla}}: a DLA takes fixed shapes, and '{name}' has a range. Give one shape with {{--shapes}}"
        )
    return builder.Settings(
        dynamic,
        options.timing_cache,
        options.workspace,
        options.dla,
        options.version_compatible,
        options.hardware_compatible,
        options.refit,
        options.weight_streaming,
        plan.for_gpu,
    )


def _read(path: Path) -> tuple[gs.Graph, set[np.dtype[Any]], tuple[str, ...]]:
    """The model, ready for TensorRT; the types of its Q/DQ; and how these were restated."""
    model_io.require_file(path)
    with path.open("rb") as stream:
        start = stream.read(4)
    if path.suffix in _ENGINE_SUFFIXES or is_engine(start):
        raise ModelError(f"{path}: is an engine already. Give the .onnx model that it was built from")
    graph = model_io.to_graph(model_io.load(path, quantized=True))
    if not any(model_io.is_quantized(node.op) for node in graph.nodes):
        return fold_batchnorm(canonicalize(graph).graph).graph, set(), ()
    restated = make_symmetric(graph)
    pairs = [node for node in restated.graph.nodes if model_io.is_quantized(node.op)]
    return restated.graph, {_symmetric_type(path, node) for node in pairs}, restated.notes


def _symmetric_type(path: Path, node: gs.Node) -> np.dtype[Any]:
    """The type that a QuantizeLinear or DequantizeLinear is of, int8 or float8, around zero."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    symmetric = (
        isinstance(zero, gs.Constant) and zero.values.dtype in (np.int8, FLOAT8) and not zero.values.astype(bool).any()
    )
    if node.op not in ("QuantizeLinear", "DequantizeLinear") or not symmetric:
        raise ModelError(
            f"{path}: node '{node.name}' ({node.op}) is not symmetric int8 Q/DQ, and TensorRT takes no other "
            "(activations around zero-points besides 0 and 128 have no exact form there). Quantize the float model "
            "with 'hqp quantize --target tensorrt', or give the float model"
        )
    found: np.dtype[Any] = node.inputs[2].values.dtype
    return found


def _prepare(job: _Job) -> gs.Graph:
    """The graph that TensorRT parses."""
    graph, plan = job.graph, job.plan
    if plan.path == "explicit" and plan.scales == "own" and job.data is not None:
        layout, method, recipe = target(job.able.library.target), job.options.calibration, None
        if plan.precision == "fp8":  # as steps.quantize.fp8_model
            layout, method, recipe = in_float8(layout), "minmax", Recipe(correct_bias=False, round_weights=False)
        graph = quantize(graph, job.data, layout, method, progress=job.progress, recipe=recipe).graph
    if plan.float_weights:
        graph = restore_float_weights(graph).graph
    if job.able.version < _LAYER_NORM:
        graph = split_layer_norms(graph).graph
    return convert_fp16(graph).graph if plan.half else graph


def _own_cache(job: _Job, data: Dataset) -> str:
    """Our ranges of every float activation, as TensorRT's cache."""
    names, method = float_activations(job.graph), job.options.calibration
    report = partial(job.progress, "calibration")
    calibration = calibrate(model_io.to_proto(job.graph), names, data, method=method, progress=report)
    return calibration.tensorrt_cache(version_number(job.able.version))


def _cache_file(job: _Job, unnamed: Path) -> Path | None:
    """The calibration cache to read, or for TensorRT to write; our ranges go to ``unnamed`` if none was named."""
    file = job.options.calibration_cache
    if job.plan.path != "implicit":
        return None
    if job.plan.scales == "own" and job.data is not None:
        file = file or unnamed
        make_folder(file.parent)
        write_text(file, _own_cache(job, job.data))
    return file


def _write_engine(job: _Job, graph: gs.Graph) -> builder.Engine:
    """Build here."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / job.options.model.name
        model_io.save(graph, model)
        source = _calibrator(job, Path(folder)) if job.plan.path == "implicit" else None
        if job.able.timing_cache:
            log.info("TensorRT builds %s; it tries many kernels, which can take minutes", job.options.output.name)
        try:
            engine = builder.build(model, job.plan, job.settings, source, job.able)
        except ModelError as e:
            _name_refused(job, graph, e)
            raise
    write_bytes(job.options.output, engine.plan)
    return engine


def _name_refused(job: _Job, graph: gs.Graph, error: ModelError) -> None:
    """Raise what the parser says of single nodes, which is clearer than what a failed build says, if it does."""
    refused = refusals(model_io.to_proto(graph), job.able.library) if job.able.strong else ()
    if refused:
        more = f", and {len(refused) - 1} more, which 'hqp inspect --target' lists" if len(refused) > 1 else ""
        raise ModelError(f"{job.options.model}: {job.able.name} refuses {refused[0]}{more}") from error


def _calibrator(job: _Job, folder: Path) -> Any:
    cache = _cache_file(job, folder / "calibration.cache")
    batches = None
    if job.plan.scales == "tensorrt" and job.data is not None:
        batches = CalibrationBatches(job.data.in_batches(batch_of(job.shapes)), job.shapes)
    return calibrator(batches, cache, job.method)


def _write_script(job: _Job, graph: gs.Graph) -> Verified:
    """Build elsewhere: model, cache and script beside OUTPUT."""
    output, given = job.options.output, job.options.model
    model, kept = _beside(output, ".onnx"), _beside(output, ".cache")
    interface = Interface.of(onnx.load(given, load_external_data=False))
    source = held_to(open_session(given), interface, model_io.stored_bytes(given), job.data or job.graph)
    record = Record(sha256(given), precision="fp16" if job.plan.half else None)
    verified = write_verified(graph, model, source, record, precision=record.precision or "fp32")
    cache = _cache_file(job, kept)
    if cache is not None and cache != kept:
        write_text(kept, read_text(cache))
    table = None if cache is None else kept
    write_text(_beside(output, ".sh"), trtexec.command(model, output.name, job.plan, job.settings, job.able, table))
    return verified


def _report(job: _Job, seconds: float) -> BuildReport:
    options, plan, device = job.options, job.plan, job.able.device
    notes = [*plan.notes, *(f"restated for TensorRT: {words}" for words in job.restated)]
    if options.data is not None and plan.scales not in ("own", "tensorrt"):
        notes.append("the calibration data were not used")
    if not job.able.int8_weights and job.graph.opset > _OPSET_8:
        notes.append(
            f"opset {job.graph.opset}: parsers of TensorRT 8 know {_OPSET_8}; export it anew if they refuse it"
        )
    return BuildReport(
        model=str(options.model),
        model_sha256=sha256(options.model),
        engine=options.output.name,
        library=job.able.library.name,
        tensorrt=".".join(map(str, job.able.version)),
        built=options.elsewhere is None,
        device=None if device is None else BuiltOn(device.name, device.capability),
        precision=plan.precision,
        path=plan.path,
        scales=plan.scales,
        strongly_typed=plan.strongly_typed,
        flags=plan.flags,
        float_weights=plan.float_weights,
        float16_model=plan.half,
        calibration=options.calibration if plan.scales in ("own", "tensorrt") else None,
        calibration_cache=None if options.calibration_cache is None else str(options.calibration_cache),
        shapes={name: ShapeRange(p.low, p.best, p.high) for name, p in job.shapes.items()},
        workspace_mib=options.workspace,
        dla=options.dla,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        for_gpu=tuple(map(compute_text, job.settings.for_gpu)),
        refit=options.refit,
        weight_streaming=options.weight_streaming,
        seconds=round(seconds, 3),
        notes=tuple(notes),
    )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
