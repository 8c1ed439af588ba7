"""The form of a model that gradients work on: no functions, no Constant nodes, opset 17 or later, known operators.

Recurrent nodes name their states.
"""

from __future__ import annotations

from functools import partial

import onnx
from onnx import inliner, version_converter

from hqp_onnx.errors import GradientError, one_line
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.nodes import operator, opset
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.graphs.unique_names import tensor_names, unused
from hqp_onnx.passes.lowering.expand_functions import expand_functions
from hqp_onnx.passes.lowering.inline_constants import inline_constants

__all__ = ["prepare_for_gradients"]

OLDEST_OPSET = 17  # the nodes that gradients append are written in this opset; their form is the same in all later ones


def prepare_for_gradients(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in this form, without the types of its tensors.

    Raises:
        GradientError: the model does not convert to opset 17, or one of its operators does not expand.
    """
    changed = inliner.inline_local_functions(model) if model.functions else model
    changed = _with_states(inline_constants(expand_functions(_raised(changed))))
    if changed.graph.value_info:
        typed, changed = changed, onnx.ModelProto()
        changed.CopyFrom(typed)
        del changed.graph.value_info[:]
    return changed


def _with_states(model: onnx.ModelProto) -> onnx.ModelProto:
    """LSTM, GRU and RNN give their states at all steps, whether or not anything reads them."""
    if all(node.output[0] for node in model.graph.node if operator(node) in GATES):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = tensor_names(copy.graph)
    for node in copy.graph.node:
        if operator(node) in GATES and not node.output[0]:
            node.output[0] = unused(f"{node.name}.states", taken)
            taken.add(node.output[0])
    return copy


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    if opset(model) >= OLDEST_OPSET:
        return model
    try:
        return names_apart(partial(version_converter.convert_version, target_version=OLDEST_OPSET))(model)
    except (RuntimeError, ValueError) as e:
        raise GradientError(
            f"gradients need opset {OLDEST_OPSET}, the model has {opset(model)} and does not convert: {one_line(e)}"
        ) from e
