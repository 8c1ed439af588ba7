"""Top-1 and latency of INT8 models: ours, per calibration method, beside onnxruntime.quantization.quantize_static.

    python tools/bench_quantize.py models/resnet18.onnx --calib models/fashion_mnist_calib.npz \
        --test models/fashion_mnist_test.npz

Latency ratios are medians over rounds of float time / INT8 time; in each round every model runs once, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from hqp_onnx.calibration import METHODS
from hqp_onnx.dataset import Batch
from hqp_onnx.model_io import load, to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.runtime import Array, Session
from hqp_onnx.targets import target

BATCH = 50


class Reader(CalibrationDataReader):
    """Feeds for onnxruntime's calibrators."""

    def __init__(self, feeds: list[Batch]) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter([dict(batch.feeds) for batch in feeds])

    def get_next(self) -> dict[str, Array] | None:
        """The next feeds, or None."""
        return next(self._feeds, None)


def batches(path: Path, name: str, count: int) -> list[Batch]:
    with np.load(path) as arrays:
        images, labels = arrays[name][:count].astype(np.float32), arrays["labels"][:count]
    return [Batch({name: images[i : i + BATCH]}, labels[i : i + BATCH]) for i in range(0, len(images), BATCH)]


def onnxruntime_int8(model: onnx.ModelProto, calib: list[Batch], method: CalibrationMethod) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            result,
            Reader(calib),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )
        return onnx.load(result)


def top1(model: onnx.ModelProto, test: list[Batch]) -> float:
    session = Session(model)
    hits = sum(int((next(iter(session.run(b.feeds).values())).argmax(1) == b.labels).sum()) for b in test)
    return 100 * hits / sum(len(b) for b in test)


def speedups(models: dict[str, onnx.ModelProto], feeds: dict[str, Array], rounds: int) -> dict[str, float]:
    sessions = {name: Session(model, threads=1) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 3):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(feeds)
            if turn >= 3:  # the first turns warm up
                times[name].append(time.perf_counter() - start)
    first = next(iter(times.values()))
    return {n: statistics.median(a / b for a, b in zip(first, t, strict=True)) for n, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--calib-samples", type=int, default=500)
    parser.add_argument("--test-samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()

    graph = canonicalize(to_graph(load(args.model))).graph
    name = graph.inputs[0].name
    calib, test = batches(args.calib, name, args.calib_samples), batches(args.test, name, args.test_samples)
    fp32 = to_proto(fold_batchnorm(graph).graph)
    models = {"fp32": fp32}
    for runtime in ("onnxruntime", "tensorrt"):
        for method in METHODS:
            models[f"ours {runtime} {method}"] = to_proto(quantize(graph, calib, target(runtime), method).graph)
    for reference in (CalibrationMethod.MinMax, CalibrationMethod.Entropy):
        models[f"quantize_static {reference.name}"] = onnxruntime_int8(fp32, calib, reference)

    one = {name: test[0].feeds[name][:1]}
    many = {name: test[0].feeds[name][:32]}
    timed = {key: model for key, model in models.items() if "tensorrt" not in key}  # no integer kernels for it here
    fast1, fast32 = speedups(timed, one, args.rounds), speedups(timed, many, args.rounds // 3)
    print(f"{'model':32}{'top-1 %':>9}{'size':>8}{'speed b1':>10}{'speed b32':>10}")
    for key, model in models.items():
        size = model.ByteSize() / fp32.ByteSize()
        speed = f"{fast1[key]:10.2f}{fast32[key]:10.2f}" if key in timed else f"{'-':>10}{'-':>10}"
        print(f"{key:32}{top1(model, test):9.2f}{size:8.3f}{speed}")


if __name__ == "__main__":
    main()
