"""Store float weights as integers that runtimes turn back into floats when they load the model.

    W -> Mul(Cast(q), s):  s_c = max|W_c| / 127,  q = round(W_c / s_c)   int8, per output channel c

(of LSTM, GRU and RNN: per row of each gate, of W and of R).

A weight that lies on a grid of known scales keeps it.

Both inputs are constant, so a runtime that folds constants computes W once, at load: arithmetic and speed are those
of float weights, the file is a quarter of the size. (A DequantizeLinear in their place is kept for INT8 kernels, and
runs at every inference.)
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hqp_onnx.arrays import FloatArray
from hqp_onnx.counts import counted
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.recurrent import GATES, WEIGHTS
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.graphs.weight_axes import WEIGHTED, weight_axes
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.insert_qdq import WeightScales, along, nearest

__all__ = ["compress_weights", "stored_scales"]

_SMALLEST = 64  # values; below, two more nodes and a scale cost more than they save
LIMIT = 127


def compress_weights(graph: gs.Graph, scales: WeightScales | None = None, gates: bool = True) -> PassResult:
    """``graph`` with the float32 weights of its products and look-ups stored as int8, as a copy.

    So are those in the graphs of its nodes, which then read them from outside.

    Args:
        graph: canonical.
        scales: of weights that lie on a grid already, with integers in [-127, 127].
        gates: store the weights of LSTM, GRU and RNN, too.
    """
    graph, known = graph.copy(), scales or {}
    names = UniqueNames(graph)
    stored: list[tuple[gs.Constant, gs.Variable]] = []
    inside = [graph, *graph.subgraphs(recursive=True)]
    for node in [node for inner in inside for node in inner.nodes if gates or operator(node) not in GATES]:
        for index, axis in _stored_inputs(node).items():
            weight = node.inputs[index]
            restored = next((there for own, there in stored if _same(own, weight)), None)
            if restored is None:
                restored = _store(graph, weight, axis, known.get((weight.name, axis)), names)
                stored.append((weight, restored))
            for reader in list(weight.outputs):  # a table that is transposed elsewhere, too: it is stored once
                reader.inputs = [restored if t is weight else t for t in reader.inputs]
    graph.cleanup().toposort()
    return PassResult(graph, bool(stored), (f"{counted(len(stored), 'float weight')} stored as int8",))


def stored_scales(graph: gs.Graph) -> WeightScales:
    """The scales that ``compress_weights`` gives weights of products and look-ups: (weight, axis of its channels)."""
    scales = {}
    for node in (node for node in graph.nodes if operator(node) not in GATES):
        for index, axis in _stored_inputs(node).items():
            weight = node.inputs[index]
            scales[weight.name, axis] = _scale(weight.values.astype(np.float64), axis).ravel()
    return scales


def _scale(values: FloatArray, axis: int) -> NDArray[np.float32]:
    """[channels], with axes of size 1 for the others."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / LIMIT
    return np.where(scale >= np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)


def _same(weight: gs.Constant, other: gs.Constant) -> bool:
    """Whether two are one weight: graphs inside nodes hold copies of what they read outside."""
    return weight.name == other.name and np.array_equal(weight.values, other.values)


def _stored_inputs(node: gs.Node) -> dict[int, int]:
    """Inputs of a node that are worth storing, and the axis along which each slice has a scale of its own."""
    if operator(node) in GATES:
        return {index: 1 for index in WEIGHTS if _worthwhile(node.inputs[index])}
    index = 0 if operator(node) == "Gather" else 1  # of a look-up, each row has a scale
    if operator(node) not in WEIGHTED | {"Gather"} or not _worthwhile(node.inputs[index]):
        return {}
    return {index: weight_axes(node, len(node.inputs[1].shape)).output if index else 0}


def _worthwhile(weight: gs.Tensor) -> bool:
    return (
        isinstance(weight, gs.Constant)
        and weight.dtype == np.float32
        and len(weight.shape) > 1
        and int(np.prod(weight.shape)) >= _SMALLEST
        and is_finite(weight)
    )


def _store(
    graph: gs.Graph, weight: gs.Constant, axis: int, known: NDArray[np.float32] | None, names: UniqueNames
) -> gs.Variable:
    """Add the nodes that restore ``weight``; their output."""
    values = weight.values.astype(np.float64)
    scale = _scale(values, axis) if known is None else along(known, axis, values.ndim)
    integers = gs.Constant(names.tensor(f"{weight.name}/int8"), nearest(values, scale, LIMIT).astype(np.int8))
    steps = gs.Constant(names.tensor(f"{weight.name}/scale"), scale)
    floats = gs.Variable(names.tensor(f"{weight.name}/float"), np.float32, weight.shape)
    restored = gs.Variable(names.tensor(f"{weight.name}/restored"), np.float32, weight.shape)
    graph.nodes += [
        gs.Node("Cast", names.node(f"{weight.name}/float"), {"to": onnx.TensorProto.FLOAT}, [integers], [floats]),
        gs.Node("Mul", names.node(f"{weight.name}/restored"), {}, [floats, steps], [restored]),
    ]
    return restored
