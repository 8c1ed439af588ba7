"""What hqp_onnx.engine does with one version of the real TensorRT bindings: FOLDER/facts.json; see test_contract.py."""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import tensorrt as trt
from fakes import NATIVE_CACHE, install

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.engine import calibrator as calibrators
from hqp_onnx.engine.capability import Capability, detect
from hqp_onnx.engine.device import open_cuda
from hqp_onnx.engine.options import BuildOptions
from hqp_onnx.engine.profiles import Profile
from hqp_onnx.engine.timing import EngineSession, measure
from hqp_onnx.errors import HqpError
from hqp_onnx.runtimes.session import TensorSpec
from hqp_onnx.steps.build import build_file

MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) {
 h = Conv(x, w, b) y = Relu(h) }"""
SPEC = TensorSpec("x", np.dtype(np.float32), (None, 3, 4, 4))
BUILDS: dict[str, dict[str, Any]] = {
    "default": {"data": True},
    "own": {"data": True, "path": "implicit", "scales": "own"},
    "tensorrt": {"data": True, "path": "implicit", "scales": "tensorrt", "cache": "written.cache"},
    "minmax": {"data": True, "path": "implicit", "scales": "tensorrt", "calibration": "minmax"},
    "cached": {"path": "implicit", "cache": "given.cache"},
    "explicit": {"data": True, "path": "explicit"},
    "strong": {"data": True, "path": "explicit", "strongly_typed": True},
    "fp16": {"precision": "fp16"},
    "fp32": {"precision": "fp32"},
    "dla": {"data": True, "dla": 1, "shapes": ("x:4x3x4x4",)},
    "options": {
        "precision": "fp16",
        "workspace": 64,
        "timing": "timing.cache",
        "version_compatible": True,
        "hardware_compatible": True,
    },
    "retimed": {"precision": "fp16", "timing": "timing.cache"},
}


def numbered(count: int) -> np.ndarray:
    """Sample i is filled with i."""
    return np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 4, 4), np.float32)


def attempt(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except HqpError as e:
        return {"error": type(e).__name__, "message": str(e)}


def calibrator_facts(folder: Path) -> dict[str, Any]:
    """Bytes, classes and cache of the calibrators themselves."""
    data = Dataset(ArraySource("numbers", {"x": numbered(10)}), [SPEC], batch_size=4)
    batches = calibrators.CalibrationBatches(data, {"x": Profile((1, 3, 4, 4), (4, 3, 4, 4), (8, 3, 4, 4))})
    cache = folder / "native.cache"
    entropy = calibrators.calibrator(batches, cache, "entropy")
    fed = []
    for _ in range(2):
        while (pointers := entropy.get_batch(["x"])) is not None:
            fed.append(np.frombuffer(ctypes.string_at(pointers[0], 4 * 4 * 48), np.float32).reshape(4, 48).tolist())
        entropy.reset()
    before = entropy.read_calibration_cache()
    entropy.write_calibration_cache(memoryview(NATIVE_CACHE % b"8601"))
    again = calibrators.calibrator(None, cache, "entropy")
    return {
        "entropy": isinstance(entropy, trt.IInt8EntropyCalibrator2),
        "minmax": isinstance(calibrators.calibrator(batches, None, "minmax"), trt.IInt8MinMaxCalibrator),
        "algorithm": entropy.get_algorithm().name,
        "fed": fed,
        "before": before,
        "file": cache.read_text(),
        "read": bytes(again.read_calibration_cache()).decode(),
    }


def built(folder: Path, name: str, log: list[Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Report and recorded calls of one build."""
    log.clear()
    options = dict(chosen)
    if options.pop("data", False):
        options["data"] = str(folder / "data.npz")
    for key, option in (("cache", "calibration_cache"), ("timing", "timing_cache")):
        if key in options:
            options[option] = folder / options.pop(key)
    engine = folder / f"{name}.engine"
    asked = {"shapes": SHAPES, **options}
    report = attempt(lambda: build_file(BuildOptions(folder / "model.onnx", engine, **asked)).json())
    files = sorted(p.name for p in folder.iterdir() if p.name.startswith(name))
    return {"report": report, "log": list(log), "files": files}


SHAPES = ("x:1x3x4x4,4x3x4x4,8x3x4x4",)


def main() -> None:
    folder = Path(sys.argv[1])
    model = onnx.parser.parse_model(MODEL)
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(2, 3, 1, 1)).astype(np.float32), "b": np.zeros(2, np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", x=numbered(10))
    table = Capability.of_version(trt.__version__)
    number = "".join(f"{n:02d}" for n in table.version).lstrip("0") if table.version[0] > 9 else "8601"
    (folder / "given.cache").write_bytes(NATIVE_CACHE % number.encode())
    facts: dict[str, Any] = {"version": trt.__version__, "table": asdict(table), "of": asdict(Capability.of(trt))}
    facts["no GPU"] = attempt(detect)
    log = install()
    facts["detected"] = asdict(detect())
    with redirect_stdout(io.StringIO()) as printed:
        facts["builds"] = {name: built(folder, name, log, chosen) for name, chosen in BUILDS.items()}
        os.environ["STUB_COMPUTE"] = "53"  # Jetson Nano's
        facts["nano"] = {
            "asked": built(folder, "asked", log, {"data": True, "precision": "int8"}),
            "default": built(folder, "nano", log, {"data": True}),
        }
        os.environ["STUB_COMPUTE"] = "87"
    facts["printed"] = printed.getvalue()
    facts["calibrator"] = calibrator_facts(folder) if table.implicit else None
    engine = folder / "fp32.engine"
    cuda = open_cuda()
    session = EngineSession(engine, 2, cuda, {"x": numbered(2) + 1})
    session.enqueue()
    facts["outputs"] = session.outputs()["y"][:, 0, 0, 0].tolist()
    facts["layers"] = session.layer_times(3)
    cuda.close()
    facts["measured"] = asdict(measure(engine, seconds=0.05, profile=True))
    facts["batch 9"] = attempt(lambda: measure(engine, 9))
    (folder / "other.engine").write_bytes(b"not one")
    facts["not an engine"] = attempt(lambda: measure(folder / "other.engine"))
    facts["no pycuda"] = attempt(lambda: measure(engine, wrapper="pycuda"))
    (folder / "facts.json").write_text(json.dumps(facts, default=str))


if __name__ == "__main__":
    main()
