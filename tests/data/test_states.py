"""States that flow from output to input, against a loop in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx import Options, Reading, evaluate, optimize
from hqp_onnx.data import states
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.data.states import Carried
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(0)
STEPS, SEQUENCE = 9, np.array([4, 4, 4, 4, 7, 7, 8, 8, 8])
X = RNG.standard_normal((STEPS, 3)).astype(np.float32)
W = {"a": RNG.standard_normal((3, 5)).astype(np.float32), "b": (RNG.standard_normal((5, 5)) / 3).astype(np.float32)}
W["c"] = RNG.standard_normal((5, 2)).astype(np.float32)
FRONT = """
<ir_version: 8, opset_import: ["" : 17]> front (float[n,3] x, float[n,5] h) => (float[n,2] y, float[n,5] h2) {
  fed = MatMul(x, a)
  kept = MatMul(h, b)
  sum = Add(fed, kept)
  h2 = Tanh(sum)
  y = MatMul(h2, c)
}
"""
FIXED = FRONT.replace("float[n,5]", "float[1,5]")  # any number of steps, but one state
APART = """
<ir_version: 8, opset_import: ["" : 17]> apart (float[1,3] x, float[5,1] h) => (float[1,2] y, float[5,1] h2) {
  fed = MatMul(x, a)
  turned = Transpose<perm=[1,0]>(h)
  kept = MatMul(turned, b)
  sum = Add(fed, kept)
  next = Tanh(sum)
  h2 = Transpose<perm=[1,0]>(next)
  y = MatMul(next, c)
}
"""


def model(text, path):
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in W.items())
    onnx.save(proto, path)
    return path


def expected():
    """States before each step, and outputs."""
    before, outputs, now = [], [], np.zeros(5, np.float32)
    for step in range(STEPS):
        now = np.zeros(5, np.float32) if step and SEQUENCE[step] != SEQUENCE[step - 1] else now
        before.append(now)
        now = np.tanh(X[step] @ W["a"] + now @ W["b"])
        outputs.append(now @ W["c"])
    return np.stack(before), np.stack(outputs)


DATA = Reading({"x": X, "sequence": SEQUENCE}, states={"h": "h2"})


@pytest.mark.parametrize("small", [states.SMALL, 0])
@pytest.mark.parametrize("text", [FRONT, APART, FIXED])
def test_each_step_has_the_state_that_the_original_had(tmp_path, monkeypatch, text, small):
    monkeypatch.setattr(states, "SMALL", small)
    session = Session(model(text, tmp_path / "m.onnx"))
    data = open_dataset(DATA, session.inputs, batch_size=4, original=session)
    before, outputs = expected()
    found = [(batch.feeds["h"], session.run(batch.feeds)["y"], len(batch)) for batch in data]
    assert [count for *_, count in found] == ([4, 4, 1] if text is FRONT else [1] * STEPS)
    np.testing.assert_allclose(np.concatenate([h.reshape(-1, 5) for h, *_ in found]), before, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([y for _, y, _ in found]), outputs, atol=1e-5)


@pytest.mark.parametrize("text", [FRONT, APART])
def test_a_candidate_runs_on_its_own_state(tmp_path, text):
    session = Session(model(text, tmp_path / "m.onnx"))
    data = open_dataset(DATA, session.inputs, batch_size=4, original=session)
    before = dict(W)
    W["b"] = W["b"] * np.float32(0.5)
    try:
        changed = Carried(Session(model(text, tmp_path / "c.onnx")), data.states)
        _, outputs = expected()
    finally:
        W.update(before)
    found = np.concatenate([changed.run(batch.feeds)["y"] for batch in data])
    np.testing.assert_allclose(found, outputs, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([changed.run(batch.feeds)["y"] for batch in data]), outputs, atol=1e-5)


def test_states_that_do_not_fit_are_one_line(tmp_path):
    session = Session(model(FRONT, tmp_path / "m.onnx"))
    for chosen, message, error in (
        ({"h": "z"}, "expected an input of the model and the output that it takes", UsageError),
        ({"h": "y"}, r"output 'y' is \[1, 2\], and the state 'h' that takes it \[1, 5\]", DataError),
    ):
        with pytest.raises(error, match=message):
            open_dataset(Reading({"x": X}, states=chosen), session.inputs, original=session)
    with pytest.raises(UsageError, match="state is for commands that run the model"):
        open_dataset(DATA, session.inputs)


def test_evaluate_and_optimize(tmp_path):
    path = model(FRONT, tmp_path / "m.onnx")
    _, outputs = expected()
    many = Reading(
        {"x": np.tile(X, (20, 1)), "sequence": np.tile(SEQUENCE, 20), "labels": np.tile(outputs.argmax(1), 20)},
        states={"h": "h2"},
    )
    assert evaluate(path, many, metric="top1").metric == 1
    report = optimize(
        Options(path, many, many, tmp_path / "out", metric="top1", max_drop=0.5, objective="macs", precision="int8")
    )
    assert report.baseline.metric == 1 and report.samples == 180
