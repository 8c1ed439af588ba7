"""Weight-only INT4: the least sensitive Gemm and MatMul weights in blocks of 4 bits, activations in float.

A weight W [K, N] has one scale for every ``BLOCK`` inputs of an output, s = max(max w / 7, -min w / 8), and integers
q = round(w / s) in -8 .. 7: nearest; by ``round_weights.rounded`` where the moments of its input are known; and anew by
``round_in_order`` where there are data. A Gemm becomes MatMul and Add, and W a blocked DequantizeLinear of opset 21,
which onnxruntime 1.32 fuses with the MatMul into one that multiplies by 4-bit blocks; where a Relu follows at once it
does not, and W stays in float, which is faster there.

Weights of a Conv of one group (on request) become Reshape(Mul(Cast(q), s)) of blocks of about as many inputs, which
runtimes compute when they load the model (``compress_weights``): a smaller file, and a Conv in float.

With S_n the Fisher information of the loss in output n's weights (``saliencies``), the change dW costs about
1/2 sum_n S_n |dW_n|^2 / K for errors that point nowhere in particular. Weights go to INT4 in ascending order of that
cost per parameter, until ``share`` of all parameters of Gemm and MatMul is reached.
"""

from __future__ import annotations

import math
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

__all__ = ["PreparedInt4", "check_share", "finish_int4", "int4_share", "prepare_int4", "quantize_int4"]

BLOCK = 32
OPSET = 21  # of blocked DequantizeLinear and INT4
_LOW, _HIGH = -8, 7
_FEWEST = 8  # of a scale of 32 bits


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A weight [K, N] as integers, and scales [blocks of K, N], each of ``block`` inputs, the last of some of them."""

    integers: FloatArray
    scales: FloatArray
    block: int
    cost: float = 0.0  # of the loss, per parameter

    @property
    def steps(self) -> FloatArray:
        """The scale of each integer."""
        return np.repeat(self.scales, self.block, axis=0)[: len(self.integers)]

    @property
    def grid(self) -> Grid:
        """Of the weight's rows, which are its outputs."""
        return Grid(self.steps.T, _LOW, _HIGH)

    def of(self, weight: FloatArray) -> _Blocks:
        """The same with the integers of a ``weight`` on the grid."""
        return replace(self, integers=nearest(weight, self.steps, _HIGH, _LOW))


def check_share(share: float) -> None:
    """Raise ``UsageError`` for a share outside 0..1."""
    if not 0 <= share <= 1:
        raise UsageError(f"{{--int4_weights}} {share}: expected a share of the weights, 0 to 1")


@dataclass(frozen=True, eq=False)
class PreparedInt4:
    """A graph at opset 21 or newer, not to be changed, and the weights that may be INT4, cheapest first."""

    graph: gs.Graph
    coded: Mapping[str, _Blocks]
    convolutions: bool

    def within(self, share: float) -> list[str]:
        """The weights that come before the first that does not fit into a ``share`` of all parameters."""
        sizes = np.cumsum([blocks.integers.size for blocks in self.coded.values()])
        return list(self.coded)[: int(np.sum(sizes <= share * sizes[-1] + 0.5)) if len(sizes) else 0]


def prepare_int4(
    graph: gs.Graph,
    sensitivity: Mapping[str, FloatArray],
    moments: Mapping[str, Moments] | None = None,
    *,
    convolutions: bool = False,
) -> PreparedInt4:
    """Round all weights of ``graph`` that may be INT4, each alone; arguments and errors as for ``quantize_int4``."""
    graph = raise_opset(graph, OPSET).graph
    nodes = _nodes(graph, sensitivity, convolutions)
    coded = {name: _blocks(node, sensitivity[name], (moments or {}).get(name)) for name, node in nodes.items()}
    ordered = {name: coded[name] for name in sorted(coded, key=lambda name: coded[name].cost)}
    return PreparedInt4(graph, ordered, convolutions)


