from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper
from oracle import run
from small_model import small_data, small_model

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.correct_bias import correct_bias
from hqp_onnx.passes.insert_qdq import insert_qdq, weight_scales
from hqp_onnx.passes.quantize import Recipe, prepare, quantize
from hqp_onnx.passes.round_weights import TO_NEAREST, round_weights, roundable, rounded
from hqp_onnx.quantization.placement import quantized_tensors
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.calibration import calibrate
from hqp_onnx.statistics.moments import Moments, input_moments

RNG = np.random.default_rng(0)
ONE = np.ones((1, 1))
ORT = target("onnxruntime", reduced_range=False)


def correlated(features: int, rank: int, count: int = 400) -> np.ndarray:
    return RNG.normal(size=(count, rank)) @ RNG.normal(size=(rank, features)) + 0.1 * RNG.normal(size=(count, features))


def error(change: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return np.einsum("of,fg,og->o", change, covariance, change)


def test_rounding_is_close_to_the_best_of_all_grid_points() -> None:
    x = correlated(6, 2)
    covariance = x.T @ x / len(x)
    rows = RNG.uniform(-3, 3, size=(20, 6))
    offsets = np.array(list(itertools.product((-1, 0, 1, 2), repeat=6)))
    best = np.array([error(offsets + np.floor(row) - row, covariance).min() for row in rows])
    ours = error(rounded(rows, ONE, covariance, 127, 1e-6) - rows, covariance)
    plain = error(np.rint(rows) - rows, covariance)
    assert (ours >= best - 1e-9).all()
    assert ours.mean() < 0.5 * plain.mean()
    assert np.median(ours / best) < 4


def test_uncorrelated_features_are_rounded_to_nearest_and_kept_in_range() -> None:
    rows = RNG.uniform(-9, 9, size=(5, 100))
    np.testing.assert_array_equal(rounded(rows, ONE, np.diag(RNG.uniform(1, 2, 100)), 127, 0.0), np.rint(rows))
    assert np.abs(rounded(rows, ONE, np.eye(100), 7)).max() == 7


def test_many_blocks_are_one_feature_at_a_time() -> None:
    x = correlated(150, 20)
    covariance = x.T @ x / len(x)
    rows = RNG.uniform(-20, 20, size=(4, 150))
    order = np.argsort(-np.diag(covariance), kind="stable")
    h = covariance[np.ix_(order, order)] + 0.01 * np.trace(covariance) / 150 * np.eye(150)
    rest, expected = rows[:, order].copy(), np.zeros((4, 150))
    for j in range(150):  # OBQ: the exact least-squares refit of what is left, by the inverse of the rest
        q = np.rint(rest[:, j])
        inverse = np.linalg.inv(h[j:, j:])
        rest[:, j:] -= np.outer((rest[:, j] - q) / inverse[0, 0], inverse[0])
        expected[:, order[j]] = q
    np.testing.assert_array_equal(rounded(rows, ONE, covariance, 127), expected)


BODY = """h = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(h) d1 = Conv<group=6, pads=[1,1,1,1]>(r, d) e = Relu(d1)
          k = Conv(e, w2) p = GlobalAveragePool(k) f = Flatten(p) y = Gemm<transB=1>(f, w3, b3)"""


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def block() -> gs.Graph:
    arrays = {"w1": normal(6, 4, 3, 3), "b1": normal(6), "d": normal(6, 1, 3, 3) + 0.5, "w2": normal(8, 6, 1, 1)}
    arrays |= {"w3": normal(5, 8), "b3": normal(5)}
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,8,8] x) => (float[N,5] y) {{ {BODY} }}'
    )
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    return to_graph(onnx.shape_inference.infer_shapes(proto))


def images() -> np.ndarray:
    return (np.cumsum(normal(64, 4, 8, 8), axis=3) + 1).astype(np.float32)  # neighbours are alike, as in images


def test_weights_lie_on_the_grid_that_insert_qdq_stores() -> None:
    graph, data = block(), [Batch({"x": images()})]
    calibration = calibrate(gs.export_onnx(graph), quantized_tensors(graph, ORT), data)
    scales = weight_scales(graph, calibration, ORT)
    names = roundable(graph, scales)
    assert names == ["w1", "w2", "w3"]  # not the depthwise one
    moments = input_moments(gs.export_onnx(graph), names, data)
    result = round_weights(graph, moments, scales, 127)
    assert result.modified and len(result.notes) == 3
    stored = {
        t.name: numpy_helper.to_array(t)
        for t in gs.export_onnx(insert_qdq(result.graph, calibration, ORT, scales=scales).graph).graph.initializer
    }
    for name in names:
        column = scales[name, 0].reshape(-1, *[1] * (result.graph.tensors()[name].values.ndim - 1))
        integers = stored[f"{name}/axis0/quantized"]
        np.testing.assert_allclose(integers * column, result.graph.tensors()[name].values, rtol=1e-5, atol=1e-7)


