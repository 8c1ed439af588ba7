"""Tensors that all information passes, and what pruning keeps of them."""

import numpy as np
import onnx.parser
from onnx import numpy_helper
from small_model import small_data, small_model

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.recovery.net import Net
from hqp_onnx.recovery.points import choose, cuts, kept_positions
from hqp_onnx.runtimes.session import Session

X = small_data(3)["input"]


def net(model):
    return Net.of(model, {"input": X[:1]})


def test_cuts_of_a_residual_network():
    """Inside the block r1 is waited for; before and behind it nothing is."""
    small = net(to_proto(open_model(small_model()).graph))
    assert cuts(small.model, small.traced) == ["scaled", "c1", "n1", "r1", "sum", "mean", "flat"]


def test_a_skip_over_the_whole_network_leaves_no_cut_inside():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,1,8,8] input) => (float[n,1,8,8] y) {
      a = Relu(input) b = Conv(a, w) c = Sigmoid(b) d = Tanh(c) y = Mul(d, input) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w"))
    whole = net(model)
    assert cuts(whole.model, whole.traced) == []


def test_a_cut_holds_what_the_pruned_model_computes():
    """Nothing behind r1 is removed, so the pruned r1 is the original's without the removed channels."""
    model = open_model(small_model())
    channels = model.channels()
    gone = channels.removed(PruningPlan(channels.prunable[1::3]))
    kept = kept_positions(channels, gone)
    graph = prune_channels(model.graph, channels, PruningPlan(channels.prunable[1::3])).graph
    student, teacher = net(to_proto(graph)), net(to_proto(model.graph))
    points = choose(cuts(teacher.model, teacher.traced), student.traced, teacher.traced, kept, 20)
    assert [point.name for point in points] == cuts(teacher.model, teacher.traced)
    point = next(point for point in points if point.name == "r1")
    ours, theirs = (Session(each.model, ["r1"]).run({"input": X})["r1"] for each in (student, teacher))
    assert ours.shape[1] < theirs.shape[1]
    np.testing.assert_allclose(ours, point.cut(theirs), rtol=1e-5, atol=1e-6)


def test_points_are_spread_and_fit():
    model = open_model(small_model())
    channels = model.channels()
    plan = PruningPlan(channels.prunable[::2])
    student = net(to_proto(prune_channels(model.graph, channels, plan).graph))
    teacher = net(to_proto(model.graph))
    names = cuts(teacher.model, teacher.traced)
    kept = kept_positions(channels, channels.removed(plan))
    assert [p.name for p in choose(names, student.traced, teacher.traced, kept, 2)] == ["r1", "flat"]
    unknown = choose(names, student.traced, teacher.traced, {}, 20)  # without a ledger: equal shapes alone
    assert [p.name for p in unknown] == ["scaled"]
    assert not choose(names, student.traced, teacher.traced, kept, 0)
