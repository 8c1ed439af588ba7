"""A model that takes one sample at a time, whatever its file says of the number."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import hqp_onnx
from hqp_onnx.graphs.measured_run import Measured
from hqp_onnx.model import open_model
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4)).astype(np.float32)
LABELS = np.arange(40) % 5
WEIGHTS = {"v": RNG.standard_normal((4, 64)), "u": RNG.standard_normal((64, 5))}


def build(first: str = "batch", rows: int = 1) -> onnx.ModelProto:
    """x v -> Reshape to [rows, 2, 32] and back -> u."""
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[{first},4] x) => (float[{first},5] z) <int64[3] s = {{{rows}, 2, 32}}, int64[2] q = {{{rows}, 64}}> {{
            h = MatMul (x, v) a = Relu (h) r = Reshape (a, s) b = Tanh (r) c = Reshape (b, q) z = MatMul (c, u) }}""")
    model.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), name) for name, w in WEIGHTS.items())
    return model


def test_it_is_read_as_a_batch_of_one() -> None:
    model = open_model(build())
    assert model.single and model.session.batch == 1 and "one sample at a time" in model.notes[0]
    assert model.graph.inputs[0].shape[0] == model.graph.outputs[0].shape[0] == 1


def test_one_that_takes_several_is_not() -> None:
    for model in (build(rows=-1), build(rows=0), build(first="1")):
        assert not open_model(model).single


def test_commands_work_as_with_the_fixed_size() -> None:
    """Those of the same file that states 1."""
    data = {"x": X, "labels": LABELS}
    opened, stated = build(), build(first="1")
    for weight, scores in hqp_onnx.score(stated, data).filters.items():
        np.testing.assert_allclose(hqp_onnx.score(opened, data).filters[weight], scores)
    for made in (lambda m: hqp_onnx.prune(m, 0.3, data=data), lambda m: hqp_onnx.quantize(m, {"x": X})):
        have, want = (Session(made(model)).run({"x": X[:1]})["z"] for model in (opened, stated))
        np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-6)


def test_a_run_that_measures_sizes_runs_everything() -> None:
    """Sizes that a file states are no reason to leave out the nodes that would fail."""
    model = build(rows=1)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    measured = Measured.of(model, [])
    assert measured is not None
    assert not measured.run({"x": X[:2]}).sizes
    assert measured.run({"x": X[:1]}).sizes["z"] == (1, 5)


def test_a_state_of_one_sample_that_is_fed() -> None:
    """Its first axis is no batch; the open one of the data then is 1."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[batch,3,4] x, float[2,1,8] h0) => (float[batch,5] z) {
            t = Transpose <perm = [1, 0, 2]> (x)
            s, h = GRU <direction = "bidirectional", hidden_size = 8> (t, w, r, , , h0)
            q = ReduceMean <axes = [0, 1], keepdims = 0> (s) z = MatMul (q, u) }""")
    shapes = {"w": (2, 24, 4), "r": (2, 24, 8), "u": (8, 5)}
    arrays = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    opened = open_model(model)
    assert opened.single and opened.session.batch == 1
    data = hqp_onnx.Reading({"x": X.reshape(10, 4, 4)[:, :3]}, constants={"h0": np.zeros((2, 1, 8), np.float32)})
    assert set(hqp_onnx.score(model, data, loss="gauss-newton").filters) == {"w", "r", "u"}
    hqp_onnx.quantize(model, data)
