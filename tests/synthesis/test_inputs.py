"""Inputs give a model's BatchNormalization the statistics that it holds, which here are those of known data."""

from functools import partial

import numpy as np
import onnx
import onnx.parser
import pytest
from small_model import small_model

from hqp_onnx.errors import DataError
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


def made_for(text: str, **values: object):
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g ' + text)
    stored = ((name, np.asarray(value, np.float32)) for name, value in values.items())
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in stored)
    opened = open_model(model)
    return made_inputs(opened.graph, opened.session)


def test_bytes_are_known_to_be_pixels() -> None:
    body = "(uint8[n,3,8,8] x) => (float[n,2,8,8] y) { c = Cast<to=1>(x) y = Conv(c, w) }"
    made = made_for(body, w=np.ones((2, 3, 1, 1)))
    x = made.data.rows(0, 64).feeds["x"]
    assert x.dtype == np.uint8 and abs(x.mean() - 127.5) < 10 and "types say" in made.warnings[0]


def test_what_a_type_cannot_hold_is_not_made_up() -> None:
    scaled = "=> (float[n,4,8,8] y) { c = Cast<to=1>(x) d = Sub(c, k) y = Div(d, k) }"
    x = made_for(f"(uint8[n,4,8,8] x) {scaled}", k=100).data.rows(0, 64).feeds["x"]
    tails = [(x < 20).mean(), (x > 180).mean()]  # of a normal distribution of mean and deviation 100, cut at 0 and 255
    assert tails == pytest.approx([0.212, 0.212], abs=0.05)
    x = made_for("(float16[n,8] x) => (float[n,8] y) { c = Cast<to=1>(x) y = Mul(c, k) }", k=1 / 65535)
    assert np.isfinite(x.data.rows(0, 64).feeds["x"]).all()


LAYERS = "c = Conv(u, w) y = BatchNormalization(c, g, b, b, g) }"
STORED = {"w": np.ones((2, 1, 1, 1)), "g": [1, 2], "b": [0, 1], "e": 1e-3}


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ("u = Sqrt(x)", True),
        ("s = Add(x, e) u = Log(s)", True),
        ("a = Abs(x) s = Sub(a, x) u = Log(s)", False),
    ],
)
def test_functions_that_are_not_defined_everywhere_get_inputs_where_they_are(body: str, fits: bool) -> None:
    made = made_for(f"(float[n,1,8,8] x) => (float[n,2,8,8] y) {{ {body} {LAYERS}", **STORED)
    x = made.data.rows(0, 64).feeds["x"]
    assert np.isfinite(x).all() and (x.min() >= 0) == fits
    assert ("meet the statistics" in made.warnings[0]) == fits
    assert fits or "NaN or infinite" in made.notes[0]


@pytest.mark.parametrize("inputs", ["uint8[n,1,8,8] x", "float16[n,1,8,8] x, float s"])
def test_layers_that_are_not_matched_are_not_denied(inputs: str) -> None:
    body = "h = Cast<to=1>(x) u = Div(h, k)" + (" t = Mul(s, k)" if "s" in inputs.split() else "")
    made = made_for(f"({inputs}) => (float[n,2,8,8] y) {{ {body} {LAYERS}", k=255, **STORED)
    assert "of no help" in made.notes[0] and "Nothing says what lies" in made.warnings[0]


@pytest.mark.parametrize(("inputs", "words"), [("float x", "give calibration data"), ("string[n,8] x", "'x' is text")])
def test_inputs_that_cannot_be_made_up(inputs: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        made_for(f"({inputs}) => ({inputs.replace('x', 'y')}) {{ y = Identity(x) }}")
