"""Units that cost nothing: found in a network that was given some, and removed without a trace."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.ranking.redundancy import redundant_units
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics.moments import input_moments

RNG = np.random.default_rng(7)
X = RNG.normal(0.2, 1, (50, 3, 5, 5)).astype(np.float32)
TEXT = """
<ir_version: 8, opset_import: ["": 17]> g (float[N,3,5,5] x) => (float[N,4,5,5] y) {
  a = Conv(x, w1, b1)  h = Relu(a)  y = OP
}
"""


def network(op="Conv(h, w2)", biased=True):
    """Units 0 never fires, 1 is constant, 2 is not read, 3 and 5 are multiples, 4, 6 and 7 are needed."""
    model = onnx.parser.parse_model(TEXT.replace("OP", op))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    w1, b1 = RNG.normal(size=(8, 3, 1, 1)).astype(np.float32), np.zeros(8, np.float32)
    w2 = RNG.normal(size=(4, 8, 3, 3) if "pads" in op else (4, 8, 1, 1)).astype(np.float32)
    w1[0], b1[0] = 0, -1
    w1[1], b1[1] = 0, 2
    w2[:, 2] = 0
    w1[5] = 3 * w1[3]
    values = {"w1": w1, "b1": b1, "w2": w2}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    members = {ParamAxis("w1", 0): np.arange(8), ParamAxis("b1", 0): np.arange(8), ParamAxis("w2", 1): np.arange(8)}
    return to_graph(model), ChannelMap(8, members, {}, {})


def found_in(graph, channels, scores=None):
    moments = input_moments(to_proto(graph), None, [Batch({"x": X})])
    return redundant_units(graph, channels, moments, np.arange(8.0) if scores is None else scores), moments


def test_all_kinds_are_found_and_of_twins_the_better_stays():
    graph, channels = network()
    expected = {0: "dead", 1: "constant", 2: "dead"}
    assert found_in(graph, channels)[0] == expected | {3: "duplicate"}
    assert found_in(graph, channels, -np.arange(8.0))[0] == expected | {5: "duplicate"}
    frozen = ChannelMap(8, channels.members, {3: "why", 5: "why"}, {})
    assert found_in(graph, frozen)[0] == expected


def test_they_are_removed_without_a_trace():
    graph, channels = network()
    found, moments = found_in(graph, channels)
    plan = PruningPlan(np.array(list(found)))
    pruned = graph.copy()
    for name, axes in channels.removed_slices(plan).items():
        for axis, gone in axes.items():
            pruned.tensors()[name].values = np.delete(pruned.tensors()[name].values, gone, axis)
    refitted = compensate(graph, pruned, channels, plan, moments, ridge=1e-7).graph
    before, after = (Session(to_proto(g), ["y"]).run({"x": X})["y"] for g in (graph, refitted))
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


@pytest.mark.parametrize("op", ["Conv<pads = [1,1,1,1]>(h, w2)"])
def test_a_constant_that_meets_padding_is_not_constant(op):
    graph, channels = network(op)
    assert found_in(graph, channels)[0] == {0: "dead", 2: "dead", 3: "duplicate"}


def test_unmeasured_readers_keep_their_units():
    graph, channels = network()
    assert redundant_units(graph, channels, {}, np.zeros(8)) == {}


def test_one_unmeasured_reader_among_others_keeps_its_units():
    graph, channels = network()
    weight, result = gs.Constant("w3", RNG.normal(size=(4, 8, 1, 1)).astype(np.float32)), gs.Variable("z", np.float32)
    graph.nodes.append(gs.Node("Conv", "other", inputs=[graph.nodes[-1].inputs[0], weight], outputs=[result]))
    graph.outputs.append(result)
    channels = ChannelMap(8, {**channels.members, ParamAxis("w3", 1): np.arange(8)}, {}, {})
    found, moments = found_in(graph, channels)
    assert found
    assert redundant_units(graph, channels, {"w2": moments["w2"]}, np.zeros(8)) == {}
