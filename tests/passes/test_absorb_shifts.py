"""Constants that move from sums into biases, against the graph before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from oracle import worst_error

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.absorb_shifts import absorb_shifts, constants

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
SHAPES = {
    "w": (4, 4, 3, 3),
    "p": (6, 4, 1, 1),
    "p2": (6, 4, 1, 1),
    "q": (4, 4, 1, 1),
    "q2": (4, 4, 1, 1),
    "g": (4, 1, 3, 3),
    "h": (6, 2, 1, 1),
    "b": (4,),
    "f": (3, 4),
    "k": (3,),
    "scale": (4,),
    "shift": (4,),
    "mean": (4,),
    "var": (4,),
    "c": (1, 4, 1, 1),
    "d": (1, 4, 1, 1),
    "wide": (1, 4, 5, 5),
    "one": (1, 1, 1, 1),
    "low": (1, 5, 1),
    "wideweight": (3, 100),
}
SAME = "pads = [1,1,1,1]"
BLOCK = f"z = Conv<{SAME}>(x, w, b) r = Relu(z) s = Add(r, c) a = Relu(s) "
MOVED = {
    "backward": f"z = Conv<{SAME}>(x, w) s = Add(z, c) y = Sigmoid(s)",
    "backward into a bias": f"z = Conv<{SAME}>(x, w, b) s = Add(c, z) y = Sigmoid(s)",
    "backward through a sum": f"z = Conv<{SAME}>(x, w, b) u = Add(x, z) s = Add(u, c) y = Sigmoid(s)",
    "backward into a normalization": f"z = Conv<{SAME}>(x, w) n = BatchNormalization(z, scale, shift, mean, var) "
    "s = Add(n, c) y = Sigmoid(s)",
    "backward into a constant": "u = Sigmoid(x) v = Add(u, d) s = Add(v, c) y = Relu(s)",
    "forward into a convolution": "r = Sigmoid(x) s = Add(r, c) y = Conv(s, p)",
    "forward into groups": "r = Sigmoid(x) s = Add(r, c) y = Conv<group = 2>(s, h)",
    "forward, window inside": "r = Sigmoid(x) s = Add(r, c) y = Conv(s, w, b)",
    "forward on all ways": "r = Sigmoid(x) s = Add(r, c) e = Conv(s, p) i = GlobalAveragePool(s) "
    "o = Conv(i, p2) y = Add(e, o)",
    "forward to a classifier": "r = Sigmoid(x) s = Add(r, c) i = GlobalAveragePool(s) "
    "l = Flatten(i) y = Gemm<transB = 1>(l, f, k)",
    "forward past a maximum": "r = Sigmoid(x) s = Add(r, c) i = MaxPool<kernel_shape = [2,2]>(s) y = Conv(i, p)",
    "forward into a normalization": "r = Sigmoid(x) s = Add(r, c) y = BatchNormalization(s, scale, shift, mean, var)",
    "two ways to one normalization": "r = Sigmoid(x) s = Add(r, c) e = Identity(s) o = Identity(s) t = Add(e, o) "
    "y = BatchNormalization(t, scale, shift, mean, var)",
    "two ways to one constant": "r = Sigmoid(x) s = Add(r, c) e = Identity(s) o = Identity(s) t = Add(e, o) "
    "u = Add(t, d) y = Relu(u)",
    "another reader of the trunk": "r = Sigmoid(x) s = Add(r, c) e = Conv(s, q) y = Mul(e, r)",
    "a trunk": f"{BLOCK}e = Conv(a, q) o = Conv(a, q2, b) y = Mul(e, o)",
    "a trunk that goes on": f"{BLOCK}e = Conv(a, q, b) o = Add(a, e) t = Relu(o) y = Conv(t, p)",
}
LEFT = {
    "a mean that meets pixels": "r = Sigmoid(x) s = Add(r, c) i = GlobalAveragePool(s) t = Add(i, r) l = Flatten(t) "
    "y = Gemm<transB = 1>(l, wideweight)",
    "channels of a constant of lower rank": "r = Sigmoid(x) s = Add(r, low) y = Conv(s, p)",
    "forward over an edge": f"r = Sigmoid(x) s = Add(r, c) y = Conv<{SAME}>(s, w)",
    "depthwise over an edge": f"r = Sigmoid(x) s = Add(r, c) y = Conv<group = 4, {SAME}>(s, g)",
    "an output": "r = Sigmoid(x) y = Add(r, c)",
    "an activation ahead": "r = Sigmoid(x) s = Add(r, c) t = Sigmoid(s) y = Conv(t, p)",
    "a product ahead": "r = Sigmoid(x) s = Add(r, c) t = Mul(s, x) y = Conv(t, p)",
    "one way of two": "r = Sigmoid(x) s = Add(r, c) e = Conv(s, q) t = Sigmoid(s) u = Conv(t, q) y = Add(e, u)",
    "another reader before": f"z = Conv<{SAME}>(x, w) s = Add(z, c) t = Sigmoid(s) y = Mul(t, z)",
    "a value of every position": "r = Sigmoid(x) s = Add(r, wide) y = Conv(s, p)",
    "one value": "r = Sigmoid(x) s = Add(r, one) y = Conv(s, p)",
    "many pixels before a classifier": "r = Sigmoid(x) s = Add(r, c) y = Flatten(s)",
}


def model_of(body: str) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,5,5] x) => (float[] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    used = {name for node in model.graph.node for name in node.input}
    values = {k: RNG.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items() if k in used}
    values |= {"var": np.abs(values["var"]) + 0.5} if "var" in values else {}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    return model


@pytest.mark.parametrize("body", MOVED.values(), ids=MOVED)
def test_what_moves_leaves_the_outputs_as_they_are(body: str) -> None:
    graph = to_graph(model_of(body))
    found = absorb_shifts(graph)
    assert found.modified and len(found.graph.nodes) < len(graph.nodes)
    assert sum(n.op == "Add" for n in found.graph.nodes) < sum(n.op == "Add" for n in graph.nodes)
    assert worst_error(to_proto(graph), to_proto(found.graph), {}, {"x": X}) < 1e-5


@pytest.mark.parametrize("body", LEFT.values(), ids=LEFT)
def test_what_cannot_move_stays(body: str) -> None:
    graph = to_graph(model_of(body))
    found = absorb_shifts(graph)
    assert not found.notes and not found.targets and not found.readers
    assert worst_error(to_proto(graph), to_proto(found.graph), {}, {"x": X}) == 0


def test_known_constants_stay_and_edges_are_asked_for() -> None:
    graph = to_graph(model_of(f"{BLOCK}y = Conv<{SAME}>(a, w)"))  # the weight before reads it, too
    assert not absorb_shifts(graph, constants(graph)).notes
    graph = to_graph(model_of(f"r = Sigmoid(x) s = Add(r, c) y = Conv<{SAME}>(s, w, b)"))
    found = absorb_shifts(graph, inexact={"w"})
    assert found.readers == {"w"} and not found.targets and "Add" not in {n.op for n in found.graph.nodes}
    before, after = to_proto(graph), to_proto(found.graph)
    want, got = (ort.InferenceSession(m.SerializeToString()).run(None, {"x": X})[0] for m in (before, after))
    assert np.abs(want - got)[:, :, 1:-1, 1:-1].max() < 1e-5 < np.abs(want - got).max()


def test_targets_are_what_outputs_grow_by() -> None:
    graph = to_graph(model_of(f"z = Conv<{SAME}>(x, w, b) s = Add(z, c) y = Sigmoid(s)"))
    found = absorb_shifts(graph)
    assert np.allclose(found.targets["w"], graph.tensors()["c"].values.ravel())
