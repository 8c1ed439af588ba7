"""Latency, throughput and energy on an NVIDIA GPU: FP32, FP16, pruned FP16, INT8, pruned INT8 (`make gpu`).

    python tools/bench_gpu.py [MODEL.onnx ...] [--batch 1,32] [--json FILE]

Default models: the bundled two, and ResNet-18 and MobileNetV3-Large at 224 x 224 (random weights) where torch is
installed. Pruned: half of the prunable units by L2, widths multiples of 32; which ones does not change latency.

    onnxruntime   its CUDA provider, inputs and outputs on the GPU; wall-clock time of a run, host included
    TensorRT      `hqp build`, then CUDA events around one enqueue

Watts and joules: NVML or tegrastats, over runs back to back. Rows that need what this machine lacks are listed below
the table with the reason. `--provider CPUExecutionProvider` tries the tool out where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from hqp_onnx import engine
from hqp_onnx.engine.energy import Sampler, open_meter
from hqp_onnx.engine.options import BuildOptions
from hqp_onnx.errors import HqpError
from hqp_onnx.graphs.model_io import load, save, to_graph
from hqp_onnx.model import open_session
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.steps.build import build_file
from hqp_onnx.steps.prune import Pruning, prune_file

ROOT = Path(__file__).parents[1]
BUNDLED = [ROOT / "models" / f"{name}.onnx" for name in ("mobilenet_v3_small", "resnet18")]
PRECISIONS = ("fp32", "fp16", "int8")
WARM_UP, SECONDS = 10, 2.0
COLUMNS = ("model", "batch", "runtime", "variant", "median ms", "p99 ms", "samples/s", "W", "mJ/sample", "P L mJ")


@dataclass(frozen=True)
class Row:
    """One measurement, or why there is none."""

    model: str
    batch: int
    runtime: str
    variant: str
    latency: engine.EngineLatency | None = None
    reason: str = ""

    def cells(self) -> list[str]:
        """For the table."""
        latency = self.latency
        head = [self.model, str(self.batch), self.runtime, self.variant]
        joules = ["" if j is None else f"{1e3 * j:.3g}" for j in (latency.joules, latency.paper_joules)]
        watts = "" if latency.watts is None else f"{latency.watts:.1f}"
        return [*head, f"{latency.median_ms:.3f}", f"{latency.p99_ms:.3f}", f"{latency.throughput:.0f}", watts, *joules]


@dataclass(frozen=True)
class Variants:
    """A model's files, and samples to calibrate with."""

    name: str
    float32: Path
    pruned: Path
    data: Path
    sample: np.ndarray

    @property
    def both(self) -> dict[str, Path]:
        """By the word before a variant's precision."""
        return {"": self.float32, "pruned ": self.pruned}


def variants(model: Path, folder: Path) -> Variants:
    session = open_session(model)
    (spec,) = session.inputs
    shape = [64, *(n or 224 for n in spec.shape[1:])]
    values = np.random.default_rng(0).uniform(0, 1, shape).astype(spec.dtype)
    data, pruned = folder / f"{model.stem}.npz", folder / f"{model.stem}-pruned.onnx"
    np.savez(data, **{spec.name: values})
    prune_file(model, pruned, Pruning(0.5, multiple_of=32))
    return Variants(model.stem, model, pruned, data, values)


def half(model: Path, folder: Path) -> Path:
    path = folder / f"{model.stem}-fp16.onnx"
    save(convert_fp16(fold_batchnorm(canonicalize(to_graph(load(model))).graph).graph).graph, path)
    return path


