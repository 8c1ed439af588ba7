"""Rule of Resize: along each axis y = A x with a constant matrix A, so dx = A^T g, one axis after the other.

Column i of A is what the runtime makes of the i-th unit vector: every mode, coordinate transformation and rounding of
the standard is a linear map along each axis, and A is found by asking for it. Nearest by an integer factor repeats
every element, and its adjoint sums them.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import helper

from hqp_onnx.arrays import Array
from hqp_onnx.gradients.tape import Grads, Tape, refuse, rule
from hqp_onnx.graphs.nodes import attribute, numbers
from hqp_onnx.runtimes.session import Session

_OPSET, _IR = 19, 9  # the newest form of the node that every supported onnxruntime knows


@rule("Resize")
def resize(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """The adjoint along each axis whose size or coordinates change."""
    if i or attribute(n, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refuse(n, "has no gradient rule for its regions, or where it keeps the aspect ratio")
    dims, outer, grad = t.dims(n.input[0]), list(t.dims(n.output[0])), str(g[0])
    axes = [axis % len(dims) for axis in numbers(n, "axes", range(len(dims)))]
    scales = t.value(n, 2)
    for axis, place in sorted((axis, place) for place, axis in enumerate(axes)):
        scale = None if scales is None or not scales.size else float(scales[place])
        if dims[axis] is None or (outer[axis] == dims[axis] and scale in (None, 1.0) and not _cropped(n)):
            continue
        (size,) = t.static(n, n.output[0], [axis])
        matrix = _matrix(t, n, dims[axis] or 0, size, scale, place, len(axes))
        grad = _transposed(t, n, grad, matrix, outer, axis)
        outer[axis] = dims[axis]
    return t.reshape_like(grad, n.input[0])


def _cropped(n: onnx.NodeProto) -> bool:
    return attribute(n, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def _matrix(t: Tape, n: onnx.NodeProto, inner: int, outer: int, scale: float | None, place: int, count: int) -> Array:
    """A [outer, inner] of one axis: the node on the unit vectors as images of one column."""
    kept = {"antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "mode", "nearest_mode"}
    attributes = {a.name: helper.get_attribute_value(a) for a in n.attribute if a.name in kept}
    region = t.value(n, 1) if _cropped(n) else None
    roi = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    if region is not None:
        roi[[2, 6]] = region[[place, count + place]]
    feeds: dict[str, Array] = {"x": np.eye(inner, dtype=np.float32)[:, None, :, None], "roi": roi}
    names = ["x", "roi", "", "sizes"] if scale is None else ["x", "roi", "scales"]
    size = np.array([inner, 1, outer, 1], np.int64) if scale is None else np.array([1, 1, scale, 1], np.float32)
    feeds[names[-1]] = size
    inputs = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for key, x in feeds.items()
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Resize", names, ["y"], **attributes)], "axis", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    y: Array = Session(model).run(feeds)["y"]
    return y[:, 0, :, 0].T


def _transposed(t: Tape, n: onnx.NodeProto, g: str, a: Array, dims: list[int | None], axis: int) -> str:
    """A^T g along ``axis`` of g, of sizes ``dims``: [lead, inner, tail]."""
    outer, inner = a.shape
    t.static(n, n.output[0], range(axis + 1, len(dims)))
    tail = prod(size or 0 for size in dims[axis + 1 :])
    factor = outer // inner
    if factor > 1 and np.array_equal(a, np.repeat(np.eye(inner), factor, 0)):
        return t.reduce("ReduceSum", t.reshape(g, -1, inner, factor, tail), [2])
    kind = t.traced.types[n.input[0]]
    if tail == 1:
        return t.op("MatMul", t.reshape(g, -1, outer), t.const(a.astype(kind)))
    return t.op("MatMul", t.const(a.T.astype(kind)), t.reshape(g, -1, outer, tail))
