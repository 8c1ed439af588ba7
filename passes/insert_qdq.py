"""Insert quantize/dequantize pairs on activations; store weights, and biases where wanted, as integers.

    activation   x -> DQ(Q(x)):  q = clip(round(x / s) + z),  x' = s (q - z)           per tensor
    weight       W -> DQ(int8):  s_c = max|W_c| / limit,  q = round(W_c / s_c)         per output channel c, or all
    bias         b -> DQ(int32): s = s_x s_c,  q = round(b / s)                        exact to half a product unit

Where the target takes float8 (E4M3), s = max|x| / 448 and q is the float of 8 bits that is nearest to x / s.

A bias must fit its int32: s_c is at least |b_c| / (s_x 2^30), which also gives channels whose weights are all zero a
scale that resolves their bias. Formats and places are the target's (``targets``, ``placement``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hqp_onnx.arrays import FloatArray
from hqp_onnx.counts import counted
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import is_quantized
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.graphs.weight_axes import weight_axes
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.quantization.placement import Placement, place
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.statistics.calibration import Calibration, Range

__all__ = ["WeightScales", "along", "insert_qdq", "nearest", "weight_scales"]

_INT32_ROOM = 2.0**30
_TINY = float(np.finfo(np.float32).tiny)

WeightScales = Mapping[tuple[str, int], NDArray[np.float32]]
"""(weight, axis of its output channels) -> scale of each."""


@dataclass(frozen=True)
class _Format:
    """Scale and zero-point of one activation range, that of ``source``."""

    source: str
    scale: np.float32
    zero: int


def insert_qdq(
    graph: gs.Graph,
    calibration: Calibration,
    target: Target,
    floats: Collection[str] = (),
    scales: WeightScales | None = None,
) -> PassResult:
    """``graph`` quantized for ``target``.

    Args:
        graph: float32, canonical, sorted, BatchNormalization folded; inputs and outputs keep name, type and shape.
        calibration: ranges of at least ``placement.quantized_tensors(graph, target)``.
        target: number formats and places.
        floats: first outputs of nodes that stay in float.
        scales: of weights that lie on a grid already; the others get theirs (``weight_scales``).

    Raises:
        ModelError: the graph is quantized already, a range is missing, or its opset cannot be converted.
    """
    _check_float(graph)
    raised = raise_opset(graph, target.min_opset)
    graph, notes = raised.graph, [*raised.notes]
    if graph.opset > target.max_opset:
        notes.append(f"opset {graph.opset} is above {target.max_opset}, the highest known to {target.name}")
    placement = place(graph, target, floats, calibration.unbounded)
    by_tensor = _formats(placement, calibration, target)
    tensors, names = graph.tensors(), UniqueNames(graph)
    forms = {form.source: form for form in by_tensor.values()}
    constants = {source: _constants(form, target, names) for source, form in forms.items()}
    _quantize_weights(graph, placement, by_tensor, target, scales or {}, names)
    for name, form in by_tensor.items():
        _insert_pair(graph, tensors[name], constants[form.source], names)
    graph.cleanup().toposort()
    weighted = counted(len(placement.weighted), "weighted node")
    summary = f"{counted(len(placement.tensors), 'activation')} and {weighted} quantized"
    warnings = [
        f"'{name}' is NaN or infinite on calibration samples, and stays in float" for name in calibration.unbounded
    ]
    if not placement.weighted and not floats:
        warnings.append("no node was quantized: " + "; ".join(placement.notes[:3] or ["there is none that could be"]))
    return PassResult(graph, bool(placement.tensors), (summary, *notes, *placement.notes), tuple(warnings))


def weight_scales(graph: gs.Graph, calibration: Calibration, target: Target) -> WeightScales:
    """The scales that ``insert_qdq`` gives the weights of ``graph``; arguments and errors as there."""
    placement = place(graph, target, unbounded=calibration.unbounded)
    formats = _formats(placement, calibration, target)
    shared = _sharing(graph, placement)
    return {key: _scales(nodes, key[1], formats, target) for key, nodes in shared.items()}


def along(values: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """``values`` [channels] as an array of ``rank`` axes that broadcasts along ``axis``."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def nearest(values: NDArray[Any], steps: NDArray[Any], limit: int, low: int | None = None) -> FloatArray:
    """Integers from ``low`` (-limit) to ``limit`` whose products with ``steps`` (that broadcast) are nearest."""
    integers: FloatArray = np.clip(np.rint(values.astype(np.float64) / steps), -limit if low is None else low, limit)
    return integers


