"""Weight-only INT4: the least sensitive Gemm and MatMul weights in blocks of 4 bits, activations in float.

A weight W [K, N] has one scale for every ``BLOCK`` inputs of an output, s = max(max w / 7, -min w / 8), and integers
q = round(w / s) in -8 .. 7: nearest; by ``round_weights.rounded`` where the moments of its input are known; and anew by
``round_in_order`` where there are data. A Gemm becomes MatMul and Add, and W a blocked DequantizeLinear of opset 21,
which onnxruntime 1.32 fuses with the MatMul into one that multiplies by 4-bit blocks; where a Relu follows at once it
does not, and W stays in float, which is faster there.

With S_n the Fisher information of the loss in output n's weights (``saliencies``), the change dW costs about
1/2 sum_n S_n |dW_n|^2 / K for errors that point nowhere in particular. Weights go to INT4 in ascending order of that
cost per parameter, until ``share`` of all parameters of Gemm and MatMul is reached.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from hqp_onnx.arrays import FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.graphs.weight_axes import weight_axes
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.insert_qdq import nearest
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.passes.round_in_order import Grid, round_in_order
from hqp_onnx.passes.round_weights import rounded
from hqp_onnx.progress import StageProgress
from hqp_onnx.statistics.moments import Moments

__all__ = ["quantize_int4"]

BLOCK = 32
OPSET = 21  # of blocked DequantizeLinear and INT4
_LOW, _HIGH = -8, 7


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A weight [K, N] as integers, and scales [blocks of K, N]."""

    integers: FloatArray
    scales: FloatArray
    cost: float  # of the loss, per parameter

    @property
    def steps(self) -> FloatArray:
        """The scale of each integer."""
        return np.repeat(self.scales, BLOCK, axis=0)[: len(self.integers)]

    @property
    def grid(self) -> Grid:
        """Of the weight's rows, which are its outputs."""
        return Grid(self.steps.T, _LOW, _HIGH)

    def of(self, weight: FloatArray) -> _Blocks:
        """The same with the integers of a ``weight`` on the grid."""
        return replace(self, integers=nearest(weight, self.steps, _HIGH, _LOW))


