"""Functions from ModelProto to ModelProto; the model that they are given is left as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from hqp_onnx.data.sources import Data
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.targets import target as target_named
from hqp_onnx.statistics.thresholds import method
from hqp_onnx.steps.prune import Pruning, prune_model
from hqp_onnx.steps.quantize import quantize_model
from hqp_onnx.steps.recover import recover_model


def prune(
    model: onnx.ModelProto,
    sparsity: float,
    *,
    data: Data | None = None,
    preprocess: str | Path | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """``model`` without a share of its prunable units.

    Args:
        model: a float model of opset 11 or newer.
        sparsity: share of the prunable units to remove, 0 to below 1.
        data: calibration data, for gradient saliencies and compensation: DATA as the command line takes it, arrays
            by input name (first axis = samples) and optional ``labels``, or an iterable of feed dictionaries or pairs
            (feeds, labels).
        preprocess: JSON file for image folders.
        options: the other fields of ``Pruning``: saliency, compensate, min_width, branches, multiple_of, keep, only,
            seed.

    Raises:
        ModelError: the model is invalid, quantized already, or cannot run.
        DataError: the data do not fit the model.
        UsageError: an option out of range, or one that needs data.
    """
    chosen = Pruning(sparsity, **options)
    opened = open_model(model)
    dataset = None if data is None else open_data(opened, data, _path(preprocess))
    return to_proto(prune_model(opened, chosen, dataset).graph)


def quantize(
    model: onnx.ModelProto,
    data: Data,
    *,
    target: str = "onnxruntime",
    calibration: str = "entropy",
    preprocess: str | Path | None = None,
) -> onnx.ModelProto:
    """``model`` in INT8, as explicit QuantizeLinear and DequantizeLinear pairs.

    Args:
        model: a float model of opset 11 or newer.
        data: calibration data, see ``prune``.
        target: the runtime that it is for, see ``targets.target``.
        calibration: how ranges are chosen, see ``thresholds.method``.
        preprocess: JSON file for image folders.

    Raises:
        ModelError, DataError: see ``prune``.
        UsageError: an unknown target or method.
    """
    goal = target_named(target)
    method(calibration)
    opened = open_model(model)
    dataset = open_data(opened, data, _path(preprocess))
    return to_proto(quantize_model(opened, dataset, goal, calibration).graph)


def recover(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    data: Data,
    *,
    epochs: int = 2,
    preprocess: str | Path | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """``student``, pruned or quantized by any tool, trained towards the model that it was made of, without labels.

    Args:
        student: a float model, or one with QuantizeLinear and DequantizeLinear pairs.
        teacher: the original float model, with the same inputs and outputs.
        data: samples, see ``prune``; labels are not read.
        epochs: passes over the data.
        preprocess: JSON file for image folders.
        options: other fields of ``recovery.Recovery``: rate, batch, held_out, loss, temperature, augment, seed, ...

    Raises:
        ModelError, DataError: see ``prune``.
        GradientError: an operator has no gradient rule.
        UsageError: an option out of range.
    """
    opened = open_model(teacher)
    dataset = open_data(opened, data, _path(preprocess))
    return to_proto(recover_model(student, opened, dataset, Recovery(epochs, **options)).graph)


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)
