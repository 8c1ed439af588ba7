"""Our runner inside Polygraphy, against Polygraphy's own onnxruntime runner."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx.parser
import pytest
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator

from hqp_onnx.arrays import Array
from hqp_onnx.comparison.runner import Collector, SessionRunner, run_batches
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.session import Session

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[{n},7] x) => (float[{n},7] y) {{ y = {op}(x) }}'
X = np.random.default_rng(0).standard_normal((10, 7)).astype(np.float32)


def model(op: str, n: str = "n") -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT.format(op=op, n=n))


def data() -> Dataset:
    return Dataset(ArraySource("test", {"x": X}), Session(model("Relu")).inputs, batch_size=4)


def test_comparator_runs_it_beside_polygraphys_own_runner() -> None:
    serialized = model("Sigmoid").SerializeToString()
    runners = [SessionRunner(Session(serialized), "ours"), OnnxrtRunner(SessionFromOnnx(serialized), "theirs")]
    results = Comparator.run(runners, data_loader=[{"x": X}])
    assert bool(Comparator.compare_accuracy(results))
    np.testing.assert_array_equal(results["ours"][0]["y"], results["theirs"][0]["y"])
    np.testing.assert_allclose(results["ours"][0]["y"], 1 / (1 + np.exp(-X)), rtol=1e-6)
    assert results["ours"][0].runtime > 0


def test_collector_sums_over_batches_and_counts_equal_answers() -> None:
    collector = Collector()
    runners = [SessionRunner(Session(model(op)), op) for op in ("Identity", "Neg", "Relu")]
    seen = [len(batch) for batch, _ in run_batches(runners, data(), collector)]
    assert seen == [4, 4, 2]
    assert collector.deviations["Neg"]["y"].relative == pytest.approx(2, rel=1e-6)
    relu = np.maximum(X, 0)
    assert collector.deviations["Relu"]["y"].mean_abs == pytest.approx(np.abs(relu - X).mean(), rel=1e-6)
    assert collector.agreement["Relu"]["y"].share == np.mean(relu.argmax(1) == X.argmax(1)) == 1
    assert collector.agreement["Neg"]["y"].share == 0


def test_fixed_batches_are_padded() -> None:
    collector = Collector()
    runners = [SessionRunner(Session(model("Relu", n)), n) for n in ("n", "4")]
    outputs = [values["4"]["y"] for _, values in run_batches(runners, data(), collector)]
    np.testing.assert_array_equal(np.concatenate(outputs), np.maximum(X, 0))
    assert collector.deviations["4"]["y"].max_abs == 0


class Wide:
    """A session whose output has one column more."""

    def __init__(self) -> None:
        self._inner = Session(model("Relu"))
        self.inputs, self.outputs, self.batch = self._inner.inputs, self._inner.outputs, None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": np.pad(self._inner.run(feeds)["y"], ((0, 0), (0, 1)))}


def test_outputs_of_other_shapes_are_one_line() -> None:
    runners = [SessionRunner(Session(model("Relu")), "a"), SessionRunner(Wide(), "b")]
    with pytest.raises(ModelError, match=r"b: output 'y' has shape \[4, 8\], expected \[4, 7\] as a gives"):
        list(run_batches(runners, data(), Collector()))
