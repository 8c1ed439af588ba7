"""A loss that the user gives as an ONNX model, put behind the model whose weights are scored.

Its inputs are named as outputs or inputs of the model, and one may be ``labels`` (int64 [N]); its first output is a
loss per sample [N], or their sum.
"""

from __future__ import annotations

from functools import partial

import onnx
from onnx import compose, version_converter

from hqp_onnx.errors import GradientError, one_line
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.nodes import opset
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix
from hqp_onnx.passes.lowering.prepare_for_gradients import prepare_for_gradients

__all__ = ["join_loss"]

LABELS = "labels"


def join_loss(model: onnx.ModelProto, loss: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` followed by ``loss``: its last output is the loss, its last input the labels if the loss reads them.

    Args:
        model: as ``prepare_for_gradients`` returns it.
        loss: any opset that converts to that of ``model``.

    Raises:
        GradientError: the loss does not fit the model.
    """
    prefix = unused_prefix("hqp_loss.", tensor_names(model.graph))
    back = compose.add_prefix(_converted(prepare_for_gradients(loss), opset(model)), prefix).graph
    named = {prefix + value.name: value.name for value in (*model.graph.input, *model.graph.output)}
    constants = {tensor.name for tensor in back.initializer}
    free = [value for value in back.input if value.name not in constants and value.name not in named]
    if unknown := [value.name for value in free if value.name != prefix + LABELS]:
        raise GradientError(
            f"the loss model reads '{unknown[0].removeprefix(prefix)}', which is no output of the model; "
            f"expected some of {sorted(named.values())} and '{LABELS}'"
        )
    if any(value.type.tensor_type.elem_type != onnx.TensorProto.INT64 for value in free):
        raise GradientError(f"the loss model's '{LABELS}' are not int64: declare them so, and cast them inside")
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    for node in back.node:
        node.input[:] = [named.get(name, name) for name in node.input]
    joined.graph.node.extend(back.node)
    joined.graph.initializer.extend(back.initializer)
    for value in free:
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        declared = onnx.helper.make_tensor_value_info(
            value.name, onnx.TensorProto.INT64, [batch.dim_value or "hqp_batch"]
        )
        joined.graph.input.append(declared)
    joined.graph.output.add(name=named.get(back.output[0].name, back.output[0].name))
    return joined


def _converted(loss: onnx.ModelProto, version: int) -> onnx.ModelProto:
    if opset(loss) == version:
        return loss
    try:
        return names_apart(partial(version_converter.convert_version, target_version=version))(loss)
    except (RuntimeError, ValueError) as e:
        raise GradientError(
            f"the loss model has opset {opset(loss)} and does not convert to {version}, the model's: {one_line(e)}"
        ) from e
