"""The invariant of pruning, checked from the ledger alone: pruned(x) == original with the removed slices zeroed (x)."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, NotImplemented, RuntimeException

CURRENT = (1, 27)  # from this onnxruntime on, no test is skipped for want of an operator


def require_runtime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """Skip the test where an older onnxruntime (for older Pythons) lacks an operator of the model."""
    if tuple(map(int, ort.__version__.split(".")[:2])) >= CURRENT:
        return
    try:
        run(model, feeds)
    except (Fail, RuntimeException, NotImplemented) as e:
        pytest.skip(f"onnxruntime {ort.__version__}: {str(e)[:80]}")


@functools.cache
def runs(opset: int) -> bool:
    """Whether the installed onnxruntime knows an opset; older ones, for older Pythons, lack the newest."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(f"{header} g (float[1] x) => (float[1] y) {{ y = Relu(x) }}")
    try:
        run(model, {"x": np.ones(1, np.float32)})
    except Fail:
        return False
    return True


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of a model in plain onnxruntime."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def masked(model: onnx.ModelProto, removed: dict) -> onnx.ModelProto:
    """``model`` with the slices of ``removed`` (tensor -> axis -> indices) set to zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = {tensor.name: tensor for tensor in stored(copy.graph)}
    for name, axes in removed.items():
        values = onnx.numpy_helper.to_array(found[name]).copy()
        for axis, indices in axes.items():
            values[(slice(None),) * int(axis) + (np.asarray(indices),)] = 0
        found[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    return copy


def stored(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Initializers of a graph and of the graphs inside its nodes."""
    inner = [entry.g for node in graph.node for entry in node.attribute if entry.HasField("g")]
    return [*graph.initializer, *(tensor for each in inner for tensor in stored(each))]


def worst_error(original: onnx.ModelProto, pruned: onnx.ModelProto, removed: dict, feeds: dict) -> float:
    """Largest difference of any output value, relative to the largest value of that output."""
    errors = []
    for want, have in zip(run(masked(original, removed), feeds), run(pruned, feeds), strict=True):
        assert want.shape == have.shape
        errors.append(float(np.abs(want - have).max() / max(float(np.abs(want).max()), 1e-6)))
    return max(errors)
