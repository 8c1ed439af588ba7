"""What quantizing without data costs: INT8 by real samples, by inputs that were made up, and by noise.

    python tools/bench_data_free.py --row resnet18 models/resnet18.onnx models/fashion_mnist_calib.npz \
        models/fashion_mnist_test.npz

Every column is the INT8 model of ``hqp_onnx.quantize`` with its defaults, calibrated by

real N       the first N samples of CALIB
made up      no data: what ``hqp quantize MODEL`` does (docs/quantization.md)
pink noise   of the mean and spread that the model's first nodes remove, if they do
N(0, 1)      white noise

and judged on TEST: the drop of top-1 in points with its paired 95 % interval, the mean KL divergence from the float
model, seconds.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from bench_quantization import Run, interval, log_softmax, logits

import hqp_onnx
from hqp_onnx.arrays import Array
from hqp_onnx.model import open_model
from hqp_onnx.runtimes.session import Session
from hqp_onnx.synthesis.inputs import COUNT
from hqp_onnx.synthesis.noise import drawn
from hqp_onnx.synthesis.prior import CONVENTIONS, normalization


def contenders(path: Path, calib: Array, real: list[int]) -> Mapping[str, Array | None]:
    """Calibration data by column; None for what is made up."""
    tensor, shape = open_model(path).graph.inputs[0], (COUNT, *calib.shape[1:])
    rng = np.random.default_rng(0)
    pink = drawn(rng, normalization(tensor, shape) or CONVENTIONS[0], shape)
    samples: dict[str, Array | None] = {f"real {count}": calib[:count] for count in real}
    return samples | {"made up": None, "pink noise": pink, "N(0, 1)": rng.standard_normal(shape)}


def bench(name: str, path: Path, calib: Path, test: Path, real: list[int], count: int) -> None:
    model = onnx.load(path)
    key = model.graph.input[0].name
    with np.load(calib) as arrays:
        given = contenders(path, arrays[key], real)
    with np.load(test) as arrays:
        x, labels = arrays[key][:count], arrays["labels"][:count]
    want = logits(runner(model, key), x)
    right, p = want.argmax(1) == labels, log_softmax(want)
    print(f"\n{name}: top-1 {100 * right.mean():.2f} of {len(x)} test samples\n")
    print("| by | drop | KL | seconds |\n|---|--:|--:|--:|")
    for column, samples in given.items():
        start = perf_counter()
        made = hqp_onnx.quantize(model, None if samples is None else {key: samples.astype(np.float32)})
        seconds, have = perf_counter() - start, logits(runner(made, key), x)
        divergence = (np.exp(p) * (p - log_softmax(have))).sum(1).mean()
        drop = interval(right, have.argmax(1) == labels)
        print(f"| {column} | {drop} | {divergence:.5f} | {seconds:.0f} |", flush=True)


def runner(model: onnx.ModelProto, key: str) -> Run:
    session = Session(model)
    return lambda x: next(iter(session.run({key: x}).values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs=4, action="append", required=True, metavar=("NAME", "MODEL", "CALIB", "TEST"))
    parser.add_argument("--real", type=int, nargs="+", default=[2000, 100], help="samples of the real columns")
    parser.add_argument("--test-samples", type=int, default=4000)
    settings = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for name, *paths in settings.row:
        bench(name, *map(Path, paths), settings.real, settings.test_samples)


if __name__ == "__main__":
    main()
