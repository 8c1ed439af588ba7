"""A small classifier, its pruned and INT8 descendants, and data for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from hqp_onnx.progress import silent
from hqp_onnx.steps.prune import Pruning, prune_file
from hqp_onnx.steps.quantize import quantize_file

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,8,8] x) => (float[n,5] y) {
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
    r2 = Relu(c2)
    p = GlobalAveragePool(r2)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w3, b3)
}"""
SHAPES = {"w1": (8, 3, 3, 3), "w2": (12, 8, 3, 3), "w3": (5, 12)}


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of ``original``, ``pruned`` (a third of the units, refitted), ``int8`` of it, and ``data``."""
    folder, rng = tmp_path_factory.mktemp("chain"), np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        weight = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
        bias = (0.1 * rng.standard_normal(shape[0])).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(bias, f"b{name[1]}"))
    paths = {name: folder / f"{name}.onnx" for name in ("original", "pruned", "int8")}
    onnx.save(model, paths["original"])
    images = rng.standard_normal((60, 3, 8, 8)).astype(np.float32)
    data = str(folder / "data.npz")
    np.savez(data, x=images, labels=rng.integers(0, 5, 60))
    ledger = folder / "ledger.json"
    prune_file(paths["original"], paths["pruned"], Pruning(0.3, compensate=True), data=data, ledger=ledger)
    quantize_file(paths["pruned"], paths["int8"], data, "tensorrt", "minmax", None, silent)
    assert json.loads(ledger.read_text())["removed"]
    return {**{name: str(path) for name, path in paths.items()}, "data": data}


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[str, str], str]:
    """Makes a copy of a model with one initializer negated."""

    def make(path: str, weight: str) -> str:
        model, target = onnx.load(path), tmp_path / "damaged.onnx"
        tensor = next(t for t in model.graph.initializer if t.name == weight)
        tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), weight))
        onnx.save(model, target)
        return str(target)

    return make