def _check_float(graph: gs.Graph) -> None:
    for node in graph.nodes:
        if is_quantized(node.op):
            raise ModelError(f"node '{node.name}' ({node.op}): the model is quantized already; give the float model")


def _formats(placement: Placement, calibration: Calibration, target: Target) -> dict[str, _Format]:
    formats = {source: _format(source, calibration, target) for source in placement.tensors.values()}
    return {name: formats[source] for name, source in placement.tensors.items()}


def _format(name: str, calibration: Calibration, target: Target) -> _Format:
    if name not in calibration.ranges:
        raise ModelError(
            f"the calibration has no range for tensor '{name}': calibrate quantized_tensors(graph, target)"
        )
    return _Format(name, *quantization(calibration.ranges[name], target))


def _constants(form: _Format, target: Target, names: UniqueNames) -> tuple[gs.Constant, gs.Constant]:
    return (
        gs.Constant(names.tensor(f"{form.source}/scale"), np.array(form.scale, np.float32)),
        gs.Constant(names.tensor(f"{form.source}/zero_point"), np.array(form.zero, target.activation_type)),
    )


def quantization(observed: Range, target: Target) -> tuple[np.float32, int]:
    """Scale (float32, above 0) and zero-point of an activation."""
    if target.symmetric:
        return np.float32(max(observed.threshold / target.activation_limit, _TINY)), 0
    lo, hi = observed.clipped
    scale = np.float32(max((hi - lo) / 255, _TINY)) if hi > lo else np.float32(observed.threshold / 255)
    return scale, round(-lo / float(scale))


def _insert_pair(
    graph: gs.Graph, tensor: gs.Variable, form: tuple[gs.Constant, gs.Constant], names: UniqueNames
) -> None:
    """Route all uses of ``tensor`` through a pair; an output of the graph keeps its name and its dequantized value."""
    stem = tensor.name
    quantized = gs.Variable(names.tensor(f"{stem}/quantized"), form[1].dtype, tensor.shape)
    if any(t is tensor for t in graph.outputs) and tensor.inputs:
        restored, tensor = tensor, gs.Variable(names.tensor(f"{stem}/float"), np.float32, tensor.shape)
        _replace(restored.inputs[0].outputs, restored, tensor)
    else:
        restored = gs.Variable(names.tensor(f"{stem}/dequantized"), np.float32, tensor.shape)
        for node in graph.nodes:
            _replace(node.inputs, tensor, restored)
    graph.nodes += [
        gs.Node("QuantizeLinear", names.node(f"{stem}/Q"), {}, [tensor, *form], [quantized]),
        gs.Node("DequantizeLinear", names.node(f"{stem}/DQ"), {}, [quantized, *form], [restored]),
    ]


def _replace(tensors: list[gs.Tensor], old: gs.Tensor, new: gs.Tensor) -> None:
    for i, tensor in enumerate(tensors):
        if tensor is old:
            tensors[i] = new


def _quantize_weights(
    graph: gs.Graph,
    placement: Placement,
    formats: Mapping[str, _Format],
    target: Target,
    scales: WeightScales,
    names: UniqueNames,
) -> None:
    """One int8 initializer and DQ per weight and axis; its scales suit the biases of every node that shares it."""
    for (name, axis), nodes in _sharing(graph, placement).items():
        weight = nodes[0].inputs[1]
        scale = scales[name, axis] if (name, axis) in scales else _scales(nodes, axis, formats, target)
        stored = _stored(weight.values, along(scale, axis, weight.values.ndim), target)
        one = _is_stack(nodes[0])  # kernels of such products take one scale, as a scalar
        restored = _dequantized(graph, f"{weight.name}/axis{axis}", stored, scale[0] if one else scale, axis, names)
        for node in nodes:
            node.inputs[1] = restored
            if target.int32_bias and _has_bias(node):
                _quantize_bias(graph, node, scale, formats, names)


