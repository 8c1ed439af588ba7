"""Bias correction: undo the shift that rounded weights cause in each output channel's mean.

A layer y = W x + b whose weight becomes W' shifts the mean of its output by (W - W') E[x]; added to b, the shift is
gone (Nagel et al. 2019, arXiv:1906.04721). The mean is that of float inputs, taken at every tap with its padding: a
twin of each layer with weight W - W' runs beside it in the float model. So one pass serves all layers: a shift that
a layer inherits is put right where it arises, and none is counted twice. (Corrections of E[y - y'] measured in the
INT8 model must go layer by layer, since each shift is passed on; taken for several layers at once they ruin it, and
one by one they gained nothing over this.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.insert_qdq import WeightScales, along, nearest
from hqp_onnx.statistics.channel_stats import channel_stats

__all__ = ["correct_bias"]

_TINY = float(np.finfo(np.float32).tiny)


def correct_bias(
    graph: gs.Graph,
    scales: WeightScales,
    limit: int,
    data: Iterable[Batch],
    *,
    skip: Collection[str] = (),
    threads: int = 0,
) -> PassResult:
    """A copy of ``graph``, still float, whose biases make up for the rounding of its weights.

    Args:
        graph: float32, canonical, sorted, BatchNormalization folded.
        scales: (weight, axis of its output channels) -> scales, float32 [channels] (``insert_qdq.weight_scales``).
        limit: largest integer of the grid.
        data: calibration batches, read once.
        skip: weights whose mean shift is dealt with elsewhere (``round_weights``).
        threads: as for ``Session``.

    Returns:
        The graph; a note on the number of biases, and on the largest correction in standard deviations.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the graph.
    """
    graph = graph.copy()
    losses = {name: _loss(graph, name, axis, scales[name, axis], limit) for name, axis in scales if name not in skip}
    nodes = [node for node in graph.nodes if _is_correctable(node) and node.inputs[1].name in losses]
    measured, names = graph.copy(), UniqueNames(graph)
    twins = {node.outputs[0].name: _twin(measured, node, losses[node.inputs[1].name], names) for node in nodes}
    read = [name for pair in twins.items() for name in pair]
    stats = channel_stats(to_proto(measured), dict.fromkeys(read, 0), data, threads=threads)
    finite = {own for own, twin in twins.items() if stats[own].is_finite and stats[twin].is_finite}
    worst, nodes = 0.0, [node for node in nodes if node.outputs[0].name in finite]
    for node in nodes:
        seen, shift = stats[node.outputs[0].name], stats[twins[node.outputs[0].name]].mean
        deviation = np.sqrt(np.maximum(seen.power - seen.mean**2, _TINY))
        worst = max(worst, float(np.abs(shift / deviation).max()))
        _add_bias(node, shift, names)
    notes = (f"{len(nodes)} biases corrected, by up to {worst:.2f} standard deviations",) if nodes else ()
    return PassResult(graph, bool(nodes), notes)


def _loss(graph: gs.Graph, name: str, axis: int, scale: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """What plain rounding takes away from a weight."""
    values: NDArray[np.float32] = graph.tensors()[name].values
    column = along(scale, axis, values.ndim).astype(np.float64)
    return (values - nearest(values, column, limit) * column).astype(np.float32)


def _twin(measured: gs.Graph, node: gs.Node, weight: NDArray[np.float32], names: UniqueNames) -> str:
    """Name of the output of a copy of ``node`` with another weight and no bias, added to ``measured``."""
    stem = f"{node.outputs[0].name}/rounding_loss"
    name = names.tensor(stem)
    source = measured.tensors()[node.inputs[0].name]
    constant, output = gs.Constant(names.tensor(f"{stem}/weight"), weight), gs.Variable(name, np.float32)
    measured.nodes.append(gs.Node(node.op, names.node(stem), dict(node.attrs), [source, constant], [output]))
    return name


def _is_correctable(node: gs.Node) -> bool:
    """Whether a Conv, ConvTranspose or Gemm has a constant weight, and a constant bias or room for one."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm") or not isinstance(node.inputs[1], gs.Constant):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or bias.is_empty():
        return True
    return isinstance(bias, gs.Constant) and len(bias.shape) == 1 and node.attrs.get("beta", 1.0) == 1.0


def _add_bias(node: gs.Node, shift: NDArray[np.float64], names: UniqueNames) -> None:
    old = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    values = shift if old is None else old.values + shift
    new = gs.Constant(
        names.tensor(f"{node.outputs[0].name}/corrected_bias"), values.astype(node.inputs[1].values.dtype)
    )
    node.inputs = [*node.inputs[:2], new]
