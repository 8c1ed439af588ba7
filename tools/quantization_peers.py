"""One quantizer in its own process: reads a float model and samples, writes the INT8 model, prints its peak memory.

    PYTHON tools/quantization_peers.py NAME MODEL.onnx CALIB.npz OUT.onnx

PYTHON is any interpreter that has the quantizer. The peers (`make peers`) need none of hqp_onnx.
NAME is a key of ``QUANTIZERS``. CALIB.npz holds one array, named as the model's input. The last line is JSON.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

BATCH = 25


def batches(calib: Path) -> Iterator[dict[str, np.ndarray]]:
    with np.load(calib) as arrays:
        name, x = next(iter(arrays.items()))
    for start in range(0, len(x), BATCH):
        yield {name: x[start : start + BATCH].astype(np.float32)}


def inference(model: Path, calib: Path, out: Path) -> None:
    """The float model run on the data: what memory takes without any calibration."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for feeds in batches(calib):
        session.run(None, feeds)
    out.write_bytes(model.read_bytes())


def ours(method: str, **recipe: bool):
    def run(model: Path, calib: Path, out: Path) -> None:
        from hqp_onnx.dataset import Batch
        from hqp_onnx.model_io import load, save, to_graph
        from hqp_onnx.passes.canonicalize import canonicalize
        from hqp_onnx.passes.quantize import Recipe, quantize
        from hqp_onnx.targets import target

        data = [Batch(feeds) for feeds in batches(calib)]
        graph = canonicalize(to_graph(load(model))).graph
        save(quantize(graph, data, target("onnxruntime"), method, recipe=Recipe(**recipe)).graph, out)

    return run


def quantize_static(method: str):
    def run(model: Path, calib: Path, out: Path) -> None:
        from onnxruntime import quantization as q

        module = importlib.import_module("onnxruntime.quantization.quantize")  # a function shadows its name
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(q.CalibrationDataReader):
            def __init__(self) -> None:
                self.feeds = batches(calib)

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.feeds, None)

        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        plain, bins = module.create_calibrator, {"num_bins": 2048, "num_quantized_bins": 128, "symmetric": True}
        if method == "Entropy":  # quantize_static has no option for the bins, and 128 of them are MinMax
            module.create_calibrator = lambda *given, extra_options, **named: plain(
                *given, extra_options={**extra_options, **bins}, **named
            )
        q.quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=getattr(q.CalibrationMethod, method),
        )

    return run


def nncf(model: Path, calib: Path, out: Path) -> None:
    import nncf as library

    proto = onnx.load(model)
    samples = sum(len(next(iter(feeds.values()))) for feeds in batches(calib))
    single = [{name: x[i : i + 1]} for feeds in batches(calib) for name, x in feeds.items() for i in range(len(x))]
    onnx.save(library.quantize(proto, library.Dataset(single), subset_size=samples), out)


def neural_compressor(model: Path, calib: Path, out: Path) -> None:
    from onnx_neural_compressor import data_reader
    from onnx_neural_compressor.quantization import QuantFormat, config, quantize

    class Reader(data_reader.CalibrationDataReader):
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

        def rewind(self) -> None:
            self.feeds = batches(calib)

    chosen = config.StaticQuantConfig(Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    quantize(str(model), str(out), chosen)


QUANTIZERS = {
    "fp32": inference,
    "ours entropy": ours("entropy"),
    "ours minmax": ours("minmax"),
    "ours minmax, plain": ours("minmax", equalize=False, correct_bias=False, round_weights=False),
    "ours entropy, plain": ours("entropy", equalize=False, correct_bias=False, round_weights=False),
    "ours minmax, not equalized": ours("minmax", equalize=False),
    "quantize_static MinMax": quantize_static("MinMax"),
    "quantize_static Entropy": quantize_static("Entropy"),
    "NNCF": nncf,
    "neural-compressor": neural_compressor,
}


def main() -> None:
    name, *paths = sys.argv[1:]
    start = time.perf_counter()
    QUANTIZERS[name](*map(Path, paths))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
