"""INT8 of this library beside other quantizers: drop, mean KL of the logits, latency, peak memory, in one run.

    make peers
    python tools/bench_quantization.py --row resnet18 models/resnet18.onnx \
        models/fashion_mnist_calib.npz models/fashion_mnist_test.npz --peers build/peers/bin/python

Every quantizer works in a process of its own (tools/quantization_peers.py) on the same samples; a peer that fails or is
absent says so in its row. Speed is the median over rounds of float time / INT8 time on each target; in each round
every model runs once, in turn. --outlier N multiplies one filter of the first Conv that only another Conv reads
(through Relu) by N, and divides what reads it by N: the same function, and the paper's stress of calibration.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.model_io import load, save, to_graph
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.runtime import Array, Session

PEERS = ("quantize_static MinMax", "quantize_static Entropy", "NNCF", "neural-compressor")
OURS = ("ours minmax, plain", "ours entropy, plain", "ours minmax, not equalized", "ours minmax", "ours entropy")
TOOL = Path(__file__).with_name("quantization_peers.py")
Logits = np.ndarray
Runner = Callable[[Mapping[str, Array]], Logits]


def on_onnxruntime(model: Path) -> Runner:
    session = Session(model, threads=1)
    return lambda feeds: next(iter(session.run(feeds).values()))


TARGETS: dict[str, Callable[[Path], Runner]] = {"onnxruntime": on_onnxruntime}


@dataclass(frozen=True)
class Case:
    """A model file and samples."""

    name: str
    model: Path
    calib: Array
    test: Array
    labels: Array


def opened(name: str, model: Path, calib: Path, test: Path, counts: tuple[int, int]) -> Case:
    key = onnx.load(model).graph.input[0].name
    with np.load(calib) as a, np.load(test) as b:
        return Case(name, model, a[key][: counts[0]], b[key][: counts[1]].astype(np.float32), b["labels"][: counts[1]])


def with_outlier(source: Path, factor: float, output: Path) -> None:
    """The same function, with one filter ``factor`` times as large."""
    graph = fold_batchnorm(canonicalize(to_graph(load(source))).graph).graph
    for node in graph.nodes:
        reader = node.outputs[0].outputs[0] if node.op == "Conv" and len(node.outputs[0].outputs) == 1 else None
        if reader is not None and reader.op == "Relu" and len(reader.outputs[0].outputs) == 1:
            consumer = reader.outputs[0].outputs[0]
            if consumer.op == "Conv" and consumer.attrs.get("group", 1) == 1:
                break
    else:
        raise SystemExit(f"{source}: no Conv, Relu, Conv in a row to give an outlier to")
    for tensor in node.inputs[1:]:
        tensor.values = tensor.values.copy()
        tensor.values[0] *= factor
    weight = consumer.inputs[1]
    weight.values = weight.values.copy()
    weight.values[:, 0] /= factor
    save(graph, output)


def made(case: Case, quantizer: str, python: str, folder: Path) -> tuple[Path, dict[str, float]] | str:
    """The quantizer's model and cost, or why there is none."""
    calib, output = folder / "calib.npz", folder / f"{quantizer.replace(' ', '_').replace(',', '')}.onnx"
    np.savez(calib, **{onnx.load(case.model).graph.input[0].name: case.calib})
    command = [python, str(TOOL), quantizer, str(case.model), str(calib), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not output.is_file():
        return (done.stderr.strip().splitlines() or ["no output"])[-1][:110]
    return output, json.loads(done.stdout.strip().splitlines()[-1])


def speedups(runners: dict[str, Runner], feeds: Mapping[str, Array], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 3):
        for name, run in runners.items():
            start = time.perf_counter()
            run(feeds)
            if turn >= 3:  # the first turns warm up
                times[name].append(time.perf_counter() - start)
    return {n: statistics.median(a / b for a, b in zip(times["fp32"], t, strict=True)) for n, t in times.items()}


def logits(run: Runner, case: Case, key: str) -> Logits:
    parts = range(0, len(case.test), 25)
    return np.concatenate([run({key: case.test[i : i + 25]}) for i in parts]).astype(np.float64)


def log_softmax(z: Logits) -> Logits:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def quality(want: Logits, have: Logits, labels: Array) -> str:
    p, q = log_softmax(want), log_softmax(have)
    drop = 100 * ((want.argmax(1) == labels).mean() - (have.argmax(1) == labels).mean())
    agree = 100 * (want.argmax(1) == have.argmax(1)).mean()
    divergence = (np.exp(p) * (p - q)).sum(1).mean()
    noise = 10 * np.log10(np.square(want).sum() / max(np.square(want - have).sum(), 1e-30))
    return f"{drop:8.2f}{agree:8.2f}{divergence:10.5f}{noise:8.1f}"


def bench(case: Case, peers: str | None, rounds: int, folder: Path) -> None:
    interpreters = dict.fromkeys(("fp32", *OURS), sys.executable) | dict.fromkeys(PEERS, peers or "")
    found = {
        name: made(case, name, python, folder) if python else "no --peers" for name, python in interpreters.items()
    }
    models = {name: value for name, value in found.items() if not isinstance(value, str)}
    key = onnx.load(case.model).graph.input[0].name
    print(f"\n{case.name}: {len(case.calib)} calibration, {len(case.test)} test samples")
    print(
        f"{'':28}{'drop':>8}{'agree':>8}{'KL':>10}{'SQNR':>8}{'MiB':>8}{'s':>7}" + "".join(f"{t:>13}" for t in TARGETS)
    )
    runners = {t: {name: open_model(path) for name, (path, _) in models.items()} for t, open_model in TARGETS.items()}
    speed = {target: speedups(runs, {key: case.test[:1]}, rounds) for target, runs in runners.items()}
    first = next(iter(runners.values()))
    want = logits(first["fp32"], case, key)
    for name in interpreters:
        if name not in models:
            print(f"{name:28}{found[name]}")
            continue
        cost, ratios = models[name][1], "".join(f"{speed[t][name]:13.2f}" for t in TARGETS)
        print(f"{name:28}{quality(want, logits(first[name], case, key), case.labels)}", end="")
        print(f"{cost['peak_mib']:8.0f}{cost['seconds']:7.1f}{ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs=4, action="append", required=True, metavar=("NAME", "MODEL", "CALIB", "TEST"))
    parser.add_argument("--peers", help="Python of the environment of `make peers`")
    parser.add_argument("--calib-samples", type=int, default=500)
    parser.add_argument("--test-samples", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--outlier", type=float, help="stress: one filter so many times as large")
    args = parser.parse_args()
    for name, *paths in args.row:
        case = opened(name, *map(Path, paths), (args.calib_samples, args.test_samples))
        with tempfile.TemporaryDirectory() as folder:
            if args.outlier:
                stressed = Path(folder) / "stressed.onnx"
                with_outlier(case.model, args.outlier, stressed)
                case = Case(f"{name}, outlier x{args.outlier:g}", stressed, case.calib, case.test, case.labels)
            bench(case, args.peers, args.rounds, Path(folder))


if __name__ == "__main__":
    main()
