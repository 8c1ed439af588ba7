"""Inputs give a model's BatchNormalization the statistics that it holds, which here are those of known data."""

from functools import partial

import numpy as np
import onnx
import onnx.parser
import pytest
from small_model import small_model

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.runtimes.session import Session
from hqp_onnx.synthesis.inputs import made_inputs
from hqp_onnx.synthesis.matching import Matching, layers_of


def values_of(model: onnx.ModelProto, name: str, x: np.ndarray) -> np.ndarray:
    return Session(model, outputs=[name]).run({"input": x})[name]


def trained(x: np.ndarray) -> onnx.ModelProto:
    """The small model with the statistics that ``x`` has in it."""
    model = small_model()
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for number in "12":
        inner = values_of(model, f"c{number}", x)
        for kind, value in (("m", inner.mean((0, 2, 3))), ("v", inner.var((0, 2, 3)))):
            stored[f"{kind}{number}"].CopyFrom(onnx.numpy_helper.from_array(value, f"{kind}{number}"))
    return model


def pixels(count: int = 256) -> np.ndarray:
    """Smooth ones of 0 to 255, brighter in the middle."""
    rng = np.random.default_rng(3)
    rough = rng.standard_normal((count, 1, 4, 4)).repeat(2, 2).repeat(2, 3) * 50 + 90
    return np.clip(rough + 60 * np.hanning(8)[:, None] * np.hanning(8), 0, 255).astype(np.float32)


def test_ranges_are_those_of_the_data_whose_statistics_are_held() -> None:
    real = pixels()
    model = open_model(trained(real))
    made = made_inputs(model.graph, model.session)
    again = made_inputs(model.graph, model.session)
    x = made.data.rows(0, len(made.data)).feeds["input"]
    np.testing.assert_array_equal(x, again.data.rows(0, len(x)).feeds["input"])
    assert not made.warnings and "2 BatchNormalization layers" in made.notes[0]
    assert x.min() >= 0 and x.max() <= 255  # found by the layers alone: the model does not say so
    for name in ("r1", "r2", "sum"):
        mine, theirs = (np.quantile(np.abs(values_of(trained(real), name, some)), 0.999) for some in (x, real))
        assert mine == pytest.approx(theirs, rel=0.3), name


def graph_of(batch: int | None):
    model = trained(pixels(16))
    if batch:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    return canonicalize(to_graph(model)).graph


def loss(model: onnx.ModelProto, x: np.ndarray) -> float:
    """By the definition, in float64 from the values of the layers."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    total = 0.0
    for number in "12":
        y = values_of(model, f"n{number}", x).astype(np.float64)
        gamma, beta = stored[f"g{number}"], stored[f"b{number}"]
        total += np.mean(((y.mean((0, 2, 3)) - beta) / gamma) ** 2 + ((y.std((0, 2, 3)) - gamma) / gamma) ** 2)
    return total


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_gradients_are_those_of_finite_differences(batch: int | None) -> None:
    graph, rng = graph_of(batch), np.random.default_rng(0)
    x = rng.uniform(0, 255, (6, 1, 8, 8)).astype(np.float32)
    matching = Matching(graph, layers_of(graph), {"input": x}, ["input"])
    gradient = matching.gradients({"input": x})["input"]
    reference = partial(loss, to_proto(graph_of(None)))
    assert matching.error({"input": x}) == pytest.approx(np.sqrt(reference(x) / 4), rel=1e-4)
    for _ in range(3):
        way = np.sign(gradient) * rng.uniform(0, 1, x.shape).astype(np.float32)  # so float32 runs tell the steps apart
        slope = (reference(x + way) - reference(x - way)) / 2
        assert float(np.vdot(gradient, way)) == pytest.approx(slope, rel=1e-3)  # steps of a pixel value


def test_a_model_that_says_nothing_is_warned_of() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]> g (float[n,6] x) => (float[n,4] y) { y = MatMul(x, w) }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 4), np.float32), "w"))
    opened = open_model(model)
    made = made_inputs(opened.graph, opened.session)
    (warning,) = made.warnings
    assert "nothing in the model says what 'x' holds" in warning and "100 real samples" in warning


def test_ids_stay_in_their_table_and_what_is_unknown_is_named() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]> g (int64[n,5] ids, int64[n,5] mask) => (float[n,5,2] y) {
      rows = Gather(table, ids)
      wide = Unsqueeze(mask, last)
      float = Cast<to=1>(wide)
      kept = Mul(rows, float)
      y = MatMul(kept, w)
    }
    """)
    values = {"table": np.ones((9, 3), np.float32), "w": np.ones((3, 2), np.float32), "last": np.array([2])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in values.items())
    opened = open_model(model)
    made = made_inputs(opened.graph, opened.session)
    feeds = made.data.rows(0, len(made.data)).feeds
    assert set(feeds["ids"].ravel()) == set(range(9)) and (feeds["mask"] == 1).all()
    assert "'mask' was taken to be 1" in made.warnings[0]


@pytest.mark.parametrize(
    ("body", "gamma", "words"),
    [
        ("r = Round(x) c = Conv(r, w)", 1.0, "has a gradient by the inputs"),
        ("c = Conv(x, w)", np.nan, ""),
    ],
)
def test_layers_that_are_of_no_help_leave_noise_and_a_warning(body: str, gamma: float, words: str) -> None:
    model = onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : 17]> g (float[n,3,8,8] x) => (float[n,2,8,8] y) {{
      {body} y = BatchNormalization(c, g, b, b, g)
    }}
    """)
    values = {"w": np.ones((2, 3, 1, 1)), "g": np.array([gamma, 1.0]), "b": np.zeros(2)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(x.astype(np.float32), k) for k, x in values.items())
    opened = open_model(model)
    made = made_inputs(opened.graph, opened.session)
    assert "nothing in the model says what 'x' holds" in made.warnings[0]
    assert words in "".join(made.notes) and np.isfinite(made.data.rows(0, 64).feeds["x"]).all()


def test_bytes_are_known_to_be_pixels() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]> g (uint8[n,3,8,8] x) => (float[n,2,8,8] y) {
      c = Cast<to=1>(x) y = Conv(c, w)
    }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w"))
    opened = open_model(model)
    made = made_inputs(opened.graph, opened.session)
    x = made.data.rows(0, 64).feeds["x"]
    assert x.dtype == np.uint8 and abs(x.mean() - 127.5) < 10 and "types say" in made.warnings[0]
