"""The loaders compose with Polygraphy's, lazily."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import masked, run
from polygraphy.backend.base import BaseLoader
from polygraphy.backend.onnx import BytesFromOnnx, OnnxFromPath
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.backend.trt import CreateConfig, EngineFromNetwork, NetworkFromOnnxBytes
from polygraphy.comparator import Comparator
from polygraphy.exception import PolygraphyException
from small_model import small_data, small_model

from hqp_onnx.plugins.polygraphy_loaders import PruneOnnx, QuantizeOnnx
from hqp_onnx.steps.prune import Pruning, prune_file

IMAGES = small_data()["input"]


def load_data() -> Iterator[dict[str, np.ndarray]]:
    yield {"input": IMAGES}


def test_a_pruned_model_runs_as_the_ledger_says(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "m.onnx")
    prune_file(tmp_path / "m.onnx", tmp_path / "p.onnx", Pruning(0.3), ledger=tmp_path / "ledger.json")
    removed = json.loads((tmp_path / "ledger.json").read_text())["removed"]
    loader = PruneOnnx(OnnxFromPath(str(tmp_path / "m.onnx")), sparsity=0.3)
    assert isinstance(loader, BaseLoader)
    runner = OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(loader)), name="pruned")
    results = Comparator.run([runner], data_loader=[{"input": IMAGES}])
    want = run(masked(small_model(), removed), {"input": IMAGES})[0]
    assert np.abs(results["pruned"][0]["logits"] - want).max() <= 1e-5 * np.abs(want).max()


def test_loaders_nest_and_may_be_called_again() -> None:
    pruned = PruneOnnx(small_model(), 0.3, data=load_data, saliency="taylor", compensate=True)
    both = BytesFromOnnx(QuantizeOnnx(pruned, data=load_data, target="tensorrt", calibration="minmax"))
    first = both()
    assert first == both()
    model = onnx.ModelProto.FromString(first)
    weights = {t.data_type for t in model.graph.initializer if len(t.dims) == 4}
    assert weights == {onnx.TensorProto.INT8}
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert zeros and all(values[name].dtype == np.int8 and not values[name].any() for name in zeros)
    assert run(model, {"input": IMAGES})[0].shape == (24, 4)


def test_an_engine_is_described_without_tensorrt_or_reading_a_file() -> None:
    int8 = QuantizeOnnx(PruneOnnx(OnnxFromPath("nowhere.onnx"), 0.3), data="nowhere.npz", target="tensorrt")
    engine = EngineFromNetwork(NetworkFromOnnxBytes(BytesFromOnnx(int8)), config=CreateConfig(int8=True))
    assert isinstance(engine, BaseLoader)
    assert "tensorrt" not in sys.modules


def test_options_are_checked_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    for make, part in (
        (lambda: PruneOnnx(onnx.ModelProto(), 1.5), "sparsity 1.5"),
        (lambda: PruneOnnx(onnx.ModelProto(), 0.5, saliency="magic"), "magic"),
        (lambda: QuantizeOnnx(onnx.ModelProto(), load_data, target="abacus"), "abacus"),
    ):
        with pytest.raises(PolygraphyException, match=part):
            make()
        assert part in "".join(capfd.readouterr())
    with pytest.raises(TypeError, match="colour"):
        PruneOnnx(onnx.ModelProto(), 0.5, colour="red")


def test_errors_are_polygraphys() -> None:
    with pytest.raises(PolygraphyException, match="not an ONNX model"):
        PruneOnnx(onnx.ModelProto(), 0.5)()
    with pytest.raises(PolygraphyException, match=r"nowhere\.npz: no such file"):
        QuantizeOnnx(small_model(), data="nowhere.npz")()
