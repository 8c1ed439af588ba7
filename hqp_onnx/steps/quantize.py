"""``hqp quantize``: a model in INT8, static or dynamic, mixed precision, float16, or with INT4 weights."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import Data, files_of, read_files
from hqp_onnx.data.sampled import taken
from hqp_onnx.errors import UsageError
from hqp_onnx.files import forbid_overlap
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.record import Record
from hqp_onnx.model import Model, calibrated, open_data, open_model
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.convert_fp16 import in_float16
from hqp_onnx.passes.quantize import Quantized, Recipe, prepare, quantize, quantize_prepared
from hqp_onnx.passes.quantize_dynamic import check_dynamic, quantize_dynamic
from hqp_onnx.progress import Progress, silent
from hqp_onnx.quantization.calibration_export import (
    TENSORRT_VERSION,
    calibration_files,
    tensorrt_number,
    write_calibration,
)
from hqp_onnx.quantization.float_nodes import faster_in_float
from hqp_onnx.quantization.placement import quantizable
from hqp_onnx.runtimes.runners import open_runner, remarks, stand_in
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import Target, in_float8
from hqp_onnx.runtimes.targets import target as target_named
from hqp_onnx.statistics import thresholds
from hqp_onnx.steps.quantize_int4 import Int4, Judging, StoredWeights, int4_asked, int4_model
from hqp_onnx.steps.writing import Written, write_verified
from hqp_onnx.synthesis.inputs import made_inputs

_UNRANGED = ("fp16", "dynamic")  # which take no data


def quantize_file(
    path: Path,
    output: Path,
    data: Data | None,
    target_name: str,
    method: str,
    preprocess: str | Path | None,
    progress: Progress,
    *,
    precision: str | None = None,
    calibration_out: Path | None = None,
    tensorrt_version: str = TENSORRT_VERSION,
    int4_weights: float | Literal["auto"] | None = None,
    int4_convs: bool = False,
    val: Data | None = None,
    max_drop: float | str | None = None,
    metric: str | None = None,
    **recipe: bool,
) -> Written:
    """Write a model in ``precision``: int8, mixed, dynamic, fp8 or fp16; or with INT4 weights.

    Args:
        path: the float model.
        output: the model to write.
        data: calibration data, for int8, mixed, fp8 and INT4 weights; None makes inputs up (``synthesis``), and warns
            where these are not to be trusted. Dynamic rounds weights by data if they are given.
        target_name: what the model is laid out for, see ``targets.target``.
        method: calibration method.
        preprocess: of images, see ``Reading``.
        progress: called as calibration goes on.
        precision: int8, mixed (INT8 where it is faster on the target, see ``mixed_precision``), dynamic
            (``passes.quantize_dynamic``), fp8 (E4M3, for TensorRT) or fp16; None takes int8, or fp16 where the target
            does not compute in INT8.
        calibration_out: folder for the ranges, in the formats of ``calibration_export``; these must be those of the
            model itself, so it is not equalized.
        tensorrt_version: named in TensorRT's cache.
        int4_weights: share of the Gemm and MatMul weights to store in INT4, in place of INT8; auto: as many as the
            budget allows, and all others in INT8 (``steps.quantize_int4``).
        int4_convs: weights of Conv are among them.
        val: what auto is judged on.
        max_drop: how much worse the metric may be there, as for ``hqp optimize``.
        metric: see ``evaluate``.
        recipe: fields of ``passes.quantize.Recipe``.

    Raises:
        UsageError: fp16 or INT4 weights with ``calibration_out``; a precision with INT4 weights; ``int4_convs``
            without a share.
        ModelError: what would be written does not load or run.
    """
    target, asked = target_named(target_name), precision
    if precision is None:
        integers = int4_weights is not None or calibration_out is not None
        precision = "int8" if integers else default_precision(target)
    thresholds.method(method)
    forbid_overlap(
        {"output": output, "calibration_out": calibration_files(calibration_out)},
        {"the input model": model_io.parts(path), **read_files(data, preprocess), "the validation data": files_of(val)},
    )
    check_dynamic(precision, target)
    if precision == "fp8":
        in_float8(target)
    weights = int4_asked(int4_weights, int4_convs, None if val is None else Judging(val, max_drop, metric, preprocess))
    if val is None and (max_drop, metric) != (None, None):
        raise UsageError("{--max_drop} and {--metric} are for what is judged on {--val}: add it, or leave them out")
    _check(asked, precision, calibration_out, weights, tensorrt_version)
    model = open_model(path)
    images = None if data is None and val is not None else preprocess  # of --val alone
    samples = calibration_data(model, data, images, precision, progress)
    dataset = samples.data
    target = calibrated(target, dataset)
    said = *(stand_in(target) if target.mixes == "fp16" else ()), *remarks(target, precision)
    precision = "int4" if weights else precision
    even = {"equalize": False} if calibration_out is not None else {}
    made = _made(model, dataset, target, precision, method, weights, Recipe(**{**recipe, **even}), progress)
    notes = {"int4": made.notes}.get(precision, (*made.notes, *said) if precision in ("fp16", "dynamic") else said)
    has = made.precision if isinstance(made, StoredWeights) else precision
    record = Record(model.digest, precision=has)
    source, warnings = model.source(dataset), (*samples.warnings, *made.warnings)
    verified = write_verified(made.graph, output, source, record, target, precision if has == "fp32" else has, warnings)
    if calibration_out is not None and isinstance(made, Quantized):
        write_calibration(made.calibration, calibration_out, tensorrt_version)
    return Written((*samples.notes, *notes), verified)


class Samples(NamedTuple):
    """Calibration data, None where none are needed, and what is said of those that were made up."""

    data: Dataset | None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def calibration_data(
    model: Model, data: Data | None, preprocess: str | Path | None, precision: str, progress: Progress = silent
) -> Samples:
    """``data`` as the inputs of ``model``; without, what ``synthesis`` makes up where ``precision`` needs some."""
    if data is not None:
        return Samples(open_data(model, data, preprocess))
    if precision in _UNRANGED:
        return Samples(None)
    if preprocess is not None:
        raise UsageError("{--preprocess} is for {--data}: add it, or leave both out")
    made = made_inputs(model.graph, model.session, progress)
    return Samples(taken(made.data), made.notes, made.warnings)


def _made(
    model: Model,
    data: Dataset | None,
    target: Target,
    precision: str,
    method: str,
    int4_weights: Int4 | None,
    recipe: Recipe,
    progress: Progress,
) -> PassResult:
    """The model in ``precision``, which takes ``data`` unless it is fp16."""
    if precision == "fp16":
        return in_float16(model.graph)
    if precision == "dynamic":
        return dynamic_model(model, data, target, recipe, progress)
    assert data is not None
    if int4_weights is not None:
        return int4_model(model, data, int4_weights, recipe, progress)
    make = {"mixed": mixed_model, "fp8": fp8_model}.get(precision, quantize_model)
    return make(model, data, target, method, progress, recipe)


def default_precision(target: Target) -> str:
    """What is taken if none is asked for: int8, or what engines for ``target`` compute in."""
    return target.mixes if target.engines else "int8"


def _check(
    asked: str | None, precision: str, calibration_out: Path | None, weights: Int4 | None, tensorrt_version: str
) -> None:
    """Raise, before any work, what excludes each other; ``precision`` is that ``asked`` for, or what is taken."""
    unranged = precision in (*_UNRANGED, "fp8")
    if calibration_out is not None and (unranged or weights is not None):
        raise UsageError("{--calibration_out} needs static INT8: fp16, fp8, dynamic and INT4 weights take no ranges")
    if asked is not None and weights is not None:
        raise UsageError(f"{{--int4_weights}} and {{--precision}} {asked} exclude each other: leave one out")
    tensorrt_number(tensorrt_version)


def quantize_model(
    model: Model, data: Dataset, target: Target, method: str, progress: Progress = silent, recipe: Recipe | None = None
) -> Quantized:
    """``model`` in INT8; see ``passes.quantize``."""
    return quantize(model.graph, data, target, method, progress=progress, recipe=recipe)


def fp8_model(
    model: Model, data: Dataset, target: Target, method: str, progress: Progress = silent, recipe: Recipe | None = None
) -> Quantized:
    """``model`` in float8: the recipe's steps on integer grids are left out, and ``method`` is minmax.

    A float is as precise at a tenth of its range as at the end of it, so nothing is won by cutting off large values.
    """
    even = Recipe(recipe.equalize if recipe else True, correct_bias=False, round_weights=False)
    return quantize(model.graph, data, in_float8(target), "minmax", progress=progress, recipe=even)


def mixed_model(
    model: Model, data: Dataset, target: Target, method: str, progress: Progress = silent, recipe: Recipe | None = None
) -> Quantized:
    """``model`` in INT8 where that is faster, timed on ``target`` with one sample; everywhere if that is not here."""
    sample = next(iter(data.in_batches(model.session.batch or 1))).feeds
    prepared = prepare(model.graph, data, target, method, progress=progress, recipe=recipe)

    def opened(floats: Collection[str]) -> Runner:
        return open_runner(model_io.to_proto(quantize_prepared(prepared, target, floats).graph), target, spin=False)

    nodes = [] if stand_in(target) else quantizable(prepared.graph, target)
    floats = faster_in_float(nodes, opened, sample, partial(progress, "mixed precision"))
    return quantize_prepared(prepared, target, floats)


def dynamic_model(
    model: Model, data: Dataset | None, target: Target, recipe: Recipe | None = None, progress: Progress = silent
) -> PassResult:
    """``model`` in dynamic INT8; its weights are rounded to nearest where there are no data."""
    return quantize_dynamic(model.graph, data, target, recipe=recipe, progress=progress)
