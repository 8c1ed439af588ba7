"""Rounding in order against exhaustive search and numpy.linalg.lstsq on what onnxruntime computes."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper
from oracle import run

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.passes.round_in_order import Grid, round_in_order

RNG = np.random.default_rng(0)
STEP = 0.3
SHAPES = {"w1": (5, 6), "b1": (5,), "w2": (8, 5), "b2": (8,), "w3": (3, 8)}
ARRAYS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
X = (RNG.normal(size=(300, 3)) @ RNG.normal(size=(3, 6)) + 0.2 * RNG.normal(size=(300, 6)) + 1).astype(np.float32)
DATA = [Batch({"x": X[:200]}), Batch({"x": X[200:]})]
GRID = Grid(np.full((1, 1), STEP), -8, 7)


def graph() -> gs.Graph:
    body = "h = Gemm<transB=1>(x, w1, b1) r = Relu(h) k = Gemm<transB=1>(r, w2, b2) y = Gemm<transB=1>(k, w3)"
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y, float[N,5] r, float[N,8] k)'
    proto = onnx.parser.parse_model(f"{head} {{ {body} }}")
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in ARRAYS.items())
    return to_graph(onnx.shape_inference.infer_shapes(proto))


def start(names: list[str]) -> gs.Graph:
    """Each weight rounded to nearest."""
    each = graph()
    for name in names:
        each.tensors()[name].values = np.float32(STEP) * np.clip(np.rint(ARRAYS[name] / STEP), -8, 7)
    return each


def outputs(each: gs.Graph) -> list[np.ndarray]:
    return [values.astype(np.float64) for values in run(gs.export_onnx(each), {"x": X})]


def test_a_weight_is_near_the_best_of_all_grid_points_on_what_it_really_reads() -> None:
    result = round_in_order(graph(), start(["w1", "w2"]), {"w1": GRID, "w2": GRID}, DATA, ridge=1e-6)
    (_, _, wanted), (_, x, given) = outputs(graph()), outputs(result.graph)
    np.testing.assert_allclose(given.mean(0), wanted.mean(0), atol=1e-4)  # its bias
    x, y = x - x.mean(0), wanted - wanted.mean(0)
    best = np.linalg.lstsq(x, y, rcond=None)[0].T
    offsets = np.array(list(itertools.product((-1, 0, 1, 2), repeat=5)))
    ours = np.square(y - (given - given.mean(0))).mean(0)
    plain = np.square(y - x @ start(["w2"]).tensors()["w2"].values.T).mean(0)
    for row in range(8):
        points = STEP * np.clip(np.floor(best[row] / STEP) + offsets, -8, 7)
        least = np.square(y[:, [row]] - x @ points.T).mean(0).min()
        assert least - 1e-6 <= ours[row] < 3 * least
    assert ours.mean() < 0.75 * plain.mean()
    for name in ("w1", "w2"):
        integers = result.graph.tensors()[name].values / STEP
        np.testing.assert_allclose(integers, np.clip(np.rint(integers), -8, 7), atol=1e-5)


def test_a_weight_that_stays_in_float_is_refitted_behind_the_others() -> None:
    result = round_in_order(graph(), start(["w1"]), {"w1": GRID}, DATA, ridge=1e-9)
    (_, _, wanted), (_, x, _) = outputs(graph()), outputs(result.graph)
    fitted = np.linalg.lstsq(np.c_[x, np.ones(len(x))], wanted, rcond=None)[0]
    tensors = result.graph.tensors()
    np.testing.assert_allclose(tensors["w2"].values, fitted[:-1].T, atol=1e-3)
    np.testing.assert_allclose(tensors["b2"].values, fitted[-1], atol=1e-3)
    assert result.modified and result.notes[:2] == ("w1: rounded in order", "w2: refitted in order")


def test_progress_and_errors() -> None:
    seen: list[tuple[int, int]] = []
    both = ["w1", "w2"]
    round_in_order(graph(), start(both), dict.fromkeys(both, GRID), DATA, progress=lambda *each: seen.append(each))
    assert seen == [(1, 2), (2, 2)]
    assert not round_in_order(graph(), graph(), {}, DATA).modified
    with pytest.raises(DataError, match="no calibration data"):
        round_in_order(graph(), start(["w1"]), {"w1": GRID}, [])
