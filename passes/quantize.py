"""Float graph in, INT8 graph out, in two steps.

``prepare`` reads the data: widen float16, fold BatchNormalization, equalize, calibrate, round weights.
``quantize_prepared`` reads none: insert Q/DQ, except around nodes that are to stay in float, and compress the weights
of those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial

import onnx_graphsurgeon as gs

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compress_weights import compress_weights
from hqp_onnx.passes.correct_bias import correct_bias
from hqp_onnx.passes.equalize import equalize
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.insert_qdq import WeightScales, insert_qdq, weight_scales
from hqp_onnx.passes.round_weights import round_weights, roundable
from hqp_onnx.passes.smooth_products import smooth_products
from hqp_onnx.passes.widen_float16 import widen_float16
from hqp_onnx.progress import Progress, silent
from hqp_onnx.quantization.placement import quantized_tensors
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.statistics.calibration import Calibration, calibrate
from hqp_onnx.statistics.moments import input_moments

__all__ = ["Prepared", "Quantized", "Recipe", "prepare", "quantize", "quantize_prepared"]


@dataclass(frozen=True)
class Recipe:
    """Which passes keep accuracy, without training; each costs one more pass over the data.

    ``in_order``: INT4 weights are rounded once more, from what those before them now give (``round_in_order``). INT8
    gains nothing by it, since its error is that of activations.
    """

    equalize: bool = True
    correct_bias: bool = True
    round_weights: bool = True
    in_order: bool = True


@dataclass(frozen=True, kw_only=True)
class Prepared(PassResult):
    """A float graph for ``quantize_prepared``, not to be changed.

    ``calibration`` holds its ranges, ``scales`` those of its weights that lie on their INT8 grid already, ``scaled``
    the names of tensors that are not what they were (``equalize``).
    """

    calibration: Calibration
    scales: WeightScales
    scaled: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Quantized(PassResult):
    """``calibration`` holds the ranges that the graph was given."""

    calibration: Calibration


def quantize(
    graph: gs.Graph,
    data: Iterable[Batch],
    target: Target,
    method: str = "entropy",
    *,
    threads: int = 0,
    progress: Progress = silent,
    recipe: Recipe | None = None,
) -> Quantized:
    """``graph`` in INT8 for ``target``; arguments and errors as for ``prepare``."""
    prepared = prepare(graph, data, target, method, threads=threads, progress=progress, recipe=recipe)
    return quantize_prepared(prepared, target)


def prepare(
    graph: gs.Graph,
    data: Iterable[Batch],
    target: Target,
    method: str = "entropy",
    *,
    threads: int = 0,
    progress: Progress = silent,
    known: Calibration | None = None,
    recipe: Recipe | None = None,
) -> Prepared:
    """``graph`` with all that INT8 for ``target`` needs of the data.

    Args:
        graph: float32 or float16, canonical and sorted; not changed.
        data: calibration batches, re-iterable.
        target: see ``targets.target``.
        method: calibration method, see ``calibration.calibrate``.
        threads: as for ``Session``.
        progress: called as the calibration goes on, as the moments for the rounding do, and as weights are rounded.
        known: ranges found before by the same call, in place of a calibration.
        recipe: what is done for accuracy; None takes the defaults of ``Recipe``.

    Raises:
        ModelError: the graph is quantized already, or cannot run.
        DataError, UsageError: see ``calibration.calibrate``.
    """
    chosen = recipe or Recipe()
    widened = widen_float16(graph)
    results, scaled = [widened, fold_batchnorm(widened.graph)], frozenset[str]()
    if chosen.equalize:
        equalized = equalize(results[-1].graph, data, threads=threads)
        smooth = smooth_products(equalized.graph, data, threads=threads, muls=not target.fully_connected)
        results, scaled = [*results, equalized, smooth], equalized.scaled | smooth.scaled
    even = results[-1].graph
    seen = partial(progress, "calibration")
    calibration = known or calibrate(
        to_proto(even), quantized_tensors(even, target), data, method=method, threads=threads, progress=seen
    )
    scales, limit = weight_scales(even, calibration, target), target.weight_limit
    rounded = roundable(even, scales) if chosen.round_weights else []
    seen = partial(progress, "moments for rounding")
    moments = input_moments(to_proto(even), rounded, data, threads=threads, progress=seen)
    if chosen.correct_bias:
        results.append(correct_bias(even, scales, limit, data, skip=moments, threads=threads))
    results.append(round_weights(results[-1].graph, moments, scales, limit, progress=partial(progress, "rounding")))
    return Prepared(
        results[-1].graph,
        any(result.modified for result in results),
        tuple(note for result in results for note in result.notes),
        tuple(warning for result in results for warning in result.warnings),
        calibration=calibration,
        scales={key: scale for key, scale in scales.items() if key[0] in moments},
        scaled=scaled,
    )


def quantize_prepared(prepared: Prepared, target: Target, floats: Collection[str] = ()) -> Quantized:
    """``prepared`` in INT8 for the target that it was prepared for.

    Args:
        prepared: by ``prepare``.
        target: see there.
        floats: first outputs of nodes that stay in float (``placement.quantizable``); where the target folds
            constants, their weights are stored as int8 all the same.

    Raises:
        ModelError: the graph is quantized already, or its opset cannot be converted.
    """
    results = [prepared, insert_qdq(prepared.graph, prepared.calibration, target, floats, prepared.scales)]
    if target.folds_constants:
        results.append(compress_weights(results[-1].graph, prepared.scales, target.stores_gates))
    notes = tuple(note for result in results for note in result.notes)
    warnings = tuple(warning for result in results for warning in result.warnings)
    modified = any(result.modified for result in results)
    names = UniqueNames(results[-1].graph)
    for tensor in results[-1].graph.tensors().values():
        if tensor.name in prepared.scaled:  # what is not the float model's has another name, for whoever compares
            tensor.name = names.tensor(f"{tensor.name}.equalized")
    return Quantized(results[-1].graph, modified, notes, warnings, calibration=prepared.calibration)
