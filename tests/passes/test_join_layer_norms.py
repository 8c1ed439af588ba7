"""Layer normalizations in parts: one node, the same values; and what is none stays as it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from oracle import run

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.passes.split_layer_norms import split_layer_norms

MEAN = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m)"
FORMS = {
    "torch": f"{MEAN} q = Pow(d, two) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) "
    "a = Mul(n, scale) y = Add(a, bias)",
    "twice": f"{MEAN} d2 = Sub(x, m) q = Mul(d2, d2) v = ReduceMean<axes=[2]>(q) e = Add(eps, v) s = Sqrt(e) "
    "n = Div(d, s) a = Mul(scale, n) y = Add(bias, a)",
    "reciprocal": f"{MEAN} q = Mul(d, d) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) r = Reciprocal(s) "
    "n = Mul(r, d) a = Mul(n, scale) y = Add(a, bias)",
    "no bias": f"{MEAN} q = Mul(d, d) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) "
    "y = Mul(n, scale)",
    "keras": f"{MEAN} q = Mul(d, d) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) r = Reciprocal(s) "
    "f = Mul(r, scale) a = Mul(x, f) b = Mul(m, f) c = Sub(bias, b) y = Add(a, c)",
}
OTHERS = {
    "inner axis": FORMS["torch"].replace("[-1]", "[1]"),
    "cubed": FORMS["torch"].replace("two", "three"),
    "other mean": FORMS["twice"].replace("d2 = Sub(x, m)", "h = Relu(x) d2 = Sub(h, m)"),
    "read elsewhere": FORMS["torch"].replace("a = Mul(n, scale)", "a1 = Mul(n, scale) a = Mul(n, a1)"),
    "one feature": "x1 = ReduceMax<axes=[-1]>(x) " + FORMS["torch"].replace("(x", "(x1"),
    "more axes": FORMS["torch"].replace("eps", "eps4"),
    "swapped": FORMS["torch"].replace("Div(d, s)", "Div(s, d)"),
}


def made(body: str, opset: int = 17) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[b,5,8] x) => (float[b,5,8] y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    weights = {"scale": rng.standard_normal(8), "bias": rng.standard_normal(8), "eps": 1e-3, "two": 2.0, "three": 3.0}
    weights["eps4"] = np.full((1, 1, 1, 1), 1e-3)
    for name, value in weights.items():
        if name in body:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    return model


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in to_proto(canonicalize(to_graph(model)).graph).graph.node]


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_one_node(form: str, opset: int) -> None:
    model = made(FORMS[form], opset)
    joined = to_proto(canonicalize(to_graph(model)).graph)
    assert [node.op_type for node in joined.graph.node] == ["LayerNormalization"]
    assert {tensor.name for tensor in joined.graph.initializer} <= {"scale", "bias"}
    x = np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(run(joined, {"x": x})[0], run(model, {"x": x})[0], atol=1e-6)


@pytest.mark.parametrize("form", OTHERS)
def test_others_stay(form: str) -> None:
    assert "LayerNormalization" not in kinds(made(OTHERS[form]))


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("form", ["torch", "no bias"])
def test_and_taken_apart_again(form: str, opset: int) -> None:
    """As TensorRT before 8.6 needs it."""
    joined = canonicalize(to_graph(made(FORMS[form], 13))).graph
    parts = to_proto(split_layer_norms(raise_opset(joined, opset).graph).graph)
    assert "LayerNormalization" not in [node.op_type for node in parts.graph.node]
    x = np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(run(parts, {"x": x})[0], run(made(FORMS[form]), {"x": x})[0], atol=1e-6)


def test_what_it_froze_is_prunable() -> None:
    """A residual trunk through two of them, as BERT's in opset 13."""
    norm = FORMS["torch"]
    body = f"x = MatMul(z, w0) {norm} u = MatMul(y, w1) g = Relu(u) k = MatMul(g, w2) t = Add(y, k) o = MatMul(t, w3)"
    model = made(body, 13)
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (6, 8), "w1": (8, 12), "w2": (12, 8), "w3": (8, 4)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for value, name, size in ((model.graph.input[0], "z", 6), (model.graph.output[0], "o", 4)):
        value.name = name
        value.type.tensor_type.shape.dim[2].dim_value = size
    channels = open_model(model).channels()
    assert len(channels.prunable) == 8 + 12
