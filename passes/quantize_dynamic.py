"""Float graph in, dynamic INT8 out: weights are integers, activations become integers as they come.

    x W + b  ->  s_x s_W ((Q(x) - z) W8) + b        s_x, z: of the range of x in this very run, one for the tensor
                                                    s_W: one for each output channel

No range is calibrated, so none is exceeded: where activations of transformers have outliers, in the first token or
behind a LayerNormalization, each input has the range that it needs. It costs a pass over each input of a product, and
a sample's result depends, within the rounding, on those that share its batch. Products by a constant matrix (MatMul,
Gemm) have such kernels; convolutions stay in float.

The nodes are those that onnxruntime fuses: DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Add.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.tensor_types import FLOAT, TensorType, tensor_types
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.graphs.weight_axes import weight_axes
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compress_weights import compress_weights
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.insert_qdq import WeightScales, along, nearest
from hqp_onnx.passes.quantize import Recipe
from hqp_onnx.passes.round_weights import round_weights, roundable
from hqp_onnx.passes.smooth_products import smooth_products
from hqp_onnx.passes.widen_float16 import widen_float16
from hqp_onnx.progress import Progress, silent
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.statistics.moments import input_moments

__all__ = [
    "PreparedDynamic",
    "check_dynamic",
    "dynamic_nodes",
    "finish_dynamic",
    "prepare_dynamic",
    "quantize_dynamic",
]

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class PreparedDynamic(PassResult):
    """A float graph for ``finish_dynamic``; ``scales`` are those of the weights that become integers."""

    scales: WeightScales


def check_dynamic(precision: str, target: Target) -> None:
    """Raise ``UsageError`` where dynamic INT8 is asked for and ``target`` has no kernels for it."""
    if precision == "dynamic" and not target.dynamic:
        raise UsageError(
            f"{{--precision}} dynamic with {{--target}} {target.name}: only onnxruntime on the CPU has such kernels. "
            "Use {--precision} int8"
        )


def dynamic_nodes(graph: gs.Graph) -> list[str]:
    """First outputs of the nodes of a float graph that have a dynamic kernel, in graph order."""
    types = tensor_types(graph)
    return [
        node.outputs[0].name
        for node in graph.nodes
        if operator(node) in ("MatMul", "Gemm") and _has_kernel(node) and _is_float(node.inputs[0], types)
    ]


def quantize_dynamic(
    graph: gs.Graph,
    data: Iterable[Batch] | None,
    target: Target,
    *,
    threads: int = 0,
    recipe: Recipe | None = None,
    progress: Progress = silent,
) -> PassResult:
    """``graph`` in dynamic INT8; arguments as for ``prepare_dynamic``."""
    ready = prepare_dynamic(graph, data, target, threads=threads, recipe=recipe, progress=progress)
    return finish_dynamic(ready, target)


def prepare_dynamic(
    graph: gs.Graph,
    data: Iterable[Batch] | None,
    target: Target,
    *,
    threads: int = 0,
    recipe: Recipe | None = None,
    progress: Progress = silent,
) -> PreparedDynamic:
    """``graph`` with the weights of its products on their grids, rounded so that their results change least.

    Args:
        graph: float32 or float16, canonical and sorted; not changed.
        data: calibration batches, re-iterable; None leaves scales as they are, and rounds to nearest.
        target: see ``targets.target``.
        threads: as for ``Session``.
        recipe: what is done for accuracy with the data; None takes the defaults of ``Recipe``.
        progress: called as the moments for the rounding go on, and as weights are rounded.
    """
    chosen = recipe or Recipe()
    widened = widen_float16(graph)
    results: list[PassResult] = [widened, fold_batchnorm(widened.graph)]
    if data is not None and chosen.equalize:
        results.append(smooth_products(results[-1].graph, data, threads=threads))
    even, scales = results[-1].graph, {}
    wanted = set(dynamic_nodes(even))
    for node in even.nodes:
        if node.outputs and node.outputs[0].name in wanted:
            weight, axis = node.inputs[1], weight_axes(node, 2).output
            largest = np.abs(weight.values.astype(np.float64)).max(axis=1 - axis) / target.weight_limit
            scales[weight.name, axis] = np.where(largest > _TINY, largest, 1.0).astype(np.float32)
    if data is not None and chosen.round_weights:
        seen = partial(progress, "moments for rounding")
        moments = input_moments(to_proto(even), roundable(even, scales), data, threads=threads, progress=seen)
        rounded = partial(progress, "rounding")
        results.append(round_weights(even, moments, scales, target.weight_limit, progress=rounded))
    notes, warnings = (tuple(x for r in results for x in getattr(r, kind)) for kind in ("notes", "warnings"))
    return PreparedDynamic(results[-1].graph, any(r.modified for r in results), notes, warnings, scales=scales)


def finish_dynamic(prepared: PreparedDynamic, target: Target, floats: Collection[str] = ()) -> PassResult:
    """``prepared`` in dynamic INT8; what stays in float is stored as int8 where the target folds constants.

    Args:
        prepared: by ``prepare_dynamic``.
        target: the one that it was prepared for.
        floats: first outputs of nodes that stay in float.
    """
    graph = prepared.graph.copy()
    wanted = set(dynamic_nodes(graph)) - set(floats)
    nodes = [node for node in graph.nodes if node.outputs and node.outputs[0].name in wanted]
    writer = _Writer(graph, prepared.scales, target.weight_limit)
    for node in nodes:
        writer.replace(node)
    graph.cleanup().toposort()
    notes = (*prepared.notes, f"{len(nodes)} products by constant matrices compute in INT8; other weights are stored")
    nothing = ("no node was quantized: there is no product by a constant matrix",) * (not nodes and not floats)
    if target.folds_constants:
        graph = compress_weights(graph, prepared.scales, target.stores_gates).graph
    return PassResult(graph, bool(nodes), notes, (*prepared.warnings, *nothing))


class _Writer:
    """Puts integer products in the place of float ones; what several of them read is made once."""

    def __init__(self, graph: gs.Graph, scales: WeightScales, limit: int) -> None:
        self.graph, self.scales, self.limit, self.names = graph, scales, limit, UniqueNames(graph)
        self.inputs: dict[str, list[gs.Variable]] = {}
        self.weights: dict[tuple[str, int], tuple[gs.Constant, gs.Constant]] = {}

    def replace(self, node: gs.Node) -> None:
        """X W + b in integers, its result of the same name."""
        data, weight, *bias = [t for t in node.inputs if not t.is_empty()]
        result, stem = node.outputs[0], node.outputs[0].name
        node.inputs.clear()
        node.outputs.clear()
        integers, scale, zero = self.quantized(data)
        stored, steps = self.stored(weight, 1 - int(node.attrs.get("transB", 0)))
        product = self.op("MatMulInteger", f"{stem}/int32", [integers, stored, zero])
        floats = self.op("Cast", f"{stem}/cast", [product], to=onnx.TensorProto.FLOAT)
        factor = self.op("Mul", f"{stem}/factor", [scale, steps])
        if bias:
            scaled = self.op("Mul", f"{stem}/scaled", [floats, factor])
            self.graph.nodes.append(gs.Node("Add", self.names.node(f"{stem}/Add"), {}, [scaled, *bias], [result]))
        else:
            self.graph.nodes.append(gs.Node("Mul", self.names.node(f"{stem}/Mul"), {}, [floats, factor], [result]))

    def quantized(self, data: gs.Tensor) -> list[gs.Variable]:
        """Integers, scale and zero-point of an activation."""
        if data.name not in self.inputs:
            kinds = (("quantized", np.uint8), ("scale", np.float32), ("zero_point", np.uint8))
            outputs = [gs.Variable(self.names.tensor(f"{data.name}/{kind}"), dtype) for kind, dtype in kinds]
            name = self.names.node(f"{data.name}/DynamicQuantizeLinear")
            self.graph.nodes.append(gs.Node("DynamicQuantizeLinear", name, {}, [data], outputs))
            self.inputs[data.name] = outputs
        return self.inputs[data.name]

    def stored(self, weight: gs.Constant, axis: int) -> tuple[gs.Constant, gs.Constant]:
        """Integers [inputs, outputs] and steps [outputs] of a weight whose outputs are along ``axis``."""
        key = weight.name, axis
        if key not in self.weights:
            scale = self.scales[key]
            integers = nearest(weight.values, along(scale, axis, 2), self.limit).astype(np.int8)
            stored = np.ascontiguousarray(integers if axis else integers.T)
            self.weights[key] = (
                gs.Constant(self.names.tensor(f"{weight.name}/int8"), stored),
                gs.Constant(self.names.tensor(f"{weight.name}/steps"), scale),
            )
        return self.weights[key]

    def op(self, kind: str, wish: str, inputs: list[gs.Tensor], **attrs: int) -> gs.Variable:
        """The output of a new node."""
        output = gs.Variable(self.names.tensor(wish))
        self.graph.nodes.append(gs.Node(kind, self.names.node(wish), dict(attrs), inputs, [output]))
        return output


def _has_kernel(node: gs.Node) -> bool:
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or weight.dtype != np.float32 or len(weight.shape) != 2 or 0 in weight.shape:
        return False
    scaled = any(node.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta")) or node.attrs.get("transA", 0)
    return not scaled and is_finite(weight) and isinstance(node.inputs[0], gs.Variable)


def _is_float(tensor: gs.Tensor, types: Mapping[str, TensorType]) -> bool:
    return tensor.name not in types or types[tensor.name].element == FLOAT
