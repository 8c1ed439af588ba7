"""What is proven of a model for samples of one size, any number of them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.symbolic.known import Known
from hqp_onnx.graphs.symbolic.propagation import propagate


def proven_for(
    model: onnx.ModelProto, measured: Mapping[str, Array], rows: Mapping[str, Array], batch: int | None
) -> Known:
    """What ``propagate`` proves where inputs are as large as ``rows``; the first axis is open if ``batch`` is None."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim if value.name in rows else ()):
            if axis or batch is not None:
                dim.dim_value = rows[value.name].shape[axis]
            else:
                dim.dim_param = "batch"
    return propagate(sized, measured)
