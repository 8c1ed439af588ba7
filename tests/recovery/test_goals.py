"""Which outputs a student is trained towards, by the metric and by what outputs say."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.errors import GradientError
from hqp_onnx.evaluation.metrics.task import ANY, Task
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.recover import check_recoverable, recover
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.session import Session

X = np.random.default_rng(1).standard_normal((120, 3, 4, 4)).astype(np.float32)


def made(outputs: str, body: str, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,4,4] x) => ({outputs}) {{ {body} }}'
    )
    rng = np.random.default_rng(2)
    for name, shape in shapes.items():
        model.graph.initializer.append(
            numpy_helper.from_array((rng.standard_normal(shape) / 3).astype(np.float32), name)
        )
    return model


def two() -> onnx.ModelProto:
    """Classes, and an embedding in front of them."""
    body = "c = Conv(x, w) r = Relu(c) e = GlobalAveragePool(r) v = Flatten(e) z = MatMul(v, h) p = Softmax(z)"
    return made("float[n,5] p, float[n,8] v", body, {"w": (8, 3, 1, 1), "h": (8, 5)})


def one(end: str) -> onnx.ModelProto:
    return made("float[n,8] y", f"f = Flatten(x) y = {end}", {"w": (48, 8), "b": (8,)})


MASKS = made("float[n,5,4,4] y", "z = Conv(x, w) y = Softmax<axis=1>(z)", {"w": (5, 3, 1, 1)})
CASES = {
    "a classifier, nothing said": (one("Gemm(f, w, b)"), ANY, None, "y (kl)"),
    "values of a regression": (one("Gemm(f, w, b)"), Task("values"), None, "y (mse)"),
    "asked for mse": (one("Gemm(f, w, b)"), ANY, "mse", "y (mse)"),
    "tags": (one("Gemm(f, w, b)"), Task("decisions", "y"), None, "y (kl)"),
    "masks": (MASKS, Task("classes", "y", 1), None, "y (kl)"),
    "masks, nothing said": (MASKS, ANY, None, "y (mse)"),
    "two outputs, nothing said": (two(), ANY, None, "p, v (mse)"),
    "two outputs, the first asked to be kl": (two(), ANY, "kl", "p (kl), and as features v"),
    "two outputs, top1": (two(), Task("classes"), None, "p (kl), and as features v"),
    "two outputs, values of the second": (two(), Task("values", "v"), None, "v (mse), and as features p"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_towards(case):
    model, task, loss, words = CASES[case]
    opened = open_model(model)
    settings = Recovery(1, loss=loss, task=task)
    assert check_recoverable(opened.graph, open_data(opened, {"x": X}), settings) == f"trained towards {words}"


@pytest.mark.parametrize(("output", "other"), [("p", "v"), ("v", "p")])
def test_the_judged_output_comes_closest_and_no_other_is_lost(output, other):
    """A student that can serve one output or the other: its two heads share the weights that were spoilt."""
    opened = open_model(two())
    data, student = open_data(opened, {"x": X}), opened.graph.copy()
    weights = student.tensors()["w"]
    weights.values = weights.values * np.float32(0.3)
    fresh = np.random.default_rng(3).standard_normal((200, 3, 4, 4)).astype(np.float32)
    want = Session(to_proto(opened.graph)).run({"x": fresh})
    off = {}
    for beta in (0.0, 1.0):
        settings = Recovery(6, 0.1, batch=8, features=0, beta=beta, task=Task("any", output))
        found = Session(to_proto(recover(student, opened.graph, data, settings).graph)).run({"x": fresh})
        off[beta] = {name: float(np.square(found[name] - want[name]).mean() / want[name].var()) for name in want}
    before = Session(to_proto(student)).run({"x": fresh})
    spoilt = {name: float(np.square(before[name] - want[name]).mean() / want[name].var()) for name in want}
    assert off[0.0][output] < 0.5 * spoilt[output]
    assert off[1.0][other] < min(off[0.0][other], 0.6 * spoilt[other])


def test_decisions_come_closer():
    opened = open_model(one("Gemm(f, w, b)"))
    student = opened.graph.copy()
    weights = student.tensors()["w"]
    weights.values = weights.values * np.float32(0.4)
    found = recover(
        student, opened.graph, open_data(opened, {"x": X}), Recovery(8, 0.1, batch=8, task=Task("decisions", "y"))
    )
    assert min(found.losses) < 0.3 * found.losses[0]


def test_an_output_that_cannot_be_learned_is_refused():
    opened = open_model(two())
    with pytest.raises(GradientError, match="output 'x' holds no floats that depend on a weight; there are p, v"):
        check_recoverable(opened.graph, open_data(opened, {"x": X}), Recovery(1, task=Task("any", "x")))
