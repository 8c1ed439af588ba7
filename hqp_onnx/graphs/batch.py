"""Models that take one sample at a time, though their file leaves the number open.

Exporters name the first dimension and still write the size that they traced with into the graph (Reshape to
[steps, 1, ...], say, or a state [layers, 1, width] that is fed). Such a model runs on one sample only, and is read as
one of a fixed batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from hqp_onnx.graphs.model_io import stated_defaults


def takes_one(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether inputs have one open first dimension, by its name, of which only 1 was found to run.

    ``sizes`` are those of the run that succeeded, which is of more samples where that is possible (``shapes.probe``).
    """
    name = _batch(model)
    return bool(name) and all(
        sizes.get(value.name, (0,))[:1] == (1,)
        for value in model.graph.input
        for dim in value.type.tensor_type.shape.dim[:1]
        if dim.dim_param == name
    )


def with_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` in whose inputs and outputs that dimension is 1."""
    copy, name = onnx.ModelProto(), _batch(model)
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == name:
                dim.dim_value = 1
    return copy


def _batch(model: onnx.ModelProto) -> str:
    """The name of the first dimension of all inputs that leave it open; empty if they have several, or none."""
    constants = {tensor.name for tensor in model.graph.initializer} | stated_defaults(model).keys()
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in constants]
    names = {shape[0].dim_param for shape in shapes if shape and not shape[0].HasField("dim_value")}
    return names.pop() if len(names) == 1 else ""
