"""INT8 of this library beside other quantizers, on onnxruntime and OpenVINO, in one run.

    make peers
    python tools/bench_quantization.py --peers build/peers/bin/python --row resnet18 models/resnet18.onnx \
        models/fashion_mnist_calib.npz models/fashion_mnist_test.npz

Every quantizer works in a process of its own (tools/quantization_peers.py) on the same samples; a peer that fails or is
absent says so in its row. Models stay in --cache, and are taken from there by a later run.

drop       of top-1 against the float model, in points, with its 95 % interval (from paired differences)
ours - it  top-1 of "ours mixed" less that of the row, paired likewise: a tie where the interval holds 0
KL, SQNR   of the logits against the float model's: mean divergence, and signal to noise in dB
size       of the file, over the float model's
speed      float time / its time, by ``hqp_onnx.evaluation.latency``
s          of the processor, all threads together, so what else the machine does hardly matters

--seconds N ends a quantizer after so many of them, and its row says so.

--outlier N multiplies one filter of the first Conv that only another Conv reads (through Relu) by N, and divides what
reads it by N: the same function, and the paper's stress of calibration. --prune SHARE lets ``hqp prune`` (Fisher,
compensated) remove a share of the units first, and says whether the outlier was among them. --memory prints peak memory
alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.evaluation.paired import paired_drop
from hqp_onnx.graphs.model_io import load, save, to_graph
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.prune import Pruning, prune_file

OURS = ("ours mixed", "ours")
PEERS = (
    "quantize_static MinMax",
    "quantize_static Entropy",
    "NNCF",
    "NNCF accuracy control",
    "neural-compressor",
)
TOOL = Path(__file__).with_name("quantization_peers.py")
Run = Callable[[Array], Array]


def on_onnxruntime(model: Path, threads: int) -> Run:
    session = Session(model, threads=threads)
    return lambda x: next(iter(session.run({session.inputs[0].name: x}).values()))


def on_openvino(model: Path, threads: int) -> Run:
    """An onnx model, or one of OpenVINO's own, compiled for each shape as ``OpenVinoSession`` does."""
    import openvino as ov

    core, compiled = ov.Core(), {}
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    hints |= {"INFERENCE_NUM_THREADS": threads} if threads else {}

    def run(x: Array) -> Array:
        if x.shape not in compiled:
            network = core.read_model(str(model))
            network.reshape(x.shape)
            compiled[x.shape] = core.compile_model(network, "CPU", hints).create_infer_request()
        return compiled[x.shape].infer([x])[0].copy()

    return run


TARGETS: dict[str, Callable[[Path, int], Run]] = {"onnxruntime": on_onnxruntime, "openvino": on_openvino}


@dataclass(frozen=True)
class Case:
    """A model file and samples; ``calib`` is a file of the calibration samples alone."""

    name: str
    model: Path
    calib: Path
    test: Array
    labels: Array


def case_of(name: str, model: Path, calib: Path, test: Path, counts: tuple[int, int], folder: Path) -> Case:
    key, limited = onnx.load(model).graph.input[0].name, folder / f"calib_{counts[0]}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(calib) as arrays:
        np.savez(limited, **{name: arrays[name][: counts[0]] for name in (key, "labels")})
    with np.load(test) as arrays:
        return Case(name, model, limited, arrays[key][: counts[1]], arrays["labels"][: counts[1]])


def with_outlier(source: Path, factor: float, output: Path) -> str:
    """The same function, with the first filter of a weight ``factor`` times as large; name of the weight."""
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
    return str(node.inputs[1].name)


def stressed(case: Case, settings: argparse.Namespace, folder: Path) -> Case:
    """``case`` with an outlier, and pruned, as ``settings`` ask for."""
    if settings.outlier:
        model = folder / "outlier.onnx"
        weight = with_outlier(case.model, settings.outlier, model)
        case = replace(case, name=f"{case.name}, outlier x{settings.outlier:g}", model=model)
    if settings.prune:
        options = Pruning(settings.prune, saliency="fisher", compensate=True, min_width=0.1)
        model = folder / "pruned.onnx"
        pruned = prune_file(case.model, model, options, data=str(case.calib))
        case = replace(case, name=f"{case.name}, {pruned.units} of {pruned.prunable} units removed", model=model)
        if settings.outlier:
            removed = pruned.channels.removed_slices(pruned.plan).get(weight, {}).get(0, ())
            case = replace(case, name=f"{case.name}, the outlier {'' if 0 in removed else 'not '}among them")
    return case


def limited(seconds: int) -> None:
    """Let this process end after so much of the processor's time."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def made(
    case: Case, quantizer: str, target: str, python: str, folder: Path, seconds: int = 0
) -> tuple[Path, dict[str, float]] | str:
    """The quantizer's model and cost, or why there is none; it may take so many ``seconds``, or any number."""
    told = quantizer.startswith(("ours", "NNCF"))  # for which target; the others make one model for all
    native = target == "openvino" and quantizer.startswith("NNCF")
    folder = folder / (target if told else "any")
    folder.mkdir(exist_ok=True)
    output = folder / f"{quantizer.replace(' ', '_')}{'.xml' if native else '.onnx'}"
    report = output.with_suffix(".json")
    if not report.is_file():
        command = [python, str(TOOL), quantizer, target, *map(str, (case.model, case.calib, output))]
        before = partial(limited, seconds) if seconds else None
        run = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=before)
        if run.returncode in (-signal.SIGXCPU, -signal.SIGKILL) and seconds:
            return f"did not end in {seconds} s of the processor"
        failed = run.returncode or not output.is_file()
        said = (run.stderr if failed else run.stdout).strip().splitlines() or [f"no output, code {run.returncode}"]
        if failed:
            return said[-1][:110]
        report.write_text(said[-1])
    return output, json.loads(report.read_text())


