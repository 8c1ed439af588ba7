"""Open sizes that weights fix, held against what onnxruntime takes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from oracle import run

import hqp_onnx
from hqp_onnx.errors import DataError
from hqp_onnx.graphs.symbolic.demands import demands
from hqp_onnx.model import open_model
from hqp_onnx.steps.inspect import inspect_model

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
CASES = {
    "matmul": ("(float[n,d] x)", {"w": (26, 7)}, "y = MatMul(x, w)", {"'d'": 26}, {}),
    "gemm": ("(float[n,d] x)", {"w": (7, 26)}, "y = Gemm<transB=1>(x, w)", {"'d'": 26}, {}),
    "left": ("(float[d,n] x)", {"w": (7, 26)}, "y = MatMul(w, x)", {"'d'": 26}, {}),
    "conv": ("(float[n,c,10] x)", {"w": (6, 2, 3)}, "y = Conv<group=3>(x, w)", {"'c'": 6}, {}),
    "state": (
        "(float[t,n,d] x)",
        {"w": (1, 20, 9), "r": (1, 20, 5)},
        "y = LSTM<hidden_size=5>(x, w, r)",
        {"'d'": 9},
        {},
    ),
    "doubled": ("(float[n,d] x)", {"w": (26, 7)}, "a = Concat<axis=1>(x, x) y = MatMul(a, w)", {"'d'": 13}, {}),
    "chained": (
        "(float[n,d] x, float[n,e] z)",
        {"w": (26, 7), "v": (40, 3)},
        "a = MatMul(x, w) b = Concat<axis=1>(x, z) c = MatMul(b, v) y = Concat<axis=1>(a, c)",
        {"'d'": 26, "'e'": 14},
        {},
    ),
    "added": ("(float[n,d] x)", {"w": (26,)}, "y = Add(x, w)", {}, {"'d'": 26}),
    "pooled": (
        "(float[n,1,d] x)",
        {"w": (12, 5)},
        "a = MaxPool<kernel_shape=[2], strides=[2]>(x) y = MatMul(a, w)",
        {},
        {"'d'": 24},
    ),
    "square": ("(float[n,2,h,w] x)", {"k": (98, 5)}, "a = Flatten(x) y = MatMul(a, k)", {}, {"'h'": 7, "'w'": 7}),
    "open": ("(float[n,d] x)", {"w": (1,)}, "y = Mul(x, w)", {}, {}),
}


def made(inputs: str, weights: dict[str, tuple[int, ...]], body: str, rank: int = 2) -> onnx.ModelProto:
    shape = ",".join("opqr"[:rank])
    model = onnx.parser.parse_model(f"{HEAD} g {inputs} => (float[{shape}] y) {{ {body} }}")
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def dims_of(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


@pytest.mark.parametrize("case", CASES)
def test_sizes_are_those_that_onnxruntime_takes(case: str) -> None:
    """The sizes run; of those that are proven, the next ones do not."""
    inputs, weights, body, proven, tried = CASES[case]
    model = made(inputs, weights, body, {"conv": 3, "pooled": 3, "state": 4}.get(case, 2))
    found = demands(model, 2)
    assert (dict(found.proven), dict(found.tried)) == (proven, tried)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def runs(sizes: dict[str, int]) -> bool:
        feeds = {
            value.name: np.ones([d.dim_value or sizes.get(repr(d.dim_param), 2) for d in dims_of(value)], np.float32)
            for value in model.graph.input
        }
        try:
            session.run(None, feeds)
        except (Fail, InvalidArgument, RuntimeException):
            return False
        return True

    assert runs(found.all)
    assert not any(runs({**found.all, name: size + 1}) for name, size in proven.items())


def test_a_model_whose_sizes_are_all_open_is_analysed() -> None:
    """As madmom's: every dimension has a name, and the weights alone say how many features there are."""
    body = "a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)"
    model = made("(float[n,d] x)", {"w": (266, 8), "v": (8, 3)}, body)
    found = inspect_model(model)
    assert (found.units, found.prunable, found.macs) == (11, 8, 266 * 8 + 8 * 3)
    shapes = open_model(model).shapes
    assert shapes.sizes["x"] == (2, 266) and shapes.varying("x") == (True, False)


def test_time_may_come_first() -> None:
    """A window over the first dimension needs more than two steps."""
    body = "a = Unsqueeze(x, zero) b = Transpose<perm=[0,2,1]>(a) c = Conv(b, w) y = Relu(c)"
    model = made("(float[t,3] x)", {"w": (4, 3, 5)}, body, 3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    assert inspect_model(model).macs > 0
    assert run(model, {"x": np.ones((9, 3), np.float32)})[0].shape == (1, 4, 5)


def test_rows_that_are_steps_are_refused_in_words() -> None:
    body = "a = Unsqueeze(x, zero) b = Transpose<perm=[0,2,1]>(a) c = Conv(b, w) y = Relu(c)"
    model = made("(float[t,3] x)", {"w": (4, 3, 5)}, body, 3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    with pytest.raises(DataError, match=r"runs on 20 rows of .*, but not on one: its first axis is no batch"):
        hqp_onnx.quantize(model, {"x": np.ones((20, 3), np.float32)})
