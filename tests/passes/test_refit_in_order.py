"""The refit in order against numpy.linalg.lstsq on what onnxruntime computes, layer after layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from small_model import small_data, small_model

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.refit_in_order import refit_in_order
from hqp_onnx.ranking.least_squares import RIDGE
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics import carried
from hqp_onnx.statistics.moments import input_moments
from hqp_onnx.statistics.moments_in_order import moments_in_order

X = small_data(120)["input"]
DATA = [Batch({"input": X[:70]}), Batch({"input": X[70:]})]
EXACT = 1e-9


@pytest.fixture(scope="module")
def case():
    model = open_model(small_model())
    channels = model.channels()
    plan = PruningPlan(channels.prunable[::3])
    pruned = prune_channels(model.graph, channels, plan).graph
    once = compensate(model.graph, pruned, channels, plan, input_moments(to_proto(model.graph), None, DATA)).graph
    return model.graph, channels, plan, once


def run(graph: gs.Graph, names: list[str]) -> dict[str, np.ndarray]:
    return Session(to_proto(graph), names).run({"input": X})


def patches(h: np.ndarray) -> np.ndarray:
    h = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
    cut = sliding_window_view(h, (3, 3), (2, 3))
    return cut.transpose(0, 2, 3, 1, 4, 5).reshape(-1, h.shape[1] * 9)


def test_each_layer_is_the_least_squares_fit_of_the_original_from_what_it_reads(case):
    original, channels, plan, once = case
    result = refit_in_order(original, once, channels, plan, DATA, ridges=dict.fromkeys(["w2", "w3", "w4"], EXACT))
    gone = channels.removed(plan)
    new, old = run(result.graph, ["r1", "r2", "flat"]), run(original, ["c2", "c3", "logits"])
    tensors = result.graph.tensors()
    for weight, read, target in (("w2", "r1", "c2"), ("w3", "r2", "c3"), ("w4", "flat", "logits")):
        labels = next((v for k, v in channels.members.items() if (k.tensor, k.axis) == (weight, 0)), None)
        y = old[target] if labels is None else old[target][:, ~gone[labels]]
        x = new[read] if weight == "w4" else patches(new[read])
        y = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
        ones = np.concatenate([x, np.ones((len(x), 1))], 1).astype(np.float64)
        best = ones @ np.linalg.lstsq(ones, y.astype(np.float64), rcond=None)[0]
        bias = tensors[weight].outputs[0].inputs[2].values
        have = ones @ np.concatenate([tensors[weight].values.reshape(len(bias), -1), bias[:, None]], 1).T
        np.testing.assert_allclose(have, best, atol=1e-3 * np.abs(best).max())  # weights of dead features are free
    assert result.modified and len(result.notes) == 3


def test_it_comes_closer_to_the_original_than_one_refit(case):
    original, channels, plan, once = case
    said: list[tuple[int, int]] = []
    refitted = refit_in_order(original, once, channels, plan, DATA, progress=lambda *report: said.append(report)).graph
    assert said == [(1, 3), (2, 3), (3, 3)]
    want, before, after = (run(graph, ["logits"])["logits"] for graph in (original, once, refitted))
    assert np.square(after - want).sum() < 0.9 * np.square(before - want).sum()


def test_the_ridges_that_unseen_samples_asked_for_hold_in_the_second_refit(case, monkeypatch):
    """At least ``RIDGE``: what features of the original allow may be too free for those of the pruned model."""
    original, channels, plan, _ = case
    given = []

    def fitted(*arguments, ridges, **named):
        given.append(ridges)
        return refit_in_order(*arguments, ridges=ridges, **named)

    monkeypatch.setattr("hqp_onnx.passes.cut.refit_in_order", fitted)
    refit = Refit(input_moments(to_proto(original), None, DATA), {"w2": 0.1, "w3": 0.1, "w4": 1e-9}, DATA)
    free, held = cut(original, channels, plan, replace(refit, ridges={})), cut(original, channels, plan, refit)
    assert given == [{}, {"w2": 0.1, "w3": 0.1, "w4": RIDGE}]
    assert not np.allclose(free.graph.tensors()["w3"].values, held.graph.tensors()["w3"].values, atol=1e-3)


def test_the_first_layer_and_an_unpruned_model_stay(case):
    original, channels, plan, once = case
    before = to_proto(once).SerializeToString(deterministic=True)
    refitted = refit_in_order(original, once, channels, plan, DATA).graph
    np.testing.assert_array_equal(refitted.tensors()["w1"].values, once.tensors()["w1"].values)
    assert to_proto(once).SerializeToString(deterministic=True) == before
    nothing = refit_in_order(original, original, channels, PruningPlan(np.array([], int)), DATA)
    assert not nothing.modified and nothing.notes == ()


def test_no_data_is_an_error(case):
    original, channels, plan, once = case
    with pytest.raises(DataError, match="no calibration data"):
        refit_in_order(original, once, channels, plan, [])


class Counted(list[Batch]):
    """Batches that count how often they are read."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()


