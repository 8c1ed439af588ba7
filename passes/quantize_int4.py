"""Weight-only INT4: the least sensitive Gemm and MatMul weights in blocks of 4 bits, activations in float.

A weight W [K, N] has one scale for every ``BLOCK`` inputs of an output, s = max|w| / 7, q = round(w / s) in -7 .. 7
(by ``round_weights.rounded`` where the moments of its input are known). A Gemm becomes MatMul and Add, and W a blocked
DequantizeLinear of opset 21, which onnxruntime 1.32 fuses with the MatMul into one that multiplies by 4-bit blocks;
where a Relu follows at once it does not, and W stays in float, which is faster there.

With S_n the Fisher information of the loss in output n's weights (``saliencies``), the change dW costs about
1/2 sum_n S_n |dW_n|^2 / K for errors that point nowhere in particular. Weights go to INT4 in ascending order of that
cost per parameter, until ``share`` of all parameters of Gemm and MatMul is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from hqp_onnx.arrays import FloatArray
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.graphs.weight_axes import weight_axes
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.insert_qdq import nearest
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.passes.round_weights import rounded
from hqp_onnx.statistics.moments import Moments

__all__ = ["check_share", "quantize_int4"]

BLOCK = 32
OPSET = 21  # of blocked DequantizeLinear and INT4
_LIMIT = 7


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A weight [K, N] as integers, and scales [blocks of K, N]."""

    integers: FloatArray
    scales: FloatArray
    cost: float  # of the loss, per parameter


def check_share(share: float) -> None:
    """Raise ``UsageError`` for a share outside 0..1."""
    if not 0 <= share <= 1:
        raise UsageError(f"{{--int4_weights}} {share}: expected a share of the Gemm and MatMul weights, 0 to 1")


def quantize_int4(
    graph: gs.Graph, sensitivity: Mapping[str, FloatArray], share: float, moments: Mapping[str, Moments] | None = None
) -> PassResult:
    """``graph`` with the least sensitive Gemm and MatMul weights in INT4, at opset 21 or newer.

    Args:
        graph: float32, canonical, sorted.
        sensitivity: weight -> Fisher information of its filters, float64 [outputs] (the saliency ``fisher``); weights
            without it stay in float.
        share: of the parameters of those weights, 0 to 1.
        moments: of the weights' inputs, by weight name; without, weights are rounded to nearest.

    Raises:
        UsageError: a share outside 0..1.
        ModelError: the opset cannot be converted to 21.
    """
    check_share(share)
    graph = raise_opset(graph, OPSET).graph
    nodes = {
        node.inputs[1].name: node for node in graph.nodes if _takes_int4(node) and node.inputs[1].name in sensitivity
    }
    coded = {name: _blocks(_matrix(node), sensitivity[name], (moments or {}).get(name)) for name, node in nodes.items()}
    room = share * sum(blocks.integers.size for blocks in coded.values())
    notes, names = [], UniqueNames(graph)
    for name in sorted(coded, key=lambda name: coded[name].cost):
        room -= coded[name].integers.size
        if room < -0.5:
            break
        _store(graph, nodes[name], coded[name], names)
        notes.append(f"{name}: INT4, costs {coded[name].cost:.2g} of the loss per parameter")
    graph.cleanup().toposort()
    none = "no weight was stored in INT4: no Gemm or MatMul reads a constant matrix, alone, of finite numbers"
    return PassResult(graph, bool(notes), tuple(notes), () if notes or not share else (none,))


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
    tops = np.maximum.reduceat(np.abs(weight), starts, axis=0)
    scales = np.where(tops > 0, tops / _LIMIT, 1.0).astype(np.float32).astype(np.float64)
    grid = np.repeat(scales, BLOCK, axis=0)[:inputs]
    refined = None if moments is None else rounded(weight.T, grid.T, moments.gram, _LIMIT)
    integers = nearest(weight, grid, _LIMIT) if refined is None else refined.T
    change = np.square(integers * grid - weight).sum(0)
    return _Blocks(integers, scales, float(sensitivity @ change) / (2 * inputs * weight.size))


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