def _stored(values: NDArray[Any], steps: NDArray[Any], target: Target) -> NDArray[Any]:
    if target.float8:
        limit = target.weight_limit
        floats: NDArray[Any] = np.clip((values / steps).astype(np.float32), -limit, limit)
        return floats.astype(target.activation_type)
    return nearest(values, steps, target.weight_limit).astype(np.int8)


def _sharing(graph: gs.Graph, placement: Placement) -> dict[tuple[str, int], list[gs.Node]]:
    """The nodes of each constant weight, by the axis of its output channels."""
    shared: dict[tuple[str, int], list[gs.Node]] = {}
    for node in graph.nodes:
        if node.outputs and node.outputs[0].name in placement.weighted and isinstance(node.inputs[1], gs.Constant):
            weight = node.inputs[1]
            shared.setdefault((weight.name, weight_axes(node, len(weight.shape)).output), []).append(node)
    return shared


def _scales(nodes: list[gs.Node], axis: int, formats: Mapping[str, _Format], target: Target) -> NDArray[np.float32]:
    """Scales of the weight that ``nodes`` share."""
    values = np.moveaxis(nodes[0].inputs[1].values.astype(np.float64), axis, 0)
    scale = np.abs(values).max(axis=tuple(range(1, values.ndim))) / target.weight_limit
    scale = np.full_like(scale, scale.max()) if any(map(_is_stack, nodes)) else scale
    if target.int32_bias:
        for node in nodes:
            scale = np.maximum(scale, _least_scale(node, len(scale), formats))
    return np.where(scale > _TINY, scale, 1.0).astype(np.float32)


def _least_scale(node: gs.Node, channels: int, formats: Mapping[str, _Format]) -> FloatArray:
    """Weight scales at which the bias fits its int32, and the bias's scale is a normal float32."""
    return np.maximum(np.abs(_bias(node, channels)) / _INT32_ROOM, _TINY) / _input_scale(node, formats)


def _quantize_bias(
    graph: gs.Graph,
    node: gs.Node,
    weight_scale: NDArray[np.float32],
    formats: Mapping[str, _Format],
    names: UniqueNames,
) -> None:
    scale = (weight_scale * _input_scale(node, formats)).astype(np.float32)
    integers = np.rint(_bias(node, len(scale)) / scale).astype(np.int32)
    node.inputs[2] = _dequantized(graph, f"{node.outputs[0].name}/bias", integers, scale, 0, names)


def _dequantized(
    graph: gs.Graph,
    stem: str,
    integers: NDArray[Any],
    scale: NDArray[np.float32] | np.float32,
    axis: int,
    names: UniqueNames,
) -> gs.Variable:
    output = gs.Variable(names.tensor(f"{stem}/dequantized"), np.float32, integers.shape)
    inputs = [
        gs.Constant(names.tensor(f"{stem}/quantized"), np.ascontiguousarray(integers)),
        gs.Constant(names.tensor(f"{stem}/scale"), np.asarray(scale)),
        gs.Constant(names.tensor(f"{stem}/zero_point"), np.zeros(np.shape(scale), integers.dtype)),
    ]
    graph.nodes.append(gs.Node("DequantizeLinear", names.node(f"{stem}/DQ"), {"axis": axis}, inputs, [output]))
    return output


def _is_stack(node: gs.Node) -> bool:
    """Whether ``node`` multiplies by several matrices, or one written as several."""
    return node.op == "MatMul" and len(node.inputs[1].shape) > 2


def _has_bias(node: gs.Node) -> bool:
    return len(node.inputs) > 2 and not node.inputs[2].is_empty()


def _bias(node: gs.Node, channels: int) -> FloatArray:
    """Bias per output channel, zeros where there is none."""
    if not _has_bias(node):
        return np.zeros(channels)
    return np.broadcast_to(node.inputs[2].values.astype(np.float64).reshape(-1), (channels,))


def _input_scale(node: gs.Node, formats: Mapping[str, _Format]) -> float:
    return float(formats[node.inputs[0].name].scale)