def test_a_corrected_bias_gives_the_mean_back() -> None:
    graph, x = block(), images()
    scales = {("d", 0): np.full(6, 0.5, np.float32)}
    result = correct_bias(graph, scales, 127, [Batch({"x": x[:40]}), Batch({"x": x[40:]})])
    coarse = result.graph.copy()
    coarse.tensors()["d"].values = (np.rint(graph.tensors()["d"].values / 0.5) * 0.5).astype(np.float32)
    means = [outputs(g, "d1", x).mean((0, 2, 3)) for g in (graph, coarse)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-4)
    assert np.abs(means[0]).max() > 0.1 and "1 biases corrected" in result.notes[0]
    assert not correct_bias(graph, scales, 127, [Batch({"x": x})], skip=["d"]).modified


def outputs(graph: gs.Graph, name: str, x: np.ndarray) -> np.ndarray:
    model = gs.export_onnx(graph)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return run(model, {"x": x})[0]


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt"])
def test_the_recipe_brings_logits_nearer_to_the_float_model(name: str, tmp_path: Path) -> None:
    graph, x, unseen = block(), images(), images()
    want = run(gs.export_onnx(graph), {"x": unseen})[0]

    def off(recipe: Recipe) -> float:
        model = quantize(graph, [Batch({"x": x})], target(name, reduced_range=True), "minmax", recipe=recipe).graph
        return float(np.square(run(gs.export_onnx(model), {"x": unseen})[0] - want).mean())

    assert off(Recipe()) < 0.9 * off(Recipe(False, False, False))


def test_biases_are_corrected_unless_that_is_turned_off() -> None:
    graph, data = block(), [Batch({"x": images()})]
    notes = [prepare(graph, data, target("tensorrt"), recipe=recipe).notes for recipe in (None, Recipe(True, False))]
    assert [any("biases corrected" in note for note in found) for found in notes] == [True, False]


def test_a_covariance_of_noise_rounds_to_nearest_and_says_so() -> None:
    rows, noise = RNG.uniform(-3, 3, size=(5, 8)), RNG.standard_normal((8, 8))
    assert rounded(rows, ONE, noise + noise.T - 4 * np.eye(8), 127) is None
    assert rounded(rows, ONE, np.full((8, 8), np.nan), 127) is None
    np.testing.assert_array_equal(rounded(rows, ONE, np.zeros((8, 8)), 127, gram=100 * np.eye(8)), np.rint(rows))
    text = "g (float[n,8] x) => (float[n,5] y) { y = Gemm<transB=1>(x, w) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.append(numpy_helper.from_array(rows.astype(np.float32), "w"))
    moments = {"w": Moments(noise + noise.T - 4 * np.eye(8), np.zeros(8), 9)}
    scale = np.full(5, 0.1, np.float32)
    result = round_weights(to_graph(proto), moments, {("w", 0): scale}, 127)
    np.testing.assert_allclose(result.graph.tensors()["w"].values, np.rint(rows / 0.1) * 0.1, atol=1e-6)
    assert result.warnings == (f"w: {TO_NEAREST}",) == result.notes


@pytest.mark.parametrize("kind", ["one sample", "constant", "small", "large bias", "saturated"])
def test_layers_whose_input_hardly_varies(kind: str) -> None:
    x = {
        "one sample": RNG.standard_normal((1, 12)),
        "constant": np.ones((30, 12)),
        "small": 0.01 * RNG.standard_normal((30, 12)),
    }.get(kind, RNG.standard_normal((30, 12)))
    bias = RNG.standard_normal(16) + {"large bias": 100, "saturated": 9}.get(kind, 0)
    text = "g (float[n,12] x) => (float[n,3] y) { a = Gemm(x, u, b) c = ACT(a) d = Gemm(c, v, e) y = Gemm(d, w) }"
    text = text.replace("ACT", "Tanh" if kind == "saturated" else "Relu")
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    arrays = {"u": (12, 16), "v": (16, 16), "e": (16,), "w": (16, 3)}
    values = {name: RNG.standard_normal(shape) / 4 for name, shape in arrays.items()} | {"b": bias}
    proto.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items())
    data = [Batch({"x": x.astype(np.float32)})]
    result = quantize(to_graph(proto), data, ORT, "minmax")
    want, have = (run(model, dict(data[0].feeds))[0] for model in (proto, gs.export_onnx(result.graph)))
    assert np.square(have - want).sum() < 1e-3 * np.square(want).sum()  # 30 dB


def test_rounding_is_shown() -> None:
    """It takes minutes on wide models, so each weight is reported."""
    graph = canonicalize(to_graph(small_model())).graph
    seen: list[tuple[str, int, int]] = []
    quantize(graph, [Batch({"input": small_data()["input"]})], ORT, progress=lambda *each: seen.append(each))
    rounded_ones = [(done, total) for stage, done, total in seen if stage == "rounding"]
    assert rounded_ones == [(done, len(rounded_ones)) for done in range(1, len(rounded_ones) + 1)]
    assert rounded_ones and {stage for stage, *_ in seen} == {"calibration", "moments for rounding", "rounding"}
