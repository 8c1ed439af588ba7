"""A model whose inputs have the sizes of samples: any number of them, one in front of the other."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from hqp_onnx.arrays import Array


def sampled(model: onnx.ModelProto, rows: Mapping[str, Array], batch: int | None) -> onnx.ModelProto:
    """A copy of ``model`` whose inputs are as large as ``rows``; the first axis is open where ``batch`` is None."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim if value.name in rows else ()):
            if axis or batch is not None:
                dim.dim_value = rows[value.name].shape[axis]
            else:
                dim.dim_param = "batch"
    return sized
