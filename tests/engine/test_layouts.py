"""What the real TensorRT for RTX makes of INT8 weights, layout by layout, and which pairs are left out for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from layouts import layouts

from hqp_onnx.engine import Capability, builder
from hqp_onnx.engine.acceptance import objections
from hqp_onnx.engine.plan import Plan
from hqp_onnx.graphs import model_io
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.convert_fp16 import in_float16
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.quantize import quantize_model

LAYOUTS = layouts()
NARROW = {"depthwise", "2 channels a group"}


def quantized(name: str, goal: str) -> onnx.ModelProto:
    opened = open_model(LAYOUTS[name])
    shape = opened.session.inputs[0].shape
    values = np.random.default_rng(1).normal(0, 1, (8 * shape[0], *shape[1:])).astype(np.float32)
    return model_io.to_proto(quantize_model(opened, open_data(opened, {"x": values}), target(goal), "minmax").graph)


def int8_bytes(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8)


@pytest.mark.parametrize("name", sorted(NARROW | {"4 channels a group", "depthwise, pointwise"}))
def test_narrow_groups_stay_in_float_for_rtx_alone(name: str) -> None:
    elsewhere, rtx = int8_bytes(quantized(name, "tensorrt")), int8_bytes(quantized(name, "tensorrt-rtx"))
    assert elsewhere > 1000
    if name in NARROW:
        assert rtx == 0
    else:
        assert rtx == elsewhere if "depthwise" not in name else 16384 <= rtx < elsewhere - 1000


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_stay_int8(rtx: Capability, name: str, tmp_path: Path) -> None:
    model = quantized(name, "tensorrt-rtx")
    assert objections(model, target("tensorrt-rtx"), {}) == ()
    half = model_io.to_proto(in_float16(model_io.to_graph(model)).graph)
    zeros = {node.input[2] for node in half.graph.node if "quantize" in node.op_type.lower() and len(node.input) > 2}
    stored = sum(onnx.numpy_helper.to_array(t).nbytes for t in half.graph.initializer if t.name not in zeros)
    onnx.save(half, tmp_path / "m.onnx")
    plan = Plan("int8", "explicit", "own", True, (), True, False, ())
    engine = builder.build(tmp_path / "m.onnx", plan, builder.Settings({}), None, rtx)
    assert engine.weights_bytes is not None
    assert engine.weights_bytes <= 1.1 * stored + 1024
