"""The model that onnxruntime-training differentiates: forward, cross-entropy summed over samples, and inputs w.

fisher: w are the weights themselves.
taylor: y = W x + b becomes gate (W x) + b with a gate [rows, filters] of ones for every node that reads a weight. Then
dL/dgate_if = <W_f, dL_i/dW_f>: the gate of row i scales that row's filter f and nothing else.

onnxruntime-training 1.19.2 reads opset 21 and IR 10 at most, differentiates by graph inputs only, and needs the second
output of SoftmaxCrossEntropyLoss. Every size is stated: its MaxPoolGrad takes a symbolic one for 0, and writes into
memory that is not its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from hqp_onnx.arrays import Array
from hqp_onnx.errors import GradientError, one_line
from hqp_onnx.gradients.filters import Use, filter_axes, weight_uses
from hqp_onnx.gradients.loss import classes
from hqp_onnx.gradients.per_sample import Kind
from hqp_onnx.gradients.tape import Tape, refuse
from hqp_onnx.gradients.training.worker import IGNORED, LABELS, LOSS
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.nodes import number, operator, opset
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.graphs.unique_names import tensor_names
from hqp_onnx.graphs.weight_axes import CONVOLUTIONS
from hqp_onnx.passes.lowering.lower_for_training import lower_for_training
from hqp_onnx.runtimes.session import with_outputs

NEWEST_OPSET, NEWEST_IR = 21, 10
_PREFIX = "hqp_"  # of all that is added


@dataclass(frozen=True)
class LossModel:
    """What the worker needs.

    Attributes:
        model: with the scalar output ``LOSS`` and the input ``LABELS``.
        axes: filter axis of each weight that reaches the loss.
        values: fisher: the weights, which are inputs.
        gates: taylor: per weight, its gates with their shapes.
    """

    model: onnx.ModelProto
    axes: Mapping[str, int]
    values: Mapping[str, Array]
    gates: Mapping[str, Mapping[str, tuple[int, ...]]]


def loss_model(t: Tape, logits: str, kind: Kind, sample: Mapping[str, Array], rows: int) -> LossModel:
    """Build it from the traced model of ``t``, for ``rows`` rows like those of ``sample``.

    Raises:
        GradientError: the model is not float32, does not convert to opset 21, or samples do not stay apart.
    """
    model = _forward(t.model, logits)
    uses = weight_uses(model.graph)
    axes = {use.weight: use.axis for use in uses}
    if recurrent := next((use for use in uses if operator(use.node) in GATES), None):
        what = f"{operator(recurrent.node)} node '{recurrent.node.name}'"
        raise GradientError(f"{what} has no gradient in onnxruntime-training: use {{--engine}} native")
    if turned := next((use for use in uses if use.axis != filter_axes(uses)[use.weight]), None):
        raise GradientError(f"weight '{turned.weight}' is read along two axes: use {{--engine}} native")
    _state_sizes(t, model.graph, sample, rows)
    gates = _add_gates(t, model.graph, uses, rows) if kind == "taylor" else {}
    _add_loss(model.graph, logits, classes(t, logits), rows)
    values = _weights_as_inputs(model.graph, axes) if kind == "fisher" else {}
    return LossModel(model, axes, values, gates)


def _forward(model: onnx.ModelProto, logits: str) -> onnx.ModelProto:
    """Of ``model`` what ``logits`` needs, lowered, at an opset that onnxruntime-training reads."""
    for tensor in model.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise GradientError(f"'{tensor.name}' is {kind}: onnxruntime-training needs FLOAT. Use {{--engine}} native")
    if taken := sorted(name for name in tensor_names(model.graph) if name.startswith(_PREFIX)):
        raise GradientError(
            f"tensor '{taken[0]}' has a name that {{--engine}} onnxruntime-training needs: use {{--engine}} native"
        )
    typed = onnx.shape_inference.infer_shapes(with_outputs(model, [logits]))
    lowered = lower_for_training(to_proto(to_graph(typed).cleanup()))
    if opset(lowered) > NEWEST_OPSET:
        try:
            lowered = names_apart(partial(version_converter.convert_version, target_version=NEWEST_OPSET))(lowered)
        except (RuntimeError, ValueError) as e:
            raise GradientError(
                f"onnxruntime-training reads opset {NEWEST_OPSET}, the model has {opset(lowered)} and does not convert "
                f"({one_line(e)}): use {{--engine}} native"
            ) from e
    lowered.ir_version = min(lowered.ir_version, NEWEST_IR)
    del lowered.graph.output[:], lowered.graph.value_info[:]
    return lowered


def _state_sizes(t: Tape, graph: onnx.GraphProto, sample: Mapping[str, Array], rows: int) -> None:
    """Sizes of the inputs, and of what MaxPool nodes read."""
    kept = [value for value in graph.input if value.name in sample]
    del graph.input[:]
    for value in kept:
        element, sizes = value.type.tensor_type.elem_type, [rows, *sample[value.name].shape[1:]]
        graph.input.append(helper.make_tensor_value_info(value.name, element, sizes))
    known = {value.name for value in graph.input}
    for node in graph.node:
        name = node.input[0] if node.op_type == "MaxPool" else ""
        if name and name not in known:
            if None in t.dims(name)[1:] or name not in t.traced.rows:
                raise refuse(node, f"reads '{name}', which does not hold its samples along the first axis")
            sizes = [rows * t.traced.rows[name], *t.dims(name)[1:]]
            graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes))
            known.add(name)


def _add_loss(graph: onnx.GraphProto, logits: str, count: int, rows: int) -> None:
    shape = numpy_helper.from_array(np.array([rows, count]), "hqp_loss_shape")
    graph.initializer.append(shape)
    graph.node.append(helper.make_node("Reshape", [logits, shape.name], ["hqp_logits"], "hqp_logits"))
    inputs, outputs = ["hqp_logits", LABELS], [LOSS, "hqp_log_probabilities"]
    node = helper.make_node("SoftmaxCrossEntropyLoss", inputs, outputs, LOSS, reduction="sum", ignore_index=IGNORED)
    graph.node.append(node)
    graph.input.append(helper.make_tensor_value_info(LABELS, onnx.TensorProto.INT64, [rows]))
    graph.output.append(helper.make_tensor_value_info(LOSS, onnx.TensorProto.FLOAT, []))


def _weights_as_inputs(graph: onnx.GraphProto, axes: Mapping[str, int]) -> dict[str, Array]:
    weights = [tensor for tensor in graph.initializer if tensor.name in axes]
    values = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in weights}
    graph.input.extend(helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights)
    kept = [tensor for tensor in graph.initializer if tensor.name not in axes]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return values


def _add_gates(t: Tape, graph: onnx.GraphProto, uses: list[Use], rows: int) -> dict[str, dict[str, tuple[int, ...]]]:
    gates: dict[str, dict[str, tuple[int, ...]]] = {}
    for index, use in enumerate(uses):
        node, gate = use.node, f"{_PREFIX}gate_{index}"
        output = node.output[0]
        rank = len(t.dims(output))
        if output not in t.traced.rows:
            raise refuse(node, f"gives '{output}', whose first axis does not hold one sample after the other")
        filters = t.traced.values[use.weight].shape[use.axis]
        along = 1 if node.op_type in CONVOLUTIONS else rank - 1
        sizes = [filters if axis == along else 1 for axis in range(1, rank)]
        gates.setdefault(use.weight, {})[gate] = shape = (rows * t.traced.rows[output], *sizes)
        graph.input.append(helper.make_tensor_value_info(gate, onnx.TensorProto.FLOAT, shape))
        place = next(i for i, other in enumerate(graph.node) if other.output[:1] == [output])
        for offset, extra in enumerate(_gated(t, graph, node, gate, rank)):
            graph.node.insert(place + 1 + offset, extra)
    return gates


def _gated(t: Tape, graph: onnx.GraphProto, node: onnx.NodeProto, gate: str, rank: int) -> list[onnx.NodeProto]:
    """Nodes after ``node``, whose bias they take over."""
    output, bias = node.output[0], list(node.input[2:])
    node.output[0] = f"{gate}_in"
    del node.input[2:]
    if not bias or not bias[0]:
        return [helper.make_node("Mul", [f"{gate}_in", gate], [output], gate)]
    value = t.traced.values[bias[0]]
    value = (
        value * np.float32(number(node, "beta", 1.0))
        if node.op_type == "Gemm"
        else value.reshape(-1, *[1] * (rank - 2))
    )
    graph.initializer.append(numpy_helper.from_array(value, f"{gate}_bias"))
    gated = helper.make_node("Mul", [f"{gate}_in", gate], [f"{gate}_out"], gate)
    return [gated, helper.make_node("Add", [f"{gate}_out", f"{gate}_bias"], [output], f"{gate}_bias")]
