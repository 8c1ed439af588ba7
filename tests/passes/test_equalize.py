from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper
from oracle import run

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.passes.equalize import equalize
from hqp_onnx.passes.quantize import Recipe, quantize
from hqp_onnx.runtimes.targets import target

RNG = np.random.default_rng(0)
UNEVEN = np.float32([60, 1, 1, 0.5, 1, 2])


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


ARRAYS = {
    "w1": normal(6, 4, 3, 3) * UNEVEN[:, None, None, None],
    "b1": normal(6) * UNEVEN,
    "d": normal(6, 1, 3, 3),
    "w2": normal(6, 6, 1, 1) * UNEVEN[:, None, None, None],
    "w3": normal(5, 6, 1, 1),
    "g": normal(3, 6) / UNEVEN,
    "q": normal(6, 3, 1, 1),
    "six": np.float32(6),
    "zero": np.float32(0),
}


def graph(body: str) -> gs.Graph:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,8,8] x) => (float[N,?,?,?] y) {{ {body} }}'
    )
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in ARRAYS.items() if n in used)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return to_graph(proto)


EQUALIZED = {
    "relu": "h = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(h) y = Conv(r, w3)",
    "leaky": "h = Conv(x, w1, b1) r = LeakyRelu<alpha=0.1>(h) p = MaxPool<kernel_shape=[2,2]>(r) y = Conv(p, w3)",
    "nothing": "h = Conv(x, w1) y = Conv(h, w3)",
    "depthwise": "h = Conv(x, w1, b1) r = Relu(h) d1 = Conv<group=6>(r, d) e = Relu(d1) y = Conv(e, w3)",
    "residual": "h = Conv(x, w1, b1) r = Relu(h) k = Conv(r, w2) a = Add(k, r) s = Relu(a) y = Conv(s, w3)",
    "gemm": "h = Conv(x, w1, b1) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, g)",
    "gate": """h = Conv(x, w1, b1) r = Relu(h) p = GlobalAveragePool(r) s = HardSigmoid(p) m = Mul(r, s)
               y = Conv(m, w3)""",
}
LEFT = {
    "clip": "h = Conv(x, w1, b1) r = Clip(h, zero, six) y = Conv(r, w3)",
    "hardswish": "h = Conv(x, w1, b1) r = HardSwish(h) y = Conv(r, w3)",
    "output": "y = Conv(x, w1, b1)  k = Conv(y, w3)",
    "weight behind an identity": "i = Identity(w2) h = Conv(x, w1, b1) r = Relu(h) y = Conv(r, i)",
    "shared weight": "h = Conv(x, w1, b1) k = Conv(h, w2) y = Conv(k, w2)",
}


def feeds() -> dict[str, np.ndarray]:
    return {"x": normal(6, 4, 8, 8)}


@pytest.mark.parametrize("name", sorted(EQUALIZED.keys() - {"gate"}))
def test_the_function_stays_and_channels_get_even(name: str) -> None:
    before, x = graph(EQUALIZED[name]), feeds()
    result = equalize(before, [Batch(x)])
    after = gs.export_onnx(result.graph)
    want, have = run(gs.export_onnx(before), x)[0], run(after, x)[0]
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    assert result.modified and "equalized" in result.notes[0]
    tops = np.abs(run(exposing(result.graph, "h"), x)[0]).max((0, 2, 3))
    assert tops.max() / tops.min() < 60  # of about 120 before


def test_what_a_gate_reads_freezes_its_channels() -> None:
    before, x = graph(EQUALIZED["gate"]), feeds()
    assert not equalize(before, [Batch(x)]).modified  # r reaches HardSigmoid, through the pool


@pytest.mark.parametrize("name", sorted(LEFT))
def test_what_is_not_homogeneous_or_not_its_own_stays(name: str) -> None:
    before = graph(LEFT[name])
    result = equalize(before, [Batch(feeds())])
    assert not result.modified and not result.notes
    for key, tensor in before.tensors().items():
        if isinstance(tensor, gs.Constant):
            np.testing.assert_array_equal(result.graph.tensors()[key].values, tensor.values)


@pytest.mark.parametrize("name", ["relu", "residual", "nothing"])
def test_what_keeps_its_name_keeps_its_values(name: str) -> None:
    """In INT8, tensors that were scaled have other names, so nobody compares them with the float model's."""
    before, x = graph(EQUALIZED[name]), feeds()
    made = {
        even: quantize(before, [Batch(x)], target("onnxruntime"), recipe=Recipe(even)).graph for even in (True, False)
    }
    names = {even: {t.name for node in some.nodes for t in node.outputs} for even, some in made.items()}
    gone = names[False] - names[True]
    assert gone == equalize(before, [Batch(x)]).scaled and {f"{tensor}.equalized" for tensor in gone} <= names[True]
    shared = [t.name for node in before.nodes for t in node.outputs if t.name in names[True]]
    assert shared
    for tensor in shared:
        want, have = (run(exposing(some, tensor), x)[0] for some in (before, made[True]))
        assert np.linalg.norm(want - have) <= 0.1 * np.linalg.norm(want)


def exposing(some: gs.Graph, name: str) -> onnx.ModelProto:
    model = gs.export_onnx(some)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model
