"""Cost of exact per-sample Fisher scores, as a multiple of plain onnxruntime inference, and how the engines agree.

    python tools/bench_gradients.py                    the bundled models
    python tools/bench_gradients.py --large            ResNet-18, MobileNetV3-Large, EfficientNet-Lite0 at 224 x 224
    python tools/bench_gradients.py --models a.onnx --data a.npz

Engines, in turn, on the same samples (the slow ones on the first ``--slow`` of them; times are per sample):

    plain          inference by onnxruntime, in the batches of ``native``: the unit
    native         hqp_onnx.gradients, in batches
    ort-training   onnxruntime-training at batch 1, where `hqp setup training` installed it
    torch          autograd at batch 1, and vmap(grad): the same graph run by tests/gradients/onnx_in_torch.py

Times are medians over ``--repeats`` rounds after an unmeasured one. Peak memory is that of a process that does nothing
else, its worker included. Differences are those of the mean scores, relative to the largest of each weight, to torch
in float64 and to ``native``: float32 that lands on the other side of a kink (Relu, Clip) than float64 shows in the
first, in whatever engine. The profile is one batch of ``native``: the kernels of its forward part, its backward part
and the norms of each layer, as multiples of the kernels of plain inference.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import re
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.data.sources import open_dataset
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.runtimes.session import Session, onnxruntime

ROOT = Path(__file__).parents[1]
BUNDLED = [ROOT / "models" / f"{name}.onnx" for name in ("resnet18", "mobilenet_v3_small")]
sys.path.insert(0, str(ROOT / "tools"))
from bench_engines import ENGINES, SLOW, Arrays, Case, available  # noqa: E402


def seconds(case: Case, names: list[str], batch: int, args: argparse.Namespace) -> tuple[dict, dict[str, Arrays]]:
    """Median (wall, CPU) seconds a sample of each engine, and what each found for the first samples."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    norms: dict[str, Arrays] = {}
    opened = {name: ENGINES[name](case, batch, args.threads) for name in names}
    runs = {name: engine.__enter__() for name, engine in opened.items()}
    for _ in range(args.repeats + 1):
        for name, run in runs.items():
            rows = case.first(args.slow) if name in SLOW else case
            wall, cpu = time.perf_counter(), time.process_time()
            norms[name] = run(rows.feeds, rows.labels)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((spent[0] / len(rows.labels), spent[1] / len(rows.labels)))
    for engine in opened.values():
        engine.__exit__(None, None, None)
    return {name: tuple(map(statistics.median, zip(*seen[1:], strict=True))) for name, seen in times.items()}, norms