def test_data_are_read_once_where_what_crosses_fits_and_the_result_is_the_same_where_not(case, monkeypatch):
    original, channels, plan, once = case
    data = Counted(DATA)
    with_room = refit_in_order(original, once, channels, plan, data)
    assert data.times == 1 and len(with_room.notes) == 3
    monkeypatch.setattr(carried, "ROOM", 0)
    without = refit_in_order(original, once, channels, plan, data)
    assert data.times > 4
    one, other = (run(result.graph, ["logits"])["logits"] for result in (with_room, without))
    np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(other).max())


def test_a_weight_behind_a_branch_of_control_comes_after_what_the_branch_reads() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x, bool c) => (float[N,4] y) {
      a = Gemm<transB = 1>(x, w1)
      u = If(c)<then_branch = t () => (t1) { t1 = Relu(a) }, else_branch = e () => (e1) { e1 = Neg(a) }>
      y = MatMul(u, w2) }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"w1": (6, 6), "w2": (6, 4)}.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    original = to_graph(model)
    changed = original.copy()
    changed.tensors()["w1"].values = changed.tensors()["w1"].values * np.float32(1.1)
    data = [Batch({"x": rng.standard_normal((60, 6)).astype(np.float32), "c": np.array(True)}, shared=frozenset("c"))]
    assert [weight.name for weight, *_ in moments_in_order(original, changed, data)] == ["w2"]
    assert [weight.name for weight, *_ in moments_in_order(original, changed, data, readers=("w1", "w2"))] == [
        "w1",
        "w2",
    ]


def test_a_sequence_that_crosses_is_computed_again() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,4] y) {
      a = MatMul(x, w1)  s = SplitToSequence<axis = 1>(a)  i = Constant<value_int = 0>()
      f = SequenceAt(s, i)  b = MatMul(f, w2)  l = SequenceAt(s, i)  d = Add(b, l)  y = MatMul(d, w3) }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"w1": (8, 8), "w2": (1, 8), "w3": (8, 4)}.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    original = to_graph(model)
    changed = original.copy()
    changed.tensors()["w1"].values = changed.tensors()["w1"].values * np.float32(1.1)
    data = [Batch({"x": rng.standard_normal((60, 8)).astype(np.float32)})]
    assert [weight.name for weight, *_ in moments_in_order(original, changed, data)][-1] == "w3"


def test_a_transpose_that_is_folded_once_its_branch_is_gone():
    """The table is the head too, through a Transpose, which the pruned graph no longer needs."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[n,5] ids) => (float[n,5,20] y) {
        e = Gather (emb, ids) a = MatMul (e, w) r = Relu (a) b = MatMul (r, v) s = Add (e, b)
        head = Transpose <perm = [1, 0]> (emb) y = MatMul (s, head) }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"emb": (20, 8), "w": (8, 16), "v": (16, 8)}.items():
        value = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    opened, data = open_model(model), [Batch({"ids": rng.integers(0, 20, (40, 5))})]
    channels = opened.channels()
    moments = input_moments(to_proto(opened.graph), None, data)
    made = cut(opened.graph, channels, PruningPlan(channels.branches[0]), Refit(moments, {}, data)).graph
    assert Session(to_proto(made)).run(data[0].feeds)["y"].shape == (40, 5, 20)


def test_an_input_that_is_an_output_too():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,6] x) => (float[n,3] y, float[n,6] x) {
        a = MatMul (x, w) r = Relu (a) y = MatMul (r, v) }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in {"w": (6, 8), "v": (8, 3)}.items():
        value = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    opened, data = open_model(model), [Batch({"x": rng.standard_normal((40, 6)).astype(np.float32)})]
    channels = opened.channels()
    moments = input_moments(to_proto(opened.graph), None, data)
    made = cut(opened.graph, channels, PruningPlan(channels.prunable[:3]), Refit(moments, {}, data)).graph
    assert np.array_equal(Session(to_proto(made)).run(data[0].feeds)["x"], data[0].feeds["x"])


def test_the_original_keeps_what_only_a_branch_of_control_reads() -> None:
    """Its own weights, under the names that they have beside the changed model: in a body, too."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x, bool c) => (float[N,4] y) {
      u = If(c)<then_branch = t () => (t1) { t1 = MatMul(x, w1) }, else_branch = e () => (e1) { e1 = Neg(x) }>
      y = MatMul(u, w2) }"""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("w1", (6, 6)), ("w2", (6, 4)))}

    def made(factor: float) -> gs.Graph:
        model = onnx.parser.parse_model(text)
        values = {**arrays, "w1": arrays["w1"] * np.float32(factor)}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
        return to_graph(model)

    x = rng.standard_normal((60, 6)).astype(np.float32)
    data = [Batch({"x": x, "c": np.array(True)}, shared=frozenset("c"))]
    grams = [moments.gram for *_, moments in moments_in_order(made(1), made(3), data, readers=("w2",))]
    answers = x.astype(np.float64) @ arrays["w1"] @ arrays["w2"]
    scale = grams[0][0, 0] / np.square(3 * x @ arrays["w1"])[:, 0].sum()  # sums, or means
    assert len(grams) == 1
    np.testing.assert_allclose(grams[0][-4:, -4:], scale * answers.T @ answers, rtol=1e-4)