def finish_int4(
    prepared: PreparedInt4,
    weights: Iterable[str],
    data: Iterable[Batch] | None = None,
    progress: StageProgress | None = None,
    *,
    threads: int = 0,
) -> PassResult:
    """These ``weights`` in INT4; with ``data`` they are rounded anew, in order."""
    graph, chosen = prepared.graph.copy(), {name: prepared.coded[name] for name in weights}
    nodes = _nodes(graph, chosen, prepared.convolutions)
    if data is not None and chosen:
        graph = _in_order(graph, nodes, chosen, data, progress, threads)
        nodes = _nodes(graph, chosen, prepared.convolutions)
        chosen = {name: blocks.of(_matrix(nodes[name])) for name, blocks in chosen.items()}
    names, notes = UniqueNames(graph), []
    for name, blocks in chosen.items():
        store = _store_patches if operator(nodes[name]) == "Conv" else _store
        store(graph, nodes[name], blocks, names)
        notes.append(f"{name}: INT4, costs {blocks.cost:.2g} of the loss per parameter")
    graph.cleanup().toposort()
    return PassResult(graph, bool(notes), tuple(notes))


def quantize_int4(
    graph: gs.Graph,
    sensitivity: Mapping[str, FloatArray],
    share: float,
    moments: Mapping[str, Moments] | None = None,
    data: Iterable[Batch] | None = None,
    progress: StageProgress | None = None,
    *,
    convolutions: bool = False,
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
        convolutions: those of Conv, too.

    Raises:
        UsageError: a share outside 0..1.
        ModelError: the opset cannot be converted to 21.
    """
    check_share(share)
    prepared = prepare_int4(graph, sensitivity, moments, convolutions=convolutions)
    return int4_share(prepared, share, data, progress)


def int4_share(
    prepared: PreparedInt4, share: float, data: Iterable[Batch] | None = None, progress: StageProgress | None = None
) -> PassResult:
    """The cheapest weights of ``prepared`` in INT4, a ``share`` of the parameters; see ``quantize_int4``."""
    made = finish_int4(prepared, prepared.within(share), data, progress)
    nothing = _none(prepared.coded, share, prepared.convolutions)
    return replace(made, warnings=(nothing,) * (bool(share) and not made.modified))


def _none(coded: Mapping[str, _Blocks], share: float, convolutions: bool) -> str:
    """Why no weight is stored."""
    kinds = "Gemm, MatMul or Conv" if convolutions else "Gemm or MatMul"
    if not coded:
        return f"no weight was stored in INT4: no {kinds} reads a constant, alone, of finite numbers"
    name = min(coded, key=lambda name: coded[name].cost)
    size, total = coded[name].integers.size, sum(blocks.integers.size for blocks in coded.values())
    return (
        f"no weight was stored in INT4: the least sensitive, '{name}', has {size} of {total} parameters, more than the "
        f"share of {share:g} allows"
    )


def _nodes(graph: gs.Graph, weights: Container[str], convolutions: bool) -> dict[str, gs.Node]:
    """The node of each of the ``weights`` that may be INT4."""
    takes = [node for node in graph.nodes if _takes_int4(node) or (convolutions and _is_plain_conv(node))]
    return {node.inputs[1].name: node for node in takes if node.inputs[1].name in weights}


def _in_order(
    graph: gs.Graph,
    nodes: Mapping[str, gs.Node],
    chosen: Mapping[str, _Blocks],
    data: Iterable[Batch],
    progress: StageProgress | None,
    threads: int,
) -> gs.Graph:
    """``graph`` with the ``chosen`` weights on their grids."""
    start = graph.copy()
    tensors = start.tensors()
    for name, blocks in chosen.items():
        values = blocks.integers * blocks.steps
        values = values if _outputs_last(nodes[name]) else values.T.reshape(tensors[name].shape)
        tensors[name].values = np.ascontiguousarray(values, tensors[name].dtype)
    grids = {name: blocks.grid for name, blocks in chosen.items()}
    return round_in_order(graph, start, grids, data, threads=threads, progress=progress).graph


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


def _is_plain_conv(node: gs.Node) -> bool:
    """Whether ``node`` is a Conv of one group with a constant weight of finite numbers that it alone reads."""
    if operator(node) != "Conv" or node.attrs.get("group", 1) != 1 or not isinstance(node.inputs[1], gs.Constant):
        return False
    weight = node.inputs[1]
    return weight.dtype in (np.float32, np.float16) and is_finite(weight) and len(weight.outputs) == 1


def _outputs_last(node: gs.Node) -> bool:
    return bool(weight_axes(node, len(node.inputs[1].shape)).output)


def _matrix(node: gs.Node) -> FloatArray:
    """The weight as [K, N]."""
    values: FloatArray = node.inputs[1].values.astype(np.float64)
    return values if _outputs_last(node) else values.reshape(len(values), -1).T


def _divisor(inputs: int) -> int:
    """The one nearest to ``BLOCK``, as a factor; not so small that scales take more than integers."""
    divisors = [d for d in range(1, inputs + 1) if inputs % d == 0 and (d >= _FEWEST or d == inputs)]
    return min(divisors, key=lambda d: abs(math.log(d / BLOCK)))


def _blocks(node: gs.Node, sensitivity: FloatArray, moments: Moments | None) -> _Blocks:
    weight = _matrix(node)
    inputs = len(weight)
    block = _divisor(inputs) if operator(node) == "Conv" else BLOCK
    starts = np.arange(0, inputs, block)
    highest, lowest = (end.reduceat(weight, starts, axis=0) for end in (np.maximum, np.minimum))
    scales = np.maximum(highest / _HIGH, lowest / _LOW).astype(node.inputs[1].dtype)  # 0 for the smallest numbers, too
    blocks = _Blocks(weight, np.where(scales > 0, scales, 1.0).astype(np.float64), block)
    known = moments is not None and len(moments.mean) == inputs  # not of a Conv with too many for patches
    refined = rounded(weight.T, blocks.grid.steps, moments.gram, _HIGH, low=_LOW) if moments and known else None
    blocks = blocks.of(weight) if refined is None else replace(blocks, integers=refined.T)
    change = np.square(blocks.integers * blocks.steps - weight).sum(0)
    return replace(blocks, cost=float(sensitivity @ change) / (2 * inputs * weight.size))


def _store(graph: gs.Graph, node: gs.Node, blocks: _Blocks, names: UniqueNames) -> None:
    """Make ``node`` a MatMul by the dequantized blocks, with an Add behind it where it had a bias."""
    name, output = node.inputs[1].name, node.outputs[0]
    integers, kind = blocks.integers, node.inputs[1].dtype
    restored = gs.Variable(names.tensor(f"{name}/dequantized"), kind, integers.shape)
    inputs = [_packed(name, integers, names), gs.Constant(names.tensor(f"{name}/scale"), blocks.scales.astype(kind))]
    attributes = {"axis": 0, "block_size": blocks.block}
    graph.nodes.append(gs.Node("DequantizeLinear", names.node(f"{name}/DQ"), attributes, inputs, [restored]))
    bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    node.op, node.attrs, node.inputs = "MatMul", {}, [node.inputs[0], restored]
    if bias is not None:
        product = gs.Variable(names.tensor(f"{output.name}/product"), kind)
        node.outputs = [product]
        graph.nodes.append(gs.Node("Add", names.node(f"{node.name}/bias"), {}, [product, bias], [output]))


def _store_patches(graph: gs.Graph, node: gs.Node, blocks: _Blocks, names: UniqueNames) -> None:
    """Let the weight of a Conv come from its blocks, by operators on constants."""
    weight, kind = node.inputs[1], node.inputs[1].dtype
    shape = [weight.shape[0], -1, blocks.block]
    floats, scaled, restored = (
        gs.Variable(names.tensor(f"{weight.name}/{part}"), kind) for part in ("float", "scaled", "restored")
    )
    packed = _packed(weight.name, blocks.integers.T.reshape(shape), names)
    scale = gs.Constant(names.tensor(f"{weight.name}/scale"), blocks.scales.T[:, :, None].astype(kind))
    sizes = gs.Constant(names.tensor(f"{weight.name}/shape"), np.array(weight.shape, np.int64))
    to = {"to": onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))}
    graph.nodes += [
        gs.Node("Cast", names.node(floats.name), to, [packed], [floats]),
        gs.Node("Mul", names.node(scaled.name), {}, [floats, scale], [scaled]),
        gs.Node("Reshape", names.node(restored.name), {}, [scaled, sizes], [restored]),
    ]
    restored.shape = weight.shape
    node.inputs[1] = restored


def _packed(name: str, integers: FloatArray, names: UniqueNames) -> gs.Constant:
    """INT4, two a byte, the first in its lower half."""
    halves = np.append(integers.ravel(), [0] * (integers.size % 2)).astype(np.int8).view(np.uint8) & 15
    content = (halves[::2] | halves[1::2] << 4).tobytes()
    wish = names.tensor(f"{name}/int4")
    stored = onnx.helper.make_tensor(wish, onnx.TensorProto.INT4, integers.shape, content, raw=True)
    return gs.Constant(stored.name, LazyValues(stored))
