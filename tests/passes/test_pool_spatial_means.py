"""Spatial means as poolings: the same function, and other means left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.pool_spatial_means import pool_spatial_means

X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)


def model(body: str, opset: int = 18) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 3, 4, 5] x) => (float y) {{ {body} }}'
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


@pytest.mark.parametrize(
    ("body", "opset", "ops"),
    [
        ("y = ReduceMean<axes = [2, 3]>(x)", 13, ["GlobalAveragePool"]),
        ("y = ReduceMean<axes = [-1, -2], keepdims = 1>(x)", 13, ["GlobalAveragePool"]),
        ("y = ReduceMean<axes = [2, 3], keepdims = 0>(x)", 13, ["GlobalAveragePool", "Flatten"]),
        ("a = Constant<value_ints = [2, 3]>() y = ReduceMean(x, a)", 18, ["GlobalAveragePool"]),
        ("y = ReduceMean<axes = [1, 2, 3]>(x)", 13, ["ReduceMean"]),
        ("y = ReduceMean<axes = [3]>(x)", 13, ["ReduceMean"]),
        ("y = ReduceMean(x)", 18, ["ReduceMean"]),
        ("y = ReduceMean<noop_with_empty_axes = 1>(x)", 18, ["ReduceMean"]),
    ],
)
def test_means_over_all_positions_become_poolings(body: str, opset: int, ops: list[str]) -> None:
    graph = to_graph(model(body, opset))
    graph.fold_constants().cleanup()
    result = pool_spatial_means(graph, {"x": 4})
    assert [node.op for node in result.graph.nodes] == ops
    assert result.modified == (ops != ["ReduceMean"])
    got, want = (run(m, {"x": X})[0] for m in (to_proto(result.graph), model(body, opset)))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_without_its_rank_a_tensor_is_left_alone() -> None:
    assert not pool_spatial_means(to_graph(model("y = ReduceMean<axes = [2, 3]>(x)", 13)), {}).modified
