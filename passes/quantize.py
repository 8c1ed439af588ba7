"""Float graph in, INT8 graph out: fold BatchNormalization, calibrate, insert Q/DQ, compress what stays in float."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_graphsurgeon as gs

from hqp_onnx.calibration import Calibration, Progress, calibrate
from hqp_onnx.dataset import Batch
from hqp_onnx.model_io import to_proto
from hqp_onnx.passes.compress_weights import compress_weights
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.insert_qdq import insert_qdq
from hqp_onnx.placement import quantized_tensors
from hqp_onnx.targets import Target

__all__ = ["quantize"]


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
) -> tuple[gs.Graph, Calibration]:
    """``graph`` in INT8 for ``target``, and the ranges it was given.

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
    folded = fold_batchnorm(graph).graph
    calibration = known or calibrate(
        to_proto(folded), quantized_tensors(folded, target), data, method=method, threads=threads, progress=progress
    )
    quantized = insert_qdq(folded, calibration, target, floats).graph
    return compress_weights(quantized).graph if target.folds_constants else quantized, calibration