def quantize_int4(
    graph: gs.Graph,
    sensitivity: Mapping[str, FloatArray],
    share: float,
    moments: Mapping[str, Moments] | None = None,
    data: Iterable[Batch] | None = None,
    progress: StageProgress | None = None,
) -> PassResult:
    """``graph`` with the least sensitive Gemm and MatMul weights in INT4, at opset 21 or newer.

    Args:
        graph: float32, canonical, sorted.
        sensitivity: weight -> Fisher information of its filters, float64 [outputs] (the saliency ``fisher``); weights
            without it stay in float.
        share: of the parameters of those weights, 0 to 1.
        moments: of the weights' inputs, by weight name; without, weights are rounded to nearest.
        data: samples to round the chosen weights anew by, in order; None leaves it at that.
        progress: of that.

    Raises:
        UsageError: a share outside 0..1.
        ModelError: the opset cannot be converted to 21.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"{{--int4_weights}} {share}: expected a share of the Gemm and MatMul weights, 0 to 1")
    graph = raise_opset(graph, OPSET).graph
    nodes = _nodes(graph, sensitivity)
    coded = {name: _blocks(_matrix(node), sensitivity[name], (moments or {}).get(name)) for name, node in nodes.items()}
    room = share * sum(blocks.integers.size for blocks in coded.values())
    chosen: dict[str, _Blocks] = {}
    for name in sorted(coded, key=lambda name: coded[name].cost):
        room -= coded[name].integers.size
        if room < -0.5:
            break
        chosen[name] = coded[name]
    if data is not None and chosen:
        graph = _in_order(graph, chosen, data, progress)
        nodes = _nodes(graph, chosen)
        chosen = {name: blocks.of(_matrix(nodes[name])) for name, blocks in chosen.items()}
    names, notes = UniqueNames(graph), []
    for name, blocks in chosen.items():
        _store(graph, nodes[name], blocks, names)
        notes.append(f"{name}: INT4, costs {blocks.cost:.2g} of the loss per parameter")
    graph.cleanup().toposort()
    none = "no weight was stored in INT4: no Gemm or MatMul reads a constant matrix, alone, of finite numbers"
    return PassResult(graph, bool(notes), tuple(notes), () if notes or not share else (none,))


def _nodes(graph: gs.Graph, weights: Container[str]) -> dict[str, gs.Node]:
    """The node of each of the ``weights`` that may be INT4."""
    return {node.inputs[1].name: node for node in graph.nodes if _takes_int4(node) and node.inputs[1].name in weights}


def _in_order(
    graph: gs.Graph, chosen: Mapping[str, _Blocks], data: Iterable[Batch], progress: StageProgress | None
) -> gs.Graph:
    """``graph`` with the ``chosen`` weights on their grids."""
    start = graph.copy()
    for name, node in _nodes(start, chosen).items():
        values = chosen[name].integers * chosen[name].steps
        values = values if weight_axes(node, 2).output else values.T
        node.inputs[1].values = np.ascontiguousarray(values, node.inputs[1].dtype)
    grids = {name: blocks.grid for name, blocks in chosen.items()}
    return round_in_order(graph, start, grids, data, progress=progress).graph


def _takes_int4(node: gs.Node) -> bool:
    """Whether ``node`` multiplies an activation by a constant float matrix that it alone reads, and no Relu follows."""
    if operator(node) not in ("Gemm", "MatMul") or not isinstance(node.inputs[0], gs.Variable):
        return False
    weight = node.inputs[1]
    plain = [node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0), node.attrs.get("transA", 0)] == [1.0, 1.0, 0]
    constant = isinstance(weight, gs.Constant) and len(weight.shape) == 2 and weight.dtype in (np.float32, np.float16)
    constant = constant and is_finite(weight)
    fuses = len(node.inputs) > 2 or all(reader.op != "Relu" for reader in node.outputs[0].outputs)
    return bool(plain and constant and fuses and len(weight.outputs) == 1)


def _matrix(node: gs.Node) -> FloatArray:
    """The weight as [K, N]."""
    values: FloatArray = node.inputs[1].values.astype(np.float64)
    return values if weight_axes(node, 2).output else values.T


def _blocks(weight: FloatArray, sensitivity: FloatArray, moments: Moments | None) -> _Blocks:
    inputs = len(weight)
    starts = np.arange(0, inputs, BLOCK)
    highest, lowest = (end.reduceat(weight, starts, axis=0) for end in (np.maximum, np.minimum))
    tops = np.maximum(highest / _HIGH, lowest / _LOW)
    blocks = _Blocks(weight, np.where(tops > 0, tops, 1.0).astype(np.float32).astype(np.float64), 0.0)
    grid = blocks.grid
    refined = None if moments is None else rounded(weight.T, grid.steps, moments.gram, _HIGH, low=_LOW)
    blocks = blocks.of(weight) if refined is None else replace(blocks, integers=refined.T)
    change = np.square(blocks.integers * blocks.steps - weight).sum(0)
    return replace(blocks, cost=float(sensitivity @ change) / (2 * inputs * weight.size))


def _store(graph: gs.Graph, node: gs.Node, blocks: _Blocks, names: UniqueNames) -> None:
    """Make ``node`` a MatMul by the dequantized blocks, with an Add behind it where it had a bias."""
    name, output = node.inputs[1].name, node.outputs[0]
    integers, kind = blocks.integers.astype(np.int8), node.inputs[1].dtype
    packed = onnx.helper.make_tensor(
        names.tensor(f"{name}/int4"), onnx.TensorProto.INT4, integers.shape, integers.ravel()
    )
    restored = gs.Variable(names.tensor(f"{name}/dequantized"), kind, integers.shape)
    inputs = [
        gs.Constant(packed.name, LazyValues(packed)),
        gs.Constant(names.tensor(f"{name}/scale"), blocks.scales.astype(kind)),
    ]
    attributes = {"axis": 0, "block_size": BLOCK}
    graph.nodes.append(gs.Node("DequantizeLinear", names.node(f"{name}/DQ"), attributes, inputs, [restored]))
    bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    node.op, node.attrs, node.inputs = "MatMul", {}, [node.inputs[0], restored]
    if bias is not None:
        product = gs.Variable(names.tensor(f"{output.name}/product"), kind)
        node.outputs = [product]
        graph.nodes.append(gs.Node("Add", names.node(f"{node.name}/bias"), {}, [product, bias], [output]))