def peak(name: str, case: Case, batch: int, threads: int) -> float:
    """MB at most in this process and its worker."""
    with ENGINES[name](case, batch, threads) as run:
        run(case.feeds, case.labels)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include what the parent held when it forked
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return (own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def exact(case: Case) -> Arrays | None:
    """Norms by torch in float64, if it is installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch
    from gradients.onnx_in_torch import filter_norms, sample_gradients

    model = onnx.load(case.path)
    axes = filter_weights(model)
    return filter_norms(sample_gradients(model, case.feeds, case.labels, list(axes), torch.float64), axes)


def difference(norms: Arrays, wanted: Arrays | None, count: int) -> str:
    """Worst relative difference of the mean scores of the first ``count`` samples."""
    if wanted is None:
        return ""
    means = {name: x[:count].mean(0) for name, x in wanted.items()}
    return f"{max(np.abs(norms[name][:count].mean(0) - x).max() / x.max() for name, x in means.items()):.1e}"


def profile(model: onnx.ModelProto, feeds: Arrays, threads: int) -> dict[tuple[str, str], float]:
    """Milliseconds of each (node, operator): the fastest of four runs."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.enable_profiling = 3, threads, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model.SerializeToString(), options)
        for _ in range(4):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    best: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            best[key] = min(best.get(key, np.inf), event["dur"] / 1e3)
    return best


def parts(net: PerSample, original: onnx.ModelProto) -> dict[str, str]:
    """Part of each appended node: "backward", or the norm's weight where only that norm needs it."""
    old = {name for node in original.graph.node for name in node.output}
    makers = {name: node for node in net.model.graph.node for name in node.output if name not in old}
    readers: dict[str, set[str]] = {}
    for weight, output in net._outputs.items():
        stack = [output]
        while stack:
            node = makers.get(stack.pop())
            if node is not None and weight not in readers.setdefault(node.name, set()):
                readers[node.name].add(weight)
                stack += node.input
    return {name: next(iter(some)) if len(some) == 1 else "backward" for name, some in readers.items()}


def print_profile(case: Case, threads: int) -> None:
    """Where the time of one batch goes."""
    model = onnx.load(case.path)
    net = PerSample(model, case.feeds, threads=threads)
    few = case.first(net.batch)
    best = profile(net.model, {**few.feeds, net.model.graph.input[-1].name: few.labels}, threads)
    part_of = parts(net, model)
    sums: Counter[str] = Counter()
    ops: Counter[str] = Counter()
    for (node, op), milliseconds in best.items():  # onnxruntime adds to the names of nodes that it rewrites
        appended = re.search(r"hqp\._*\d+", node)
        sums[part_of.get(appended[0], "backward") if appended else "forward"] += milliseconds
        ops[op] += milliseconds
    unit = sum(profile(model, few.feeds, threads).values())
    norms = Counter({name: value for name, value in sums.items() if name not in ("forward", "backward")})
    print(
        f"\nprofile, batch {len(few.labels)}: plain {unit:.1f} ms = 1, forward {sums['forward'] / unit:.2f}, "
        f"backward {sums['backward'] / unit:.2f}, ",
        end="",
    )
    print(f"norms {norms.total() / unit:.2f}, all {sums.total() / unit:.2f}")
    print("dearest norms: " + ", ".join(f"{name} {value / unit:.2f}" for name, value in norms.most_common(6)))
    print("operators: " + ", ".join(f"{op} {value / unit:.2f}" for op, value in ops.most_common(9)))


def bench(case: Case, args: argparse.Namespace) -> None:
    """Print all about one model."""
    names = available()
    batch = args.batch or PerSample(onnx.load(case.path), case.feeds, threads=args.threads).batch
    times, norms = seconds(case, names, batch, args)
    reference = exact(case.first(args.slow))
    few = case.first(min(len(case.labels), 2 * batch))
    print(f"\n### {case.path.stem}: {len(case.labels)} samples, batches of {batch}, {args.threads or 'all'} threads\n")
    print(
        "| engine | ms / sample | x plain | CPU ms | x plain | peak MB | to float64 | to native |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    context = multiprocessing.get_context("spawn")
    for name in names:
        with context.Pool(1) as pool:
            rows = case.first(args.slow) if name in SLOW else few
            megabytes = pool.apply(peak, (name, rows, batch, args.threads))
        wall, cpu = times[name]
        used = "" if name == "ort-training" else f"{cpu * 1e3:.2f} | {cpu / times['plain'][1]:.1f}"
        wanted = (reference, norms["native"]) if name != "plain" else (None, None)
        worst = " | ".join(difference(norms[name], arrays, args.slow) for arrays in wanted)
        ratio = wall / times["plain"][0]
        print(f"| {name} | {wall * 1e3:.2f} | {ratio:.1f} | {used or ' | '} | {megabytes:.0f} | {worst} |")
    print_profile(case, args.threads)


def from_files(model: Path, data: Path, count: int) -> Case:
    """The first ``count`` samples of a data file."""
    batch = open_dataset(str(data), Session(model).inputs, limit=count).rows(0, count)
    return Case(model, dict(batch.feeds), np.asarray(batch.labels))


def exported(folder: Path, args: argparse.Namespace) -> Iterator[Case]:
    """The large networks; they need torch."""
    from bench_networks import export, images

    x, labels = images(args.samples)
    for path in export(folder, args.large):
        yield Case(path, {"input": x}, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", default=BUNDLED)
    parser.add_argument("--data", type=Path, default=ROOT / "models" / "fashion_mnist_calib.npz")
    parser.add_argument("--large", nargs="*", metavar="NAME", help="the networks at 224 x 224 instead (needs torch)")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--slow", type=int, default=16, help="samples of the slow engines")
    parser.add_argument("--batch", type=int, default=0, help="0: what native chooses")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = (from_files(model, args.data, args.samples) for model in args.models)
        for case in files if args.large is None else exported(Path(folder), args):
            bench(case, args)


if __name__ == "__main__":
    main()
