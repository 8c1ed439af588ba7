from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from hqp_onnx.passes.fold_batchnorm import fold_batchnorm

# name: (operator call, input shape, weight shape, bias shape or None, channels)
FOLDABLE = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w, b)", (2, 3, 5, 5), (4, 3, 3, 3), (4,), 4),
    "conv, no bias": ("Conv(x, w)", (2, 3, 5, 5), (4, 3, 3, 3), None, 4),
    "conv, omitted bias": ('Conv(x, w, "")', (2, 3, 5, 5), (4, 3, 3, 3), None, 4),
    "conv, 1-d": ("Conv(x, w, b)", (2, 3, 7), (4, 3, 3), (4,), 4),
    "conv, two groups": ("Conv<group=2>(x, w, b)", (2, 4, 5, 5), (6, 2, 3, 3), (6,), 6),
    "conv, depthwise": ("Conv<group=4>(x, w)", (2, 4, 5, 5), (4, 1, 3, 3), None, 4),
    "transposed": ("ConvTranspose<strides=[2,2]>(x, w, b)", (2, 3, 4, 4), (3, 5, 3, 3), (5,), 5),
    "transposed, no bias": ("ConvTranspose(x, w)", (2, 3, 4, 4), (3, 5, 3, 3), None, 5),
    "transposed, two groups": ("ConvTranspose<group=2>(x, w, b)", (2, 4, 4, 4), (4, 3, 2, 2), (6,), 6),
    "gemm": ("Gemm(x, w, b)", (2, 3), (3, 4), (4,), 4),
    "gemm, transB": ("Gemm<transB=1>(x, w, b)", (2, 3), (4, 3), (1, 4), 4),
    "gemm, alpha and beta": ("Gemm<alpha=0.5, beta=3.0>(x, w, b)", (2, 3), (3, 4), (), 4),
    "gemm, no bias": ("Gemm<transB=1>(x, w)", (2, 3), (4, 3), None, 4),
}


def dims(rank: int) -> str:
    return ", ".join(f"{'nchw'[axis]}{rank}" for axis in range(rank))


def model(body: str, arrays: dict[str, np.ndarray], rank: int, outputs: str = "y") -> gs.Graph:
    shape = dims(rank)
    declared = ", ".join(f"float[{shape}] {name}" for name in outputs.split())
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{shape}] x) => ({declared}) {{ {body} }}'
    )
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return gs.import_onnx(proto)


def parameters(channels: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    values = [
        rng.normal(1, 1, channels),
        rng.normal(size=channels),
        rng.normal(size=channels),
        rng.uniform(0.1, 3, channels),
    ]
    return {name: v.astype(np.float32) for name, v in zip("gsmv", values, strict=True)}


def evaluate(graph: gs.Graph, x: np.ndarray) -> list[np.ndarray]:
    """By onnxruntime, each node as written (onnx.reference cannot run a grouped ConvTranspose)."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = gs.export_onnx(graph)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("case", FOLDABLE)
def test_folding_keeps_the_function(case: str) -> None:
    call, shape, weight, bias, channels = FOLDABLE[case]
    rng = np.random.default_rng(0)
    arrays = parameters(channels, rng) | {"w": rng.normal(size=weight).astype(np.float32)}
    if bias is not None:
        arrays["b"] = rng.normal(size=bias).astype(np.float32)
    graph = model(f"z = {call} y = BatchNormalization<epsilon=0.01>(z, g, s, m, v)", arrays, len(shape))
    x = rng.normal(size=shape).astype(np.float32)
    before = gs.export_onnx(graph).SerializeToString()
    result = fold_batchnorm(graph)
    assert gs.export_onnx(graph).SerializeToString() == before  # the argument is untouched
    assert result.modified and [node.op for node in result.graph.nodes] == [call.split("(")[0].split("<")[0]]
    (expected,), (got,) = evaluate(graph, x), evaluate(result.graph, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def arrays_for_convs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return parameters(3, rng) | {"w": rng.normal(size=(3, 3, 1, 1)).astype(np.float32)}


BN = "BatchNormalization(z, g, s, m, v)"


@pytest.mark.filterwarnings("error")
def test_no_variance_stays() -> None:
    arrays = arrays_for_convs()
    arrays["v"][1] = 0
    result = fold_batchnorm(model("z = Conv(x, w) y = BatchNormalization<epsilon=0.0>(z, g, s, m, v)", arrays, 4))
    assert not result.modified
    assert "not above 0" in result.notes[0]


def test_a_shared_weight_is_copied() -> None:
    graph = model(f"z = Conv(x, w) a = {BN} q = Conv(x, w) y = Add(a, q)", arrays_for_convs(), 4)
    result = fold_batchnorm(graph)
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 4)).astype(np.float32)
    assert [node.op for node in result.graph.nodes].count("BatchNormalization") == 0
    np.testing.assert_allclose(evaluate(result.graph, x)[0], evaluate(graph, x)[0], rtol=1e-5, atol=1e-5)


def test_two_in_a_row_fold_both() -> None:
    graph = model(f"q = Conv(x, w) z = BatchNormalization(q, g, s, m, v) y = {BN}", arrays_for_convs(), 4)
    result = fold_batchnorm(graph)
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 4)).astype(np.float32)
    assert [node.op for node in result.graph.nodes] == ["Conv"]
    np.testing.assert_allclose(evaluate(result.graph, x)[0], evaluate(graph, x)[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (f"z = Conv(x, w) a = {BN} y = Add(a, z)", "y", "'z' has other uses"),
        (f"z = Conv(x, w) y = {BN}", "y z", "'z' has other uses"),
        (f"z = Relu(x) y = {BN}", "y", "no Conv"),
        ("y = BatchNormalization(x, g, s, m, v)", "y", "no Conv"),
        ("z = Conv(x, w) k = Neg(g) y = BatchNormalization(z, k, s, m, v)", "y", "parameters are not constant"),
        (f"k = Neg(w) z = Conv(x, k) y = {BN}", "y", "weight or bias of .* is not constant"),
        ("z = Conv(x, w) y, p, q = BatchNormalization<training_mode=1>(z, g, s, m, v)", "y", "training mode"),
    ],
)
def test_what_cannot_fold_stays_and_says_why(body: str, outputs: str, reason: str) -> None:
    result = fold_batchnorm(model(body, arrays_for_convs(), 4, outputs))
    assert not result.modified
    assert [node.op for node in result.graph.nodes].count("BatchNormalization") == 1
    assert len(result.notes) == 1
    assert re.search(reason, result.notes[0]), result.notes
