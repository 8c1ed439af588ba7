"""Inputs that all samples share become initializers: what differentiates per sample takes no others."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from hqp_onnx.arrays import Array

__all__ = ["fix_inputs"]


def fix_inputs(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """``model`` without the inputs that ``values`` names, which are constants now."""
    if not values:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [value for value in copy.graph.input if value.name not in values]
    stored = [tensor for tensor in copy.graph.initializer if tensor.name not in values]  # defaults of inputs
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(stored)
    copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return copy
