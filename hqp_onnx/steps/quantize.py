"""``hqp quantize``: a model in INT8, static or dynamic, mixed precision, float16, or with INT4 weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import Data, files_of, read_files
from hqp_onnx.data.sampled import taken
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.verification import Source
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
from hqp_onnx.shares import Given
from hqp_onnx.statistics import thresholds
from hqp_onnx.steps.quantize_int4 import Int4, Judging, StoredWeights, int4_asked, int4_model
from hqp_onnx.steps.writing import Written, write_verified
from hqp_onnx.synthesis.inputs import made_inputs

PRECISIONS = ("int8", "mixed", "dynamic", "fp8", "fp16")
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
    int4_weights: Given | None = None,
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
        int4_weights: share of the parameters of Gemm and MatMul to store in INT4, in place of INT8; "auto": as many as
            the budget allows, and all others in INT8 (``steps.quantize_int4``).
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
    thresholds.method(method)
    forbid_overlap(
        {"output": output, "calibration_out": calibration_files(calibration_out)},
        {"the input model": model_io.parts(path), **read_files(data, preprocess), "the validation data": files_of(val)},
    )
    ranged = calibration_out is not None
    asked = asked_of(
        target_name,
        method,
        precision=precision,
        int4_weights=int4_weights,
        int4_convs=int4_convs,
        judging=judging_of(val, max_drop, metric, preprocess),
        ranged=ranged,
        recipe=Recipe(**{**recipe, **({"equalize": False} if ranged else {})}),
    )
    tensorrt_number(tensorrt_version)
    made = made_model(open_model(path), asked, data, preprocess, progress)
    verified = write_verified(made.result.graph, output, *made.written)
    if calibration_out is not None and isinstance(made.result, Quantized):
        write_calibration(made.result.calibration, calibration_out, tensorrt_version)
    return Written(made.notes, verified)


@dataclass(frozen=True)
class Asked:
    """What a model is to become: ``precision``, laid out for ``target``, or with INT4 ``weights``."""

    target: Target
    precision: str
    method: str
    weights: Int4 | None
    recipe: Recipe


@dataclass(frozen=True)
class Made:
    """What was made of a model, what is said of it, and what ``write_verified`` takes behind graph and path."""

    result: PassResult
    notes: tuple[str, ...]
    written: tuple[Source, Record, Target, str, tuple[str, ...]]


def judging_of(
    val: Data | None, max_drop: float | str | None, metric: str | None, preprocess: str | Path | None
) -> Judging | None:
    """What INT4 weights are held to, if to anything; ``UsageError`` for a budget without data."""
    if val is not None:
        return Judging(val, max_drop, metric, preprocess)
    if (max_drop, metric) != (None, None):
        raise UsageError("{--max_drop} and {--metric} are for what is judged on {--val}: add it, or leave them out")
    return None


def asked_of(
    target_name: str,
    method: str,
    *,
    precision: str | None,
    int4_weights: Given | None,
    int4_convs: bool,
    judging: Judging | None,
    recipe: Recipe,
    ranged: bool = False,
) -> Asked:
    """What the arguments of these names ask for; ``ranged``: the ranges are wanted, too.

    Raises:
        UsageError: some exclude each other, or need others, or have an unknown name.
    """
    target = target_named(target_name)
    thresholds.method(method)
    chosen = precision or ("int8" if int4_weights is not None or ranged else default_precision(target))
    if chosen not in PRECISIONS:
        raise UsageError(f"{{--precision}} {chosen}: expected one of {', '.join(PRECISIONS)}")
    check_dynamic(chosen, target)
    if chosen == "fp8":
        in_float8(target)
    weights = int4_asked(int4_weights, int4_convs, judging)
    if ranged and (chosen in (*_UNRANGED, "fp8") or weights is not None):
        raise UsageError("{--calibration_out} needs static INT8: fp16, fp8, dynamic and INT4 weights take no ranges")
    if precision is not None and weights is not None:
        raise UsageError(f"{{--int4_weights}} and {{--precision}} {precision} exclude each other: leave one out")
    return Asked(target, chosen, method, weights, recipe)


def made_model(
    model: Model, asked: Asked, data: Data | None, preprocess: str | Path | None, progress: Progress = silent
) -> Made:
    """``model`` as ``asked``; ``preprocess`` is that of ``data`` and of what INT4 weights are judged on."""
    judged = asked.weights is not None and isinstance(asked.weights.share, Judging)
    samples = calibration_data(model, data, None if data is None and judged else preprocess, asked.precision, progress)
    target = calibrated(asked.target, samples.data)
    said = *(stand_in(target) if target.mixes == "fp16" else ()), *remarks(target, asked.precision)
    precision = "int4" if asked.weights else asked.precision
    made = _made(model, samples.data, replace(asked, target=target), progress)
    notes = {"int4": made.notes}.get(precision, (*made.notes, *said) if precision in ("fp16", "dynamic") else said)
    has = made.precision if isinstance(made, StoredWeights) else precision
    record, warnings = Record(model.digest, precision=has), (*samples.warnings, *made.warnings)
    written = model.source(samples.data), record, target, precision if has == "fp32" else has, warnings
    return Made(made, (*samples.notes, *notes), written)


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


def _made(model: Model, data: Dataset | None, asked: Asked, progress: Progress) -> PassResult:
    """The model as asked, which takes ``data`` unless it is fp16."""
    if asked.precision == "fp16":
        return in_float16(model.graph)
    if asked.precision == "dynamic":
        return dynamic_model(model, data, asked.target, asked.recipe, progress)
    assert data is not None
    if asked.weights is not None:
        return int4_model(model, data, asked.weights, asked.recipe, progress)
    make = {"mixed": mixed_model, "fp8": fp8_model}.get(asked.precision, quantize_model)
    return make(model, data, asked.target, asked.method, progress, asked.recipe)


def default_precision(target: Target) -> str:
    """What is taken if none is asked for: int8, or what engines for ``target`` compute in."""
    return target.mixes if target.engines else "int8"


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
