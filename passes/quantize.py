"""Float graph in, INT8 graph out: fold BatchNormalization, choose tensors, calibrate, insert Q/DQ."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from hqp_onnx.calibration import Calibration, Progress, calibrate
from hqp_onnx.dataset import Batch
from hqp_onnx.model_io import to_proto
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

    Raises:
        ModelError: the graph is quantized already, or cannot run.
        DataError, UsageError: see ``calibration.calibrate``.
    """
    folded = fold_batchnorm(graph).graph
    calibration = known or calibrate(
        to_proto(folded), quantized_tensors(folded, target), data, method=method, threads=threads, progress=progress
    )
    return insert_qdq(folded, calibration, target).graph, calibration