def time_onnx(model: Path, sample: np.ndarray, batch: int, provider: str) -> engine.EngineLatency:
    """An onnxruntime session with inputs and outputs bound to the device."""
    if provider not in onnxruntime.get_available_providers():
        raise HqpError(f"this onnxruntime has no {provider}: pip install 'onnxruntime-gpu[cuda,cudnn]'")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise HqpError(f"onnxruntime cannot start {provider} here: no GPU, or its CUDA libraries are missing")
    device = "cuda" if provider == "CUDAExecutionProvider" else "cpu"
    binding = session.io_binding()
    x = np.resize(sample, (batch, *sample.shape[1:]))
    binding.bind_ortvalue_input(session.get_inputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    return summary(lambda: session.run_with_iobinding(binding), batch)


def summary(run: Callable[[], None], batch: int) -> engine.EngineLatency:
    times: list[float] = []
    for _ in range(WARM_UP):
        run()
    with open_meter() as meter:
        sampler = Sampler(meter or (lambda: 0.0))
        with sampler:
            stop = time.perf_counter() + SECONDS
            while time.perf_counter() < stop:
                start = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - start))
    median, p99 = (float(q) for q in np.percentile(times, (50, 99)))
    if meter is None:
        return engine.EngineLatency(batch, len(times), median, p99)
    joules = sampler.joules / (len(times) * batch)
    return engine.EngineLatency(batch, len(times), median, p99, {}, sampler.watts, joules)


def time_engine(model: Path, data: Path, precision: str, batch: int, folder: Path) -> engine.EngineLatency:
    spec = open_session(model).inputs[0]
    sizes = "x".join(str(n) for n in [batch, *(n or 224 for n in spec.shape[1:])])
    path = folder / f"{model.stem}-{precision}-{batch}.engine"
    shapes = (f"{spec.name}:{sizes}",)
    calibration = str(data) if precision == "int8" else None
    build_file(BuildOptions(model, path, calibration, precision=precision, shapes=shapes))
    return engine.measure(path, seconds=SECONDS)


def rows(model: Path, batches: list[int], provider: str, folder: Path) -> Iterator[Row]:
    """Every row of a model; one that fails has the reason."""
    of = variants(model, folder)
    runtime = f"onnxruntime {provider.removesuffix('ExecutionProvider')}"
    halves = {"FP16": half(of.float32, folder), "pruned FP16": half(of.pruned, folder)}
    plain = {"FP32": of.float32, "pruned FP32": of.pruned, **halves}
    built = {f"{how}{name.upper()}": (path, name) for name in PRECISIONS for how, path in of.both.items()}
    for batch in batches:
        for variant, path in plain.items():
            work = partial(time_onnx, path, of.sample, batch, provider)
            yield attempt(of.name, batch, runtime, variant, work)
        for variant, (path, precision) in built.items():
            work = partial(time_engine, path, of.data, precision, batch, folder)
            yield attempt(of.name, batch, "TensorRT", variant, work)


def attempt(model: str, batch: int, runtime: str, variant: str, work: Callable[[], engine.EngineLatency]) -> Row:
    try:
        return Row(model, batch, runtime, variant, work())
    except HqpError as e:
        return Row(model, batch, runtime, variant, reason=str(e))


def show(rows: list[Row]) -> None:
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for row in rows:
        if row.latency is not None:
            print("| " + " | ".join(row.cells()) + " |")
    missing: dict[str, list[str]] = {}
    for row in rows:
        if row.latency is None:
            missing.setdefault(row.reason, []).append(f"{row.model} x{row.batch} {row.runtime} {row.variant}")
    for reason, names in missing.items():
        print(f"\nNot measured: {reason}\n  " + "\n  ".join(names))


def networks(folder: Path) -> list[Path]:
    """The 224 x 224 networks, where torch can export them."""
    if importlib.util.find_spec("torch") is None:
        print("ResNet-18 and MobileNetV3-Large at 224 x 224 need torch: pip install torch")
        return []
    from bench_networks import export

    return list(export(folder, ["resnet18_224", "mobilenet_v3_large_224"]))


def machine() -> str:
    try:
        able = engine.detect()
    except HqpError:
        return "no TensorRT"
    return f"{able.device.name} ({able.device.capability}), {able.name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--provider", default="CUDAExecutionProvider")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    batches = [int(batch) for batch in chosen.batch.split(",")]
    if hasattr(onnxruntime, "preload_dlls") and chosen.provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()  # CUDA and cuDNN of the wheels, where they are installed
    print(f"{machine()}; onnxruntime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = chosen.models or [*BUNDLED, *networks(folder)]
        measured = [row for model in models for row in rows(model, batches, chosen.provider, folder)]
    show(measured)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(row) for row in measured], indent=1))
    return 0 if any(row.latency for row in measured) else 2


if __name__ == "__main__":
    sys.exit(main())
