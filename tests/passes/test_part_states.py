"""A last state that is handed on and read: two tensors, the same function."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.part_states import part_states

STEPS, BATCH, HIDDEN = 4, 2, 5


def model(tail: str, outputs: str = "float[a,b,c] h1", fed: str = "h0") -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{STEPS},{BATCH},3] x, float[1,{BATCH},{HIDDEN}] h0) => (float[d,e] y, {outputs}) {{
      s, h = GRU<hidden_size={HIDDEN}>(x, w, r, , , {fed}) {tail} }}"""
    proto = onnx.parser.parse_model(text)
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    shapes = {"w": (1, 3 * HIDDEN, 3), "r": (1, 3 * HIDDEN, HIDDEN), "m": (HIDDEN, 2), "k0": (1, BATCH, HIDDEN)}
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    values |= {"axis": np.array([0])}
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items() if k in used)
    return proto


PARTED = {
    "an output itself": ("q = Squeeze(h, axis) y = MatMul(q, m)", "float[a,b,c] h"),
    "moved together": ("q = Squeeze(h, axis) h1 = Unsqueeze(q, axis) y = MatMul(q, m)", "float[a,b,c] h1"),
    "an output between": ("q = Squeeze(h, axis) y = MatMul(q, m)", "float[a,b] q"),
    "moved twice": (
        "q = Squeeze(h, axis) t = Transpose<perm=[1, 0]>(q) h1 = Identity(t) "
        "u = Transpose<perm=[1, 0]>(t) y = MatMul(u, m)",
        "float[a,b] h1",
    ),
}


@pytest.mark.parametrize("name", PARTED)
def test_what_computes_reads_a_copy(name: str) -> None:
    proto = model(*PARTED[name])
    rng = np.random.default_rng(1)
    feeds = {
        "x": rng.standard_normal((STEPS, BATCH, 3)).astype(np.float32),
        "h0": rng.standard_normal((1, BATCH, HIDDEN)).astype(np.float32),
    }
    result = part_states(to_graph(proto))
    after = to_proto(result.graph)
    assert result.modified and sum(node.op == "Identity" for node in result.graph.nodes) >= 1
    for want, have in zip(run(proto, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(have, want)
    assert not part_states(result.graph).modified


ALIKE = {
    "handed on alone": (
        "h1 = Identity(h) q = Squeeze(s, axis) z = ReduceMean<axes=[0], keepdims=0>(s) y = MatMul(z, m)",
        "h0",
    ),
    "no state is fed": ("q = Squeeze(h, axis) h1 = Unsqueeze(q, axis) y = MatMul(q, m)", "k0"),
    "no output": ("q = Squeeze(h, axis) y = MatMul(q, m) h1 = Identity(h0)", "h0"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_others_stay(name: str) -> None:
    tail, fed = ALIKE[name]
    assert not part_states(to_graph(model(tail, fed=fed))).modified