def loaded(target: str, path: Path, threads: int, x: Array) -> Run | str:
    """The model on a target, once it has run there; or why it does not."""
    try:
        run = TARGETS[target](path, threads)
        run(x)
    except Exception as e:
        return (str(e).strip().splitlines() or [type(e).__name__])[-1][:110]
    return run


def speedups(runs: Mapping[str, Run], x: Array) -> dict[str, float]:
    latencies = measure({name: SimpleNamespace(run=run) for name, run in runs.items()}, x)  # float first
    return {name: latency.speedup for name, latency in latencies.items()}


def logits(run: Run, test: Array) -> Array:
    parts = (test[i : i + 25].astype(np.float32) for i in range(0, len(test), 25))
    return np.concatenate([run(x) for x in parts]).astype(np.float64)


def log_softmax(z: Array) -> Array:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def interval(first: Array, second: Array) -> str:
    drop = paired_drop(first.astype(np.float64), second.astype(np.float64))
    verdict = "" if drop.low <= 0 <= drop.high else "*"
    return f"{100 * drop.drop:+6.2f} ({100 * drop.low:+.2f} to {100 * drop.high:+.2f}){verdict}"


def quality(want: Array, have: Array, best: Array, labels: Array) -> str:
    """Columns of one row: ``want`` are the float model's logits, ``best`` those of ours."""
    p, q = log_softmax(want), log_softmax(have)
    right = {name: z.argmax(1) == labels for name, z in (("want", want), ("have", have), ("best", best))}
    divergence = (np.exp(p) * (p - q)).sum(1).mean()
    noise = 10 * np.log10(np.square(want).sum() / max(np.square(want - have).sum(), 1e-30))
    columns = [interval(right["want"], right["have"]), interval(right["best"], right["have"])]
    return f"| {columns[0]} | {columns[1]} | {divergence:.5f} | {noise:.1f} "


def bench(case: Case, target: str, interpreters: Mapping[str, str], settings: argparse.Namespace, folder: Path) -> None:
    """Print one table."""
    x = case.test[:1].astype(np.float32)
    models = {name: made(case, name, target, python, folder, settings.seconds) for name, python in interpreters.items()}
    costs = {name: value[1] for name, value in models.items() if not isinstance(value, str)}
    opened = {n: v if isinstance(v, str) else loaded(target, v[0], settings.threads, x) for n, v in models.items()}
    runs = {name: run for name, run in opened.items() if not isinstance(run, str)}
    print(f"\n{case.name} on {target}, {len(case.test)} test samples\n")
    print("| | speed | size | MiB | s |" + ("" if settings.brief else " drop | ours - it | KL | SQNR |"))
    print("|---" * (5 if settings.brief else 9) + "|")
    speed = speedups(runs, x)
    answers = {} if settings.brief else {name: logits(run, case.test) for name, run in runs.items()}
    best = answers.get(OURS[0], next((z for name, z in answers.items() if name.startswith("ours")), None))
    for name, run in opened.items():
        if isinstance(run, str):
            print(f"| {name} | {run} |")
            continue
        size = models[name][0].stat().st_size / case.model.stat().st_size
        row = (
            f"| {name} | {speed[name]:.2f} | {size:.2f} | {costs[name]['peak_mib']:.0f} | {costs[name]['seconds']:.0f} "
        )
        more = "" if best is None else quality(answers["fp32"], answers[name], best, case.labels)
        print(f"{row}{more}|", flush=True)


def memory(case: Case, interpreters: Mapping[str, str], folder: Path) -> None:
    """Print what calibration takes beside the model's own inference."""
    base = 0.0
    print(f"\n{case.name}\n\n| | peak MiB | over inference | s |\n|---|---|---|---|")
    for name, python in interpreters.items():
        value = made(case, name, "onnxruntime", python, folder)
        if isinstance(value, str):
            print(f"| {name} | {value} |")
            continue
        base = base or value[1]["peak_mib"]
        peak = value[1]["peak_mib"]
        print(f"| {name} | {peak:.0f} | {peak - base:+.0f} | {value[1]['seconds']:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs=4, action="append", required=True, metavar=("NAME", "MODEL", "CALIB", "TEST"))
    parser.add_argument("--peers", help="Python of the environment of `make peers`")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--only", nargs="+", help="these quantizers, by their names in quantization_peers.py")
    parser.add_argument("--calib-samples", type=int, default=500)
    parser.add_argument("--test-samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=0, help="0 takes the choice of each runtime")
    parser.add_argument("--seconds", type=int, default=0, help="a quantizer may take, of the processor")
    parser.add_argument("--brief", action="store_true", help="no accuracy")
    parser.add_argument("--memory", action="store_true", help="peak memory alone")
    parser.add_argument("--outlier", type=float, help="stress: one filter so many times as large")
    parser.add_argument("--prune", type=float, help="share of the units to remove first")
    parser.add_argument("--cache", type=Path, default=Path("build/quantized"))
    settings = parser.parse_args()
    chosen = settings.only or [*OURS, *PEERS]
    interpreters = {"fp32": sys.executable} | {
        name: sys.executable if name.startswith("ours") else settings.peers or "no-peers" for name in chosen
    }
    for name, *paths in settings.row:
        facts = [f"{v:g}" for v in (settings.calib_samples, settings.outlier, settings.prune) if v]
        folder = settings.cache / "_".join([name, *facts])
        case = case_of(name, *map(Path, paths), (settings.calib_samples, settings.test_samples), folder)
        case = stressed(case, settings, folder)
        if settings.memory:
            memory(case, interpreters, folder)
            continue
        for target in settings.targets:
            bench(case, target, interpreters, settings, folder)


if __name__ == "__main__":
    main()
