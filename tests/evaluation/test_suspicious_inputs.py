"""What is said of inputs without labels: a network whose BatchNormalization knows the data that it was trained on."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.evaluation.suspicious_inputs import spread, suspicious_inputs
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(2)
COARSE = RNG.uniform(0, 255, (320, 3, 4, 4)).repeat(3, 2).repeat(3, 3)
PIXELS = np.clip(COARSE + 10 * RNG.standard_normal(COARSE.shape), 0, 255).astype(np.float32)
MEAN, STD = ([[[c]] for c in values] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
GOOD = ((PIXELS / 255 - MEAN) / STD).astype(np.float32)


def network(trained_on: np.ndarray = GOOD, bias: float = 0.0, folded: bool = False) -> onnx.ModelProto:
    norm = "b = Identity (c)" if folded else "b = BatchNormalization (c, g, o, mean, var)"
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[n,3,12,12] x) => (float[n,5] y) { c = Conv (x, w) '
        f"{norm} r = Relu (b) p = GlobalAveragePool (r) f = Flatten (p) z = MatMul (f, v) y = Add (z, k) }}"
    )
    values = {"w": RNG.standard_normal((8, 3, 3, 3)) / 5, "v": RNG.standard_normal((8, 5)), "k": np.full(5, bias)}
    values |= {"g": np.ones(8), "o": np.zeros(8), "mean": np.zeros(8), "var": np.ones(8)}
    for name, x in values.items():
        model.graph.initializer.append(numpy_helper.from_array(x.astype(np.float32), name))
    c = Session(model, ["c"]).run({"x": trained_on})["c"]
    for name, x in {"mean": c.mean((0, 2, 3)), "var": c.var((0, 2, 3))}.items():
        next(t for t in model.graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(x, name))
    return model


def found(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[str]:
    session = Session(model)
    feeds = {name: np.ascontiguousarray(x, np.float32) for name, x in feeds.items()}
    return list(suspicious_inputs(model, session, Dataset(ArraySource("data", feeds, {}), session.inputs, 32)))


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert found(network(), {"x": GOOD}) == []
    assert found(network(), {"x": 1.5 * GOOD[:100] + 0.3}) == []  # other images
    assert found(network(PIXELS), {"x": PIXELS}) == []  # a model that takes pixels
    assert found(network(folded=True), {"x": PIXELS}) == []  # nothing to compare with


@pytest.mark.parametrize(
    ("trained", "given", "words"),
    [
        (GOOD, PIXELS, "With ImageNet's mean and deviation"),
        (GOOD, PIXELS / 255, "With ImageNet's mean and deviation"),
        (PIXELS / 255, PIXELS, "Divided by 255"),
        (PIXELS, PIXELS / 255, "Times 255"),
    ],
)
def test_inputs_that_are_not_as_in_training(trained: np.ndarray, given: np.ndarray, words: str) -> None:
    (line,) = found(network(np.asarray(trained, np.float32)), {"x": given})
    assert f"{words}, they would be as in training" in line and "deviations off" in line


def test_outputs_that_hardly_depend_on_the_samples() -> None:
    (line,) = found(network(folded=True, bias=100.0), {"x": GOOD / 255})
    assert "hardly depend on the samples of data: they change by 0.0" in line


def test_an_input_of_one_number() -> None:
    (line,) = found(network(), {"x": np.zeros_like(GOOD)})
    assert "input 'x' is 0 everywhere in 128 samples" in line


def test_few_of_large_samples() -> None:
    session = Session(network())
    data = Dataset(ArraySource("data", {"x": GOOD}, {}), session.inputs, 32)
    assert sum(map(len, spread(data))) == 128
    wide = Session(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,400,400] x) => (float[n,?,?,?] y) { y = Relu (x) }'
        )
    )
    large = Dataset(ArraySource("data", {"x": np.zeros((64, 3, 400, 400), np.float32)}, {}), wide.inputs, 8)
    assert sum(map(len, spread(large))) == 32
