"""Engines through Polygraphy's runner, with a stand-in for TensorRT that computes by onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from polygraphy.common import TensorMetadata
from polygraphy.datatype import DataType
from polygraphy.exception import PolygraphyException

from hqp_onnx.comparison import EngineSession
from hqp_onnx.comparison.contenders import open_contenders
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.engine.library import TENSORRT, Library
from hqp_onnx.errors import MissingRuntimeError, ModelError, UsageError
from hqp_onnx.evaluation.metrics import evaluate, load_metric
from hqp_onnx.runtimes.session import Session

MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[n,5] x) => (float[n,5] y) { y = Softmax(x) }'
)
X = np.random.default_rng(0).standard_normal((11, 5)).astype(np.float32)


class FakeEngine:
    """The part of ICudaEngine that is asked: names, types, shapes, the profile."""

    num_io_tensors = 2

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType.FLOAT32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.least if self.least == self.most else -1, 5)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("x", 0)
        return [(self.least, 5), (self.most, 5), (self.most, 5)]


class FakeRunner:
    """TrtRunner: refuses batches outside the profile, and reuses its output memory."""

    engine = FakeEngine(2, 4)
    active = 0

    def __init__(self, engine: Any) -> None:
        self._session, self._memory = Session(MODEL), np.empty((4, 5), np.float32)

    def activate(self) -> None:
        type(self).active += 1

    def deactivate(self) -> None:
        type(self).active -= 1

    def get_input_metadata(self, use_numpy_dtypes: bool) -> Any:
        return TensorMetadata().add("x", np.float32, (-1, 5))

    def infer(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(feeds["x"])
        if not self.engine.least <= count <= self.engine.most:
            raise PolygraphyException(f"batch {count} is outside the profile")
        self._memory[:count] = self._session.run(feeds)["y"]
        return {"y": self._memory[:count]}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("polygraphy.backend.trt.TrtRunner", FakeRunner)
    monkeypatch.setattr(Library, "load", lambda library: None)
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    return path


@pytest.mark.parametrize("count", [1, 2, 4, 5, 11])
def test_any_batch_is_split_or_padded_to_the_profile(engine: Path, count: int) -> None:
    session = EngineSession(engine)
    outputs = session.run({"x": X[:count]})["y"]
    np.testing.assert_array_equal(outputs, Session(MODEL).run({"x": X[:count]})["y"])
    assert session.batch is None
    assert str(session.inputs[0]) == str(session.outputs[0]) == "float32[?, 5]"


def test_fixed_batch_and_release(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRunner, "engine", FakeEngine(3, 3))
    before = FakeRunner.active
    session = EngineSession(engine)
    assert session.batch == 3
    assert session.run({"x": X})["y"].shape == (11, 5)
    assert FakeRunner.active == before + 1
    del session
    assert FakeRunner.active == before


def test_scores_are_those_of_the_same_model(engine: Path) -> None:
    labels = np.arange(11) % 5
    session, metric = EngineSession(engine), load_metric("top1")
    data = Dataset(ArraySource("test", {"x": X}, labels), session.inputs, batch_size=7)
    found = evaluate(session, data, metric)
    np.testing.assert_array_equal(found.values, (X.argmax(1) == labels).astype(float))
    assert found.metric == evaluate(Session(MODEL), data, metric).metric


def test_an_engine_takes_part_by_its_outputs(engine: Path) -> None:
    onnx.save(MODEL, engine.parent / "m.onnx")
    contender = open_contenders([str(engine.parent / "m.onnx"), str(engine)])[1]
    assert (contender.runtime, contender.tensors) == ("TensorRT", ["y"])
    with pytest.raises(UsageError, match="an engine runs on TensorRT only"):
        open_contenders([str(engine), f"{engine}@openvino"])


def test_a_failing_engine_is_one_line(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = EngineSession(engine)
    monkeypatch.setattr(FakeRunner, "engine", FakeEngine(5, 5))
    with pytest.raises(ModelError, match=r"model\.engine: TensorRT cannot run the engine: batch 4 is outside"):
        session.run({"x": X[:4]})


def test_without_tensorrt_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, TENSORRT.module, None)
    (tmp_path / "model.engine").write_bytes(b"engine")
    with pytest.raises(MissingRuntimeError, match=r"pip install 'hqp-onnx\[tensorrt\]'"):
        EngineSession(tmp_path / "model.engine")
