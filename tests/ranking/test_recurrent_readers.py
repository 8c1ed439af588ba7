"""LSTM, GRU and RNN as readers of units: W is refitted to the data that it reads, R to the states."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.channels.channel_map import ParamAxis, PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.redundancy import redundant_units
from hqp_onnx.ranking.removal_costs import removal_costs
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics.moments import input_moments, recurrences

STEPS, INPUTS, WIDTH, HIDDEN = 6, 3, 5, 4
X = np.random.default_rng(1).standard_normal((STEPS, 20, INPUTS)).astype(np.float32)


def network(op="LSTM", direction="bidirectional", dead=False, twins=False):
    """A map of 3 inputs to 5 channels, ``op``, a map of its states; ``dead``: no later layer reads hidden unit 0.

    ``twins``: the states of units 0 and 1 are the same, but what reads them is not.
    """
    count, gates = 2 if direction == "bidirectional" else 1, GATES[op]
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[{STEPS},N,{INPUTS}] x) => (float[] y) {{
      e = MatMul(x, we)
      s = {op}<hidden_size={HIDDEN}, direction="{direction}">(e, w, r, b)
      y = MatMul(s, wy) }}"""
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    shapes = {
        "we": (INPUTS, WIDTH),
        "w": (count, gates * HIDDEN, WIDTH),
        "r": (count, gates * HIDDEN, HIDDEN),
        "b": (count, 2 * gates * HIDDEN),
        "wy": (HIDDEN, 3),
    }
    rng = np.random.default_rng(2)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if dead:
        values["wy"][0] = 0
    for name in ("w", "r", "b") if twins else ():
        rows = values[name].reshape(count, -1, HIDDEN, *values[name].shape[2:])
        rows[:, :, 1] = rows[:, :, 0]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    graph = canonicalize(to_graph(model)).graph
    return graph, analyze(graph), input_moments(to_proto(graph), None, [Batch({"x": X})])


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_states_that_others_determine_are_refitted_without_a_trace(op, direction):
    graph, channels, moments = network(op, direction, twins=True)
    plan = PruningPlan(channels.members[ParamAxis("r", 2)][[1]])
    pruned = prune_channels(graph, channels, plan).graph
    others = {name: each for name, each in moments.items() if name != "r"}
    made = [compensate(graph, pruned, channels, plan, each, ridge=1e-9).graph for each in (moments, others)]
    want, have, without = (Session(to_proto(g), ["y"]).run({"x": X})["y"] for g in (graph, *made))
    np.testing.assert_allclose(have, want, atol=1e-4)
    assert np.abs(without - want).max() > 0.05


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_data_that_others_determine_are_refitted_without_a_trace(op, direction):
    """Five channels of three inputs: any two of them are sums of the others."""
    graph, channels, moments = network(op, direction)
    plan = PruningPlan(channels.members[ParamAxis("we", 1)][[0, 3]])
    pruned = prune_channels(graph, channels, plan).graph
    fitted = compensate(graph, pruned, channels, plan, moments, ridge=1e-9)
    before, plain, after = (Session(to_proto(g), ["y"]).run({"x": X})["y"] for g in (graph, pruned, fitted.graph))
    scale = np.abs(before).max()
    assert np.abs(plain - before).max() > 0.1 * scale
    assert np.abs(after - before).max() < 1e-3 * scale
    assert any(note.startswith("w: 2 of 5 inputs removed") for note in fitted.notes)


def test_hidden_units_and_data_are_cut_at_once():
    graph, channels, moments = network()
    plan = PruningPlan(np.r_[channels.members[ParamAxis("we", 1)][[1]], channels.members[ParamAxis("r", 2)][[2]]])
    pruned = prune_channels(graph, channels, plan).graph
    fitted = compensate(graph, pruned, channels, plan, moments).graph
    assert fitted.tensors()["w"].shape == (2, 4 * 3, 4)
    Session(to_proto(fitted), ["y"]).run({"x": X})


def test_what_steps_read_is_not_dead():
    """No later layer reads hidden unit 0, but the next steps do."""
    graph, channels, moments = network(dead=True)
    found = redundant_units(graph, channels, moments, np.zeros(channels.units))
    assert not set(found) & set(channels.members[ParamAxis("r", 2)].tolist())


def test_costs_of_data_and_states():
    """The first unit to go, by least squares on what W, R and the map behind read, for each unit by itself."""
    graph, channels, moments = network()
    rng = np.random.default_rng(3)
    sensitivities = {"we": np.ones(WIDTH), "w": rng.uniform(1, 2, 16), "r": rng.uniform(1, 2, 16), "wy": np.ones(3)}
    costs = removal_costs(graph, channels, moments, sensitivities, ridges=dict.fromkeys(("w", "r", "wy"), 1e-3))
    assert np.isfinite(costs[channels.prunable]).sum() == WIDTH + HIDDEN - 2  # one of each stays
    values = {name: np.asarray(t.values, np.float64) for name, t in graph.tensors().items() if hasattr(t, "values")}
    states = Session(to_proto(graph), ["s"]).run({"x": X})["s"].reshape(-1, HIDDEN).astype(np.float64)

    def suffered(x, rows, weights, ridge=1e-3):
        """Of each channel of x, what the others cannot restore of the rows."""
        gram = x.T @ x / len(x)
        inverse = np.linalg.inv(gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram)))
        return (weights[:, None] / 2 * rows**2).sum(0) / np.diag(inverse)

    data = suffered(X.reshape(-1, INPUTS) @ values["we"], *_both(values["w"], sensitivities["w"]))
    hidden = suffered(states, *_both(values["r"], sensitivities["r"])) + suffered(states, values["wy"].T, np.ones(3))
    lone = np.full(channels.units, np.inf)
    lone[channels.members[ParamAxis("we", 1)]], lone[channels.members[ParamAxis("r", 2)]] = data, hidden
    first = int(np.argmin(lone))
    assert int(np.argmin(costs)) == first
    assert costs[first] == pytest.approx(lone[first], rel=1e-3)


def _both(weight, sensitivity):
    """Rows of both directions, and the share of each."""
    return weight.reshape(-1, weight.shape[2]), np.tile(sensitivity / len(weight), len(weight))


def test_states_that_nothing_names_are_not_measured():
    graph, _, _ = network()
    node = next(node for node in graph.nodes if node.op == "LSTM")
    assert set(recurrences(graph, 1)) == {"w"}
    assert recurrences(graph, 2)["r"].features[0].tensor == node.outputs[0].name
