"""Operators that are differentiated through their definition.

The standard defines some operators as functions of simpler ones. Where every float step of that body has a gradient
rule, the node is replaced by its body, and the chain rule does the rest.
"""

from __future__ import annotations

import onnx
from onnx import defs, inliner, shape_inference

from hqp_onnx.errors import GradientError, one_line
from hqp_onnx.graphs.nodes import operator, opset

__all__ = ["LOWERED", "expand_functions"]

LOWERED = (
    "Attention",
    "CenterCropPad",
    "GroupNormalization",
    "MeanVarianceNormalization",
    "NegativeLogLikelihoodLoss",
    "RMSNormalization",
    "RotaryEmbedding",
    "Shrink",
    "SoftmaxCrossEntropyLoss",
    "SwiGLU",
    "Swish",
)


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the nodes of LOWERED replaced by their bodies; the same object if there are none.

    Raises:
        GradientError: onnx has no body for a node, in the model's opset.
    """
    nodes = [node for node in model.graph.node if operator(node) in LOWERED]
    if not nodes:
        return model
    explicit = onnx.ModelProto()
    explicit.CopyFrom(model)
    for node in explicit.graph.node:
        if operator(node) in LOWERED:
            _state_defaults(node, opset(model))
    for tensor in explicit.graph.initializer:  # the inliner asks for the type of every input of a node
        explicit.graph.value_info.add(name=tensor.name).type.tensor_type.elem_type = tensor.data_type
    try:
        explicit = shape_inference.infer_shapes(explicit)
        ids = [("", op) for op in LOWERED]
        return inliner.inline_selected_functions(explicit, ids, exclude=False, inline_schema_functions=True)
    except Exception as e:  # the inliner raises its own types, and TypeError where onnx is older than this option
        raise GradientError(
            f"onnx {onnx.__version__} cannot expand {nodes[0].op_type}: {one_line(e)}; try a newer onnx"
        ) from e


def _state_defaults(node: onnx.NodeProto, version: int) -> None:
    """Write out default attributes: a body refers to them, and the inliner leaves the reference open."""
    stated = {attribute.name for attribute in node.attribute}
    for name, attribute in defs.get_schema(node.op_type, version).attributes.items():
        if name not in stated and attribute.default_value.name:
            node.attribute.append(attribute.default_value)
