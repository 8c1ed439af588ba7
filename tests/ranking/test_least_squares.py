"""The ridge that is chosen, against fits on explicit features of one half and their errors on the other."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from small_model import small_data, small_model

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import DataError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.ranking.least_squares import GRID, held_out_ridges
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics.moment_halves import halved_moments, joined
from hqp_onnx.statistics.moments import input_moments
from hqp_onnx.steps.prune import Pruning, prune_model

TEXT = """
<ir_version: 8, opset_import: ["": 17]> g (float[N,6] x) => (float[N,3] y) {
  a = Gemm<transB = 1>(x, w1)  h = Relu(a)  y = Gemm<transB = 1>(h, w2)
}
"""
WIDTH, GONE = 12, np.arange(5)


def network(rng):
    model = onnx.parser.parse_model(TEXT)
    values = {"w1": rng.normal(size=(WIDTH, 6)), "w2": rng.normal(size=(3, WIDTH))}
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    members = {ParamAxis("w1", 0): np.arange(WIDTH), ParamAxis("w2", 1): np.arange(WIDTH)}
    return model, values["w2"].astype(np.float32).astype(float), ChannelMap(WIDTH, members, {}, {})


def held_out_error(train, test, weight, ridge):
    """Mean squared error on ``test`` of the ridge regression of ``train``, held near the plain cut."""
    stays = np.setdiff1d(np.arange(WIDTH), GONE)
    target, mean = train @ weight.T, train.mean(0)
    x = train[:, stays] - mean[stays]
    covariance = x.T @ x / len(x)
    strength = ridge * np.trace(covariance) / len(stays)
    residual = target - target.mean(0) - x @ weight[:, stays].T
    new = weight[:, stays].T + np.linalg.solve(covariance + strength * np.eye(len(stays)), x.T @ residual / len(x))
    predicted = (test[:, stays] - mean[stays]) @ new + target.mean(0)
    return np.square(test @ weight.T - predicted).sum(1).mean()


@pytest.mark.parametrize("count, seed", [(16, 0), (16, 1), (24, 2), (400, 3)])
def test_the_ridge_of_least_held_out_error_is_chosen(count, seed):
    rng = np.random.default_rng(seed)
    model, weight, channels = network(rng)
    x = rng.normal(size=(count, 6)).astype(np.float32)
    data = open_dataset({"x": x}, Session(model).inputs, batch_size=4)
    chosen = held_out_ridges(to_graph(model), channels, PruningPlan(GONE), halved_moments(model, data))
    h = Session(model, ["h"]).run({"x": x})["h"].astype(float)
    first = (np.arange(count) // 4) % 2 == 0
    errors = [
        held_out_error(h[first], h[~first], weight, ridge) + held_out_error(h[~first], h[first], weight, ridge)
        for ridge in GRID
    ]
    assert chosen == {"w2": GRID[int(np.argmin(errors))]}


def test_halves_join_to_the_moments_of_all_samples():
    model = open_model(small_model())
    data = open_data(model, small_data(30))
    proto = to_proto(model.graph)
    whole, made = input_moments(proto, None, data), joined(*halved_moments(proto, data))
    assert made.keys() == whole.keys()
    for name, found in whole.items():
        assert made[name].count == found.count
        np.testing.assert_allclose(made[name].gram, found.gram, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(made[name].mean, found.mean, rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="1 sample, compensation needs two or more"):
        halved_moments(proto, open_data(model, small_data(1)))
    with pytest.raises(DataError, match="1 sample, saliency obs needs two or more"):
        prune_model(model, Pruning(0.2, "obs", compensate=False), open_data(model, small_data(1)))
