"""OBS saliency against units that are really removed, and layers that are really refitted."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from scored import scored
from small_model import small_data, small_model

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.model import open_data, open_model
from hqp_onnx.ranking import removal_costs as surgeon
from hqp_onnx.ranking.least_squares import held_out_ridges
from hqp_onnx.ranking.order import removal_order
from hqp_onnx.ranking.rank import rank
from hqp_onnx.ranking.removal_costs import removal_costs
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics.moment_halves import halved_moments, joined
from hqp_onnx.statistics.moments import input_moments
from hqp_onnx.steps.prune import Pruning, prune_model

RNG = np.random.default_rng(5)
TEXT = """
<ir_version: 8, opset_import: ["": 17]> g (float[N,3,6,6] x) => (float[N,4] y) {
  a = Conv<pads = [1,1,1,1]>(x, w1)  h = Relu(a)
  b = Conv<pads = [1,1,1,1], strides = [2,2]>(h, w2)  i = Relu(b)
  c = GlobalAveragePool(i)  f = Flatten(c)  y = Gemm<transB = 1>(f, w3)
}
"""
SHAPES = {"w1": (5, 3, 3, 3), "w2": (6, 5, 3, 3), "w3": (4, 6)}
X = RNG.normal(0.2, 1, (60, 3, 6, 6)).astype(np.float32)
SENSITIVITIES = {"w1": np.ones(5), "w2": RNG.uniform(0.5, 2, 6), "w3": RNG.uniform(0.5, 2, 4)}
FIRST, SECOND = range(5), range(5, 11)


def case():
    model = onnx.parser.parse_model(TEXT)
    values = {name: RNG.normal(0, 0.4, shape).astype(np.float32) for name, shape in SHAPES.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    members = {
        ("w1", 0): np.arange(5),
        ("w2", 1): np.arange(5),
        ("w2", 0): np.arange(5, 11),
        ("w3", 1): np.arange(5, 11),
    }
    return model, values, ChannelMap(11, {ParamAxis(*key): labels for key, labels in members.items()}, {}, {})


def patches(h):
    h = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
    cut = np.lib.stride_tricks.sliding_window_view(h, (3, 3), (2, 3))[:, :, ::2, ::2]
    return cut.transpose(0, 2, 3, 1, 4, 5).reshape(-1, h.shape[1] * 9)


def remaining_error(features, taps, weight, gone, alive):
    """What least squares with a bias cannot restore of each live output's mean square."""
    stays = np.setdiff1d(np.arange(features.shape[1] // taps), gone)
    kept = features.reshape(len(features), -1, taps)[:, stays].reshape(len(features), -1)
    x = np.concatenate([kept, np.ones((len(kept), 1))], 1).astype(np.float64)
    y = features.astype(np.float64) @ weight.reshape(len(weight), -1).T[:, alive]
    return np.square(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).mean(0)


def brute_force(model, values):
    """(unit, total cost) one by one: of all that remain, the unit whose readers suffer least."""
    seen = Session(model, ["h", "f"]).run({"x": X})
    removed: list[int] = []
    total, found = 0.0, []

    def suffered(side, gone):
        if side is SECOND:
            error = remaining_error(seen["f"], 1, values["w3"], [unit - 5 for unit in gone], np.arange(4))
            return error @ SENSITIVITIES["w3"] / 2
        alive = np.setdiff1d(np.arange(6), [unit - 5 for unit in removed if unit in SECOND])
        error = remaining_error(patches(seen["h"]), 9, values["w2"], gone, alive)
        return error @ SENSITIVITIES["w2"][alive] / 2

    def cost(unit):
        side = FIRST if unit in FIRST else SECOND
        gone = [other for other in removed if other in side]
        return suffered(side, [*gone, unit]) - suffered(side, gone)

    while True:
        full = {side for side in (FIRST, SECOND) if len([u for u in removed if u in side]) == len(side) - 1}
        prices = {u: cost(u) for side in (FIRST, SECOND) if side not in full for u in side if u not in removed}
        if not prices:
            return found
        unit = min(prices, key=prices.__getitem__)
        total += prices[unit]
        removed.append(unit)
        found.append((unit, total))


def measured(model):
    return input_moments(model, None, [Batch({"x": X})])


def test_order_and_costs_are_those_of_removing_and_refitting(monkeypatch):
    monkeypatch.setattr(surgeon, "RIDGE", 1e-9)
    model, values, channels = case()
    costs = removal_costs(to_graph(model), channels, measured(model), SENSITIVITIES)
    expected = brute_force(model, values)
    assert removal_order(costs, channels, 0.0).tolist() == [unit for unit, _ in expected]
    for unit, total in expected:
        assert costs[unit] == pytest.approx(total, rel=2e-4)
    assert np.isinf(costs).sum() == 2  # one of each tensor stays


def test_of_twins_only_the_first_is_free(monkeypatch):
    monkeypatch.setattr(surgeon, "RIDGE", 1e-6)
    model, values, channels = case()
    values["w1"][3] = values["w1"][1]
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    only = ChannelMap(11, channels.members, dict.fromkeys(SECOND, "kept"), {})
    costs = removal_costs(to_graph(model), only, measured(model), SENSITIVITIES)
    first, second = sorted((costs[1], costs[3]))
    assert first == np.nanmin(costs) and first < 1e-4 * np.sort(costs)[1] and second > 1e3 * first


def test_floors_frozen_units_and_gains():
    model, _, channels = case()
    graph, moments = to_graph(model), measured(model)
    plain = removal_costs(graph, channels, moments, SENSITIVITIES)
    assert np.isfinite(removal_costs(graph, channels, moments, SENSITIVITIES, min_width=0.5)).sum() == 2 + 3
    frozen = ChannelMap(11, channels.members, {7: "why"}, {})
    assert np.isinf(removal_costs(graph, frozen, moments, SENSITIVITIES)[7])
    gains = np.where(np.arange(11) < 5, 1.0, 1e-9)
    gained = removal_costs(graph, channels, moments, SENSITIVITIES, gains=gains)
    assert set(removal_order(gained, channels, 0.0)[:4]) <= set(FIRST)
    assert set(removal_order(plain, channels, 0.0)[:4]) - set(FIRST)


def test_a_branch_is_removed_as_one_for_what_its_mean_does_not_explain(monkeypatch):
    """Behind the last unit, the reader's output is its mean: the loss grows by the variance of what it was."""
    monkeypatch.setattr(surgeon, "RIDGE", 1e-9)
    model, _, channels = case()
    branch = ChannelMap(11, channels.members, dict.fromkeys(SECOND, "kept"), {}, (np.arange(5),))
    costs = removal_costs(to_graph(model), branch, measured(model), SENSITIVITIES, min_width=0.5)
    last = np.argsort(costs[:5])[2:]  # three of five are the least width
    assert (
        np.isfinite(costs[:5]).all() and removal_order(costs, branch, 0.5, branches=True)[2:].tolist() == last.tolist()
    )
    seen = Session(model, ["b"]).run({"x": X})["b"]
    variance = seen.transpose(1, 0, 2, 3).reshape(6, -1).astype(np.float64).var(1)
    assert costs[:5].max() == pytest.approx(0.5 * SENSITIVITIES["w2"] @ variance, rel=2e-4)
    two = removal_costs(to_graph(model), branch, measured(model), SENSITIVITIES, min_width=0.5, gains=np.full(11, 2.0))
    np.testing.assert_allclose(two[:5], costs[:5])


def test_units_that_no_measured_weight_reads_are_removed_last():
    model, _, channels = case()
    costs = removal_costs(to_graph(model), channels, {"w3": measured(model)["w3"]}, SENSITIVITIES)
    assert np.isinf(costs[list(FIRST)]).all() and np.isfinite(costs[list(SECOND)]).sum() == 5


def test_rank_measures_what_it_needs_and_refuses_what_it_cannot():
    model = open_model(small_model())
    data = open_data(model, small_data())
    channels, proto = model.channels(), small_model()
    ranking = rank(model.graph, channels, Scoring("obs"), data)
    halves = halved_moments(proto, data)
    ridges = held_out_ridges(model.graph, channels, PruningPlan(channels.prunable[::2]), halves)
    again = removal_costs(model.graph, channels, joined(*halves), scored(proto, data, saliency="obs"), ridges=ridges)
    np.testing.assert_allclose(ranking.units, again, rtol=1e-4)
    pruned = prune_model(model, Pruning(0.3, "obs", compensate=True), data)
    assert pruned.units == round(0.3 * pruned.prunable)
    with pytest.raises(UsageError, match="saliency obs needs another, such as native"):
        scored(proto, data, saliency="obs", engine="ort-training")
    with pytest.raises(UsageError, match="saliency obs needs data"):
        scored(proto, saliency="obs")


def test_a_held_out_ridge_keeps_few_samples_from_looking_redundant():
    """20 samples cannot tell 40 features apart: an all but free fit removes those that matter as well as any."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,40] x) => (float[N,8] y) { f = MatMul(x, a) h = Relu(f) '
        "y = MatMul(h, b) }"
    )
    b = rng.normal(size=(40, 8)) * np.geomspace(0.05, 1, 40)[:, None]
    arrays = {"a": np.eye(40), "b": b}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items())
    model = open_model(proto)
    channels = model.channels()
    few = [[Batch({"x": rng.normal(size=(10, 40)).astype(np.float32)})] for _ in range(2)]
    halves = tuple(input_moments(proto, None, part) for part in few)
    ridges = held_out_ridges(model.graph, channels, PruningPlan(channels.prunable[::2]), halves)
    assert ridges["b"] > surgeon.RIDGE
    sensitivities = {"a": np.ones(40), "b": np.ones(8)}
    regrets = []
    for chosen in ({}, ridges):
        costs = removal_costs(model.graph, channels, joined(*halves), sensitivities, ridges=chosen)
        gone = removal_order(costs, channels, 0.0)[:20]
        features = np.isin(channels.members[ParamAxis("b", 0)], gone)
        regrets.append(float(np.square(b[features]).sum()))  # features are independent: this is what they are worth
    assert regrets[1] < 0.6 * regrets[0]
