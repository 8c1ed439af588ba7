"""Divergences against formulas written out, and groups of a model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit, rel_entr, softmax
from small_model import small_model

from hqp_onnx.allocation.divergence import Divergence
from hqp_onnx.allocation.groups import find_groups
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.evaluation.metrics.task import ANY, ROWS, Task
from hqp_onnx.model import open_model

X = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)


_AXIS = {"ArgMax": {"axis": 1}}


def linear(weight: np.ndarray, *more: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        *(helper.make_node(op, ["y"], ["p"], **_AXIS.get(op, {})) for op in more),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
    kind = TensorProto.INT64 if "ArgMax" in more else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info("p" if more else "y", kind, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WEIGHTS = [np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32) for seed in (1, 2)]
PLAN = PruningPlan(np.array([0]))


def between(task: Task, *more: str) -> float:
    batches = [Batch({"x": X[:5]}), Batch({"x": X[5:]})]
    return Divergence(linear(WEIGHTS[0], *more), lambda _: linear(WEIGHTS[1], *more), batches, task)(PLAN)


@pytest.mark.parametrize("more", [(), ("Softmax",)])
def test_of_a_classifier(more: tuple[str, ...]) -> None:
    p, q = (softmax(X.astype(np.float64) @ w, axis=1) for w in WEIGHTS)
    assert between(ROWS, *more) == pytest.approx(rel_entr(p, q).sum(1).mean(), rel=1e-4)


def test_of_anything_else() -> None:
    y, other = (X.astype(np.float64) @ w for w in WEIGHTS)
    expected = np.square(y - other).sum() / np.square(y - y.mean()).sum()
    assert between(ANY) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("more", [(), ("Sigmoid",)])
def test_of_decisions(more: tuple[str, ...]) -> None:
    p, q = (expit(X.astype(np.float64) @ w) for w in WEIGHTS)
    each = rel_entr(p, q) + rel_entr(1 - p, 1 - q)
    assert between(Task("decisions"), *more) == pytest.approx(each.sum(1).mean(), rel=1e-4)


def test_of_classes_at_positions() -> None:
    """The axis of the samples holds the classes here, of four positions each."""
    p, q = (softmax((X.astype(np.float64) @ w)[:6], axis=0) for w in WEIGHTS)
    batches = [Batch({"x": X[:6]})]
    made = Divergence(linear(WEIGHTS[0]), lambda _: linear(WEIGHTS[1]), batches, Task("classes", "y", 0))
    assert made(PLAN) == pytest.approx(rel_entr(p, q).sum(0).mean(), rel=1e-4)


def test_of_integers_and_no_more_than_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = ((X @ w).argmax(1) for w in WEIGHTS)
    assert between(ANY, "ArgMax") == pytest.approx(
        (first[:5] != other[:5]).mean() / 2 + (first[5:] != other[5:]).mean() / 2
    )
    monkeypatch.setattr("hqp_onnx.allocation.divergence._MOST_BYTES", 1)
    p, q = (softmax((X.astype(np.float64) @ w)[:5], axis=1) for w in WEIGHTS)
    assert between(ROWS) == pytest.approx(rel_entr(p, q).sum(1).mean(), rel=1e-4)


def test_what_is_not_finite_is_infinitely_far_and_nothing_removed_is_no_distance() -> None:
    nan = np.full((3, 4), np.nan, np.float32)
    divergence = Divergence(linear(WEIGHTS[0]), lambda _: linear(nan), [Batch({"x": X})], ROWS)
    assert divergence(PLAN) == np.inf
    assert divergence(PruningPlan(np.zeros(0))) == 0


def test_groups_hold_every_unit_once_and_widths_stay_aligned() -> None:
    channels = open_model(small_model()).channels()
    groups = find_groups(channels, channels.prunable, np.arange(channels.units, dtype=float), 8)
    sizes = sorted(group.size for group in groups.groups)
    assert sizes == [16, 24]  # r1 and c3 meet in the sum; r2 is apart
    removed = groups.plan(groups.least).removed
    assert len(removed) == len(set(removed.tolist()))
    for group in groups.groups:
        assert (np.diff(group.widths) < 0).all() and (np.diff(group.costs) >= 0).all()
        assert len(group.levels[0]) == 0


def two_outputs(weight: np.ndarray) -> onnx.ModelProto:
    """Logits, their sum as a scalar, a sequence, and as many rows as are positive."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x)
        => (float[n,4] y, float s, seq(float) q, float[k] r) {
        y = MatMul(x, w) s = ReduceSum<keepdims = 0>(y) q = SequenceConstruct(y)
        zero = Constant<value_float = 0.0>() p = Greater(y, zero) r = Compress(y, c) c0 = Cast<to = 9>(p)
        m = Constant<value_ints = [-1]>() c = Reshape(c0, m) }"""
    model = onnx.parser.parse_model(text)
    nodes = sorted(model.graph.node, key=lambda node: node.op_type == "Compress")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


@pytest.mark.parametrize("classifier", [True, False])
def test_outputs_of_any_kind(classifier: bool) -> None:
    batches = [Batch({"x": X[:5]}), Batch({"x": X[5:]})]
    made = Divergence(two_outputs(WEIGHTS[0]), lambda _: two_outputs(WEIGHTS[1]), batches, ROWS if classifier else ANY)
    assert made(PLAN) == pytest.approx(between(ROWS), rel=1e-6) if classifier else 0 < made(PLAN) < np.inf
