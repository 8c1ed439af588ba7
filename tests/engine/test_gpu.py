"""What only a GPU can show. `make gpu` runs these; engines are held against onnxruntime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import MODELS

from hqp_onnx.engine import Capability, Device, measure
from hqp_onnx.engine.device import open_cuda
from hqp_onnx.engine.energy import Sampler, open_meter
from hqp_onnx.engine.options import BuildOptions
from hqp_onnx.engine.timing import EngineSession
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.job.options import Options
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.runtimes.session import Session, onnxruntime
from hqp_onnx.steps.build import build_file
from hqp_onnx.steps.optimize import optimize

pytestmark = pytest.mark.gpu
BATCH = 64
SHAPES = (f"input:1x1x28x28,{BATCH}x1x28x28,{BATCH}x1x28x28",)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(MODELS / "fashion_mnist_calib.npz") as arrays:
        np.savez(file, input=arrays["input"][: 4 * BATCH])
    return file


def images(data: Path) -> dict[str, np.ndarray]:
    return {"input": np.load(data)["input"][:BATCH].astype(np.float32)}


def on_engine(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    cuda = open_cuda()
    session = EngineSession(path, BATCH, cuda, feeds)
    session.enqueue()
    logits = session.outputs()["logits"].copy()
    cuda.close()
    return logits


def test_the_device_has_a_name_memory_and_a_clock(gpu: Device) -> None:
    assert gpu.name and gpu.compute >= (5, 0)
    values = np.random.default_rng(0).normal(size=(1 << 20)).astype(np.float32)
    cuda = open_cuda()
    start, end = cuda.event(), cuda.event()
    cuda.record(start)
    address, back = cuda.upload(values), np.zeros_like(values)
    cuda.download(address, back)
    cuda.record(end)
    assert cuda.elapsed(start, end) > 0
    np.testing.assert_array_equal(back, values)
    cuda.close()


def test_pycuda_gives_the_same(gpu: Device) -> None:
    pytest.importorskip("pycuda")
    cuda = open_cuda("pycuda")
    values, back = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    cuda.download(cuda.upload(values), back)
    cuda.close()
    np.testing.assert_array_equal(back, values)


def test_power_is_plausible(gpu: Device) -> None:
    with open_meter() as meter:
        if meter is None:
            pytest.skip("no power sensor: pip install nvidia-ml-py")
        with Sampler(meter) as sampler:
            np.linalg.svd(np.ones((200, 200)))
    assert 0.5 < sampler.watts < 2000


def test_float16_on_the_cuda_provider(gpu: Device, bundled: Path, data: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime().get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    half = to_proto(convert_fp16(to_graph(onnx.load(bundled))).graph)
    found = Session(half, provider="CUDAExecutionProvider").run(images(data))["logits"]
    expected = Session(bundled).run(images(data))["logits"]
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp16": {"precision": "fp16"},
    "explicit": {"precision": "int8", "path": "explicit"},
    "strongly typed": {"precision": "int8", "path": "explicit", "strongly_typed": True},
    "our scales": {"precision": "int8", "path": "implicit", "scales": "own"},
    "tensorrt's scales": {"precision": "int8", "path": "implicit", "scales": "tensorrt"},
}


@pytest.mark.parametrize("way", WAYS)
def test_engines_agree_with_onnxruntime(
    tensorrt: Capability, bundled: Path, data: Path, tmp_path: Path, way: str
) -> None:
    chosen, path = WAYS[way], tmp_path / "m.engine"
    calibration = str(data) if chosen["precision"] == "int8" else None
    try:
        report = build_file(BuildOptions(bundled, path, calibration, shapes=SHAPES, **chosen))
    except UsageError as e:
        pytest.skip(str(e))
    assert report.layers and report.bytes == path.stat().st_size
    found, expected = on_engine(path, images(data)), Session(bundled).run(images(data))["logits"]
    tolerance = {"fp32": 1e-3, "fp16": 0.02}.get(chosen["precision"], 0.3)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= (0.9 if chosen["precision"] == "int8" else 0.98)
    if chosen["precision"] == "int8":
        assert "int8" in str(report.layers).lower()  # TensorRT took the scales


def test_caches_are_written_and_read_again(tensorrt: Capability, data: Path, tmp_path: Path) -> None:
    model, timing, cache = MODELS / "resnet18.onnx", tmp_path / "t.cache", tmp_path / "c.cache"
    build_file(BuildOptions(model, tmp_path / "a.engine", precision="fp16", timing_cache=timing))
    assert timing.stat().st_size > 0
    again = build_file(BuildOptions(model, tmp_path / "b.engine", precision="fp16", timing_cache=timing))
    assert again.bytes
    if tensorrt.implicit:
        options = {"path": "implicit", "scales": "tensorrt", "calibration_cache": cache, "shapes": SHAPES}
        build_file(BuildOptions(model, tmp_path / "c.engine", str(data), **options))
        assert cache.read_text().startswith("TRT-")
        report = build_file(BuildOptions(model, tmp_path / "d.engine", path="implicit", calibration_cache=cache))
        assert report.scales == "cache"


def test_latency_layers_and_energy(tensorrt: Capability, tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    build_file(BuildOptions(MODELS / "resnet18.onnx", path, precision="fp16", shapes=SHAPES))
    one, many = (measure(path, batch, seconds=0.5, profile=True) for batch in (1, BATCH))
    assert 0 < one.median_ms <= one.p99_ms
    assert many.throughput > one.throughput
    assert sum(one.layers.values()) > 0
    assert one.joules is None or many.joules < one.joules


def test_an_optimized_model_and_its_engine_are_inside_one_budget(tensorrt: Capability, tmp_path: Path) -> None:
    with np.load(MODELS / "fashion_mnist_val.npz") as arrays:
        np.savez(tmp_path / "few.npz", input=arrays["input"][:500], labels=arrays["labels"][:500])
    few, output = str(tmp_path / "few.npz"), tmp_path / "out"
    precision = "int8" if tensorrt.device and tensorrt.device.int8 else "fp16"
    chosen = {"precision": precision, "target": "tensorrt", "saliency": "l2", "step": 0.1, "max_drop": 0.05}
    report = optimize(Options(MODELS / "resnet18.onnx", few, few, output, build=True, **chosen))
    assert report.engine is not None and report.engine.admitted
    assert report.shipped == str(output / "model.engine")
    assert abs(report.engine.val_metric - report.rows["hqp"].val_metric) <= 0.02
    assert 0 < report.engine.latency_ms <= report.engine.latency_p99_ms
