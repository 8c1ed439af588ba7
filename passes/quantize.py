"""Float graph in, INT8 graph out: fold BatchNormalization, calibrate, insert Q/DQ, compress what stays in float."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from hqp_onnx.calibration import Calibration, Progress, calibrate
from hqp_onnx.dataset import Batch
from hqp_onnx.model_io import to_proto
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compress_weights import compress_weights
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.insert_qdq import insert_qdq
from hqp_onnx.placement import quantized_tensors
from hqp_onnx.targets import Target

__all__ = ["Quantized", "quantize"]


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
    progress: Progress | None = None,
    known: Calibration | None = None,
    floats: Collection[str] = (),
) -> Quantized:
    """``graph`` in INT8 for ``target``.

    Args:
        graph: float32, canonical and sorted; not changed.
        data: calibration batches, read once.
        target: see ``targets.target``.
        method: calibration method, see ``calibration.calibrate``.
        threads: as for ``Session``.
        progress: called after each batch with the number of samples seen.
        known: ranges found before, in place of a calibration.
        floats: first outputs of nodes that stay in float (``placement.quantizable``); where the target folds
            constants, their weights are stored as int8 all the same.

    Raises:
        ModelError: the graph is quantized already, or cannot run.
        DataError, UsageError: see ``calibration.calibrate``.
    """
    folded = fold_batchnorm(graph)
    calibration = known or calibrate(
        to_proto(folded.graph),
        quantized_tensors(folded.graph, target),
        data,
        method=method,
        threads=threads,
        progress=progress,
    )
    done = [folded, insert_qdq(folded.graph, calibration, target, floats)]
    if target.folds_constants:
        done.append(compress_weights(done[-1].graph))
    notes = tuple(note for result in done for note in result.notes)
    return Quantized(done[-1].graph, any(result.modified for result in done), notes, calibration=calibration)
