"""Outputs with steps first are judged as those with samples first, whatever the sizes are."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.evaluation.metrics.choice import choose
from hqp_onnx.evaluation.metrics.references import References
from hqp_onnx.evaluation.metrics.running import evaluate
from hqp_onnx.evaluation.metrics.sample_axis import BySample
from hqp_onnx.runtimes.session import Session

SAMPLES, CLASSES = 10, 4
WEIGHT = np.random.default_rng(1).standard_normal((3, CLASSES)).astype(np.float32)


def network(steps: int, batch: str, stated: str, first: bool) -> onnx.ModelProto:
    """A map of each step: [batch, steps, 3] -> [steps, batch, 4] (``first``), or [batch, steps, 4]."""
    move = "y = Transpose<perm = [1, 0, 2]>(z)" if first else "y = Identity(z)"
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},{steps},3] x) => (float[{stated}] y) {{
      z = MatMul(x, w)
      {move} }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "w"))
    return model


def data(session: Session, steps: int, batch: int) -> Dataset:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((SAMPLES, steps, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (SAMPLES, steps))
    return Dataset(ArraySource("d", {"x": x}, {"labels": labels}), session.inputs, batch)


@pytest.mark.parametrize("steps", [3, 4, 5, 10, 1])
@pytest.mark.parametrize(("batch", "stated"), [("n", "t,n,4"), ("n", "s,m,4"), ("n", "STEPS,n,4"), ("5", "STEPS,5,4")])
@pytest.mark.parametrize("name", ["token-accuracy", "exact-match", "cer", "fidelity"])
def test_metrics_agree(steps: int, batch: str, stated: str, name: str) -> None:
    stated = stated.replace("STEPS", str(steps))
    if batch == "5" and steps == 5:
        pytest.skip("sizes tell nothing where both are the same and fixed")
    found = []
    for first in (True, False):
        session = Session(network(steps, batch, stated if first else f"{batch},{steps},4", first))
        rows = data(session, steps, 5 if batch == "5" else 4)
        choice = choose(name, session, rows)
        references = References(session, rows.source.name) if choice.metric.labels == "outputs" else None
        found.append(evaluate(session, rows, choice.metric, references=references).metric)
        assert choice.task.kind == ("classes" if name in ("token-accuracy", "exact-match") else "any")
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_only_steps_are_moved() -> None:
    """An output that has samples first, or none at all, stays as it is."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n,2,2] x) => (float[n,2,2] y, float[2,2,2] s, float[m] t) {
      y = Relu(x)
      s = Expand(one, shape)
      t = ReduceSum<keepdims = 0>(x, axes)
    }"""
    model = onnx.parser.parse_model(text)
    values = {"one": np.ones((), np.float32), "shape": np.array([2, 2, 2]), "axes": np.array([1, 2])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    session = Session(model)
    for count in (1, 2, 3):
        feeds = {"x": np.random.default_rng(0).standard_normal((count, 2, 2)).astype(np.float32)}
        plain, moved = session.run(feeds), BySample(session).run(feeds)
        for name, values in plain.items():
            np.testing.assert_array_equal(moved[name], values)
