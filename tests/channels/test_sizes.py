"""Units are right for sizes that the analysis has not seen."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import worst_error

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

# x [n, 3, l], weights a [8, 3, 1], b [6, 8, 1], m [12, 5]: body, units that may leave
CASES = {
    "positions": ("c = Conv(x, a) r = Relu(c) y = Conv(r, b)", 8),
    "the first elements of channels and positions": (
        "c = Conv(x, a) r = Relu(c) f = Flatten(r) s = Slice(f, zero, twelve, one) y = MatMul(s, m)",
        0,
    ),
    "channels, positions and back": (
        "c = Conv(x, a) r = Relu(c) f = Reshape(r, flat) k = Mul(f, two) g = Reshape(k, split) y = Conv(g, b)",
        8,
    ),
    "a length beside channels": (
        "c = Conv(x, a) r = Relu(c) s = Shape(x) l = Slice(s, t2, t3) q = Concat<axis=0>(zeros, l, ones1) "
        "g = Reshape(r, q) h = Squeeze(g, t3) y = Conv(h, b)",
        8,
    ),
}
INTS = {
    "zero": [0], "twelve": [12], "one": [1], "flat": [0, -1], "split": [0, 8, -1], "t2": [2], "t3": [3],
    "zeros": [0, 0], "ones1": [1],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pruned_is_masked_at_other_lengths(name: str) -> None:
    body, free = CASES[name]
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,l] x) => (float[i,j,k] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    shapes = {"a": (8, 3, 1), "b": (6, 8, 1), "m": (12, 5)}
    arrays = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    arrays |= {"two": np.float32(2), **{key: np.array(value) for key, value in INTS.items()}}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in arrays.items())
    graph = canonicalize(to_graph(model)).graph
    channels = analyze(graph)
    assert len(channels.prunable) == free, channels.frozen
    plan = PruningPlan(channels.prunable[:3])
    pruned = to_proto(prune_channels(graph, channels, plan).graph)
    for batch, length in ((1, 2), (2, 12), (3, 200)):
        feeds = {"x": rng.standard_normal((batch, 3, length)).astype(np.float32)}
        assert worst_error(model, pruned, channels.removed_slices(plan), feeds) <= 1e-5
