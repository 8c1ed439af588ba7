"""Turned heads compute the same, and those that lose dimensions lose as little as any product of that rank can.

numpy's singular values of products over all pairs of positions are the oracle (Eckart and Young).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from oracle import run

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.turn_heads import turn_halves, turn_heads
from hqp_onnx.ranking.removal_costs import removal_costs
from hqp_onnx.statistics.moments import Moments, input_moments

ROWS, WIDE = 5, 6
RNG = np.random.default_rng(7)
X = RNG.standard_normal((64, ROWS, 12)).astype(np.float32) @ RNG.standard_normal((12, 12)).astype(np.float32)


def attention(queries: int, keys: int, *changes: tuple[str, str]) -> onnx.ModelProto:
    """x [n, 5, 12] -> y [n, 5, 7], ``queries`` heads of 6 that share ``keys`` of keys and values."""
    few, many, size = "k2 = Reshape(k1, few)\n v2 = Reshape(v1, few)", queries // keys, queries * WIDE
    text = f"""<ir_version: 9, opset_import: ["": 17]>
    g (float[n,5,12] x) => (float[n,5,7] y) {{
      q0 = MatMul(x, wq)
      q1 = Add(q0, bq)
      k0 = MatMul(x, wk)
      k1 = Add(bk, k0)
      v1 = MatMul(x, wv)
      q2 = Reshape(q1, heads)
      {few}
      q = Transpose<perm=[0,2,1,3]>(q2)
      k3 = Transpose<perm=[0,2,1,3]>(k2)
      v3 = Transpose<perm=[0,2,1,3]>(v2)
      k4 = Unsqueeze(k3, two)
      v4 = Unsqueeze(v3, two)
      k5 = Expand(k4, to)
      v5 = Expand(v4, to)
      k = Reshape(k5, repeated)
      v = Reshape(v5, repeated)
      kt = Transpose<perm=[0,1,3,2]>(k)
      s0 = MatMul(q, kt)
      s1 = Mul(s0, scale)
      s = Softmax(s1)
      a0 = MatMul(s, v)
      a1 = Transpose<perm=[0,2,1,3]>(a0)
      a = Reshape(a1, joined)
      y = MatMul(a, wo)
    }}"""
    for old, new in changes:
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text)
    floats = {"wq": (12, size), "bq": (size,), "wk": (12, keys * WIDE), "bk": (keys * WIDE,), "wv": (12, keys * WIDE)}
    values = {name: 0.3 * RNG.standard_normal(shape) for name, shape in (floats | {"wo": (size, 7)}).items()}
    ints = {"heads": [0, 0, queries, WIDE], "few": [0, 0, keys, WIDE], "two": [2], "to": [1, 1, many, 1, 1]}
    ints |= {"repeated": [0, queries, ROWS, WIDE], "joined": [0, 0, size]}
    arrays = {name: v.astype(np.float32) for name, v in values.items()} | {"scale": np.float32(0.4)}
    arrays |= {name: np.array(v, np.int64) for name, v in ints.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items())
    return model


def prepared(queries: int, keys: int) -> tuple[gs.Graph, ChannelMap, dict[str, Moments]]:
    graph = canonicalize(to_graph(attention(queries, keys))).graph
    return graph, analyze(graph), input_moments(to_proto(graph), None, [Batch({"x": X})])


def units(channels: ChannelMap, weight: str) -> np.ndarray:
    return np.unique(channels.members[ParamAxis(weight, 1)])


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (2, 2), (4, 2)])
def test_turned_heads_compute_the_same_along_principal_axes(queries: int, keys: int) -> None:
    graph, channels, moments = prepared(queries, keys)
    turned = turn_heads(graph, channels, moments)
    assert turned.modified
    want, have = (run(to_proto(g), {"x": X})[0] for g in (graph, turned.graph))
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)
    assert not np.allclose(turned.graph.tensors()["wq"].values, graph.tensors()["wq"].values)
    measured = input_moments(to_proto(turned.graph), None, [Batch({"x": X})])["wo"]
    np.testing.assert_allclose(turned.moments["wo"].gram, measured.gram, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(turned.moments["wo"].mean, measured.mean, rtol=1e-3, atol=1e-4)


def scores(tensors: dict[str, gs.Tensor], queries: int, keys: int) -> list[np.ndarray]:
    """Of all pairs of rows of ``X``, by head of keys: the queries that share it, one below the other."""
    rows = X.reshape(-1, 12)[:100].astype(np.float64)
    q, k = (rows @ tensors[f"w{side}"].values + tensors[f"b{side}"].values for side in "qk")
    q, k = q.reshape(len(rows), queries, -1), k.reshape(len(rows), keys, -1)
    shared = queries // keys
    return [np.concatenate([q[:, h * shared + i] @ k[:, h].T for i in range(shared)]) for h in range(keys)]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (2, 2), (4, 2)])
def test_scores_lose_no_more_than_any_of_that_rank_do(queries: int, keys: int) -> None:
    graph, channels, _ = prepared(queries, keys)
    moments = input_moments(to_proto(graph), None, [Batch({"x": X[:20]})])  # the same hundred rows
    gone = PruningPlan(units(channels, "wq")[[0, 2, 3]])
    assert {len(units(channels, "wq")), len(units(channels, "wv"))} == {WIDE}
    pruned = cut(graph, channels, gone, Refit(moments, {})).graph
    before, after = (scores(g.tensors(), queries, keys) for g in (graph, pruned))
    for whole, less in zip(before, after, strict=True):
        lost = np.square(np.linalg.svd(whole, compute_uv=False)[WIDE - 3 :]).sum()
        assert np.square(whole - less).sum() == pytest.approx(lost, rel=1e-3)


def test_what_a_head_gives_loses_no_more_than_any_of_that_rank_does() -> None:
    graph, channels, moments = prepared(1, 1)
    plan = PruningPlan(units(channels, "wv")[:3])
    pruned = cut(graph, channels, plan, Refit(moments, {"wo": 1e-9})).graph
    want, have = (run(to_proto(g), {"x": X})[0].reshape(-1, 7).astype(np.float64) for g in (graph, pruned))
    lost = np.square(np.linalg.svd(want, compute_uv=False)[WIDE - 3 :]).sum()
    assert np.square(want - have).sum() == pytest.approx(lost, rel=1e-3)


def test_dimensions_of_queries_are_ranked_by_what_they_give_to_scores() -> None:
    graph, channels, moments = prepared(2, 2)
    turned, (first, second) = turn_halves(graph, channels, (moments, moments))
    assert first["wo"].count == second["wo"].count == moments["wo"].count
    weights = {name: np.ones(turned.tensors()[name].shape[1]) for name in ("wq", "wk", "wv", "wo")}
    costs = removal_costs(turned, channels, first, weights)
    inside = channels.members[ParamAxis("wq", 1)].reshape(2, WIDE)[0]
    assert np.isfinite(costs[inside]).sum() == WIDE - 1  # one stays
    assert (np.diff(costs[inside]) < 0)[1:].all()


@pytest.mark.parametrize("change", [("Reshape(v1, few)", "Reshape(k1, few)"), ("Reshape(k1, few)", "Reshape(q1, few)")])
def test_filters_that_are_two_things_at_once_are_not_turned_twice(change: tuple[str, str]) -> None:
    graph = canonicalize(to_graph(attention(2, 2, change))).graph
    channels, moments = analyze(graph), input_moments(to_proto(graph), None, [Batch({"x": X})])
    turned = turn_heads(graph, channels, moments).graph
    want, have = (run(to_proto(g), {"x": X})[0] for g in (graph, turned))
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)


def test_heads_without_moments_stay_as_they_are() -> None:
    graph, channels, moments = prepared(2, 2)
    turned = turn_heads(graph, channels, {"wq": moments["wq"], "wo": moments["wo"]})
    for name in ("wq", "wk"):
        np.testing.assert_array_equal(turned.graph.tensors()[name].values, graph.tensors()[name].values)


def test_products_of_a_pruned_graph_are_those_that_its_own_analysis_finds() -> None:
    graph, channels, _ = prepared(4, 2)
    plan = PruningPlan(np.concatenate([units(channels, "wq")[[0, 3]], units(channels, "wv")[[1]]]))
    again = canonicalize(prune_channels(graph, channels, plan).graph).graph
    for one, other in zip(channels.without(plan).products, analyze(again).products, strict=True):
        assert one.reads == other.reads
        for mine, found in ((one.left, other.left), (one.right, other.right)):
            assert (mine.weight, mine.axis, mine.bias) == (found.weight, found.axis, found.bias)
            np.testing.assert_array_equal(mine.index, found.index)


def test_a_bias_of_one_number_for_all_filters_is_not_turned() -> None:
    """Gemm spreads it; it has no dimensions that a turn could mix."""
    rows = "xf = Reshape(x, rows)\n v0 = Gemm(xf, wv, one)\n v1 = Reshape(v0, wide)"
    model = attention(2, 2, ("v1 = MatMul(x, wv)", rows))
    ints = {"rows": [-1, 12], "wide": [-1, ROWS, 2 * WIDE]}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), k) for k, v in ints.items())
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0.5], np.float32), "one"))
    graph = canonicalize(to_graph(model)).graph
    moments = input_moments(to_proto(graph), None, [Batch({"x": X})])
    turned = to_proto(turn_heads(graph, analyze(graph), moments).graph)
    np.testing.assert_allclose(run(turned, {"x": X})[0], run(model, {"x": X})[0], rtol=1e-3, atol=1e-4)
