"""Cost of exact per-sample Fisher scores, as a multiple of plain inference, and their error against torch.

    python tools/bench_fisher.py models/resnet18.onnx models/mobilenet_v3_small.onnx \
        --data models/fashion_mnist_calib.npz --samples 512

Plain inference and Fisher take turns on the same samples; the ratio is that of the medians. Wall time is what a user
waits; CPU time is steadier on a shared machine. The table by operator is the profile of one batch. The last line
compares the scores of a few samples with torch autograd at batch 1, if torch is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.dataset import Batch
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.runtime import Session, onnxruntime
from hqp_onnx.saliency import fisher


class Rows:
    """The first samples of an .npz file, in batches."""

    def __init__(self, path: Path, inputs: list[str], count: int, batch: int) -> None:
        with np.load(path) as data:
            self.feeds = {name: data[name][:count].astype(np.float32) for name in inputs}
            self.labels = data["labels"][:count].astype(np.int64)
        self.batch = batch

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self):
        for start in range(0, len(self), self.batch):
            part = slice(start, start + self.batch)
            yield Batch({name: x[part] for name, x in self.feeds.items()}, self.labels[part])


def in_turn(tasks: list[Callable[[], object]], repeats: int) -> list[tuple[float, float]]:
    """Median (wall, CPU) seconds of each task; the tasks alternate, after one unmeasured round."""
    times: list[list[tuple[float, float]]] = [[] for _ in tasks]
    for _ in range(repeats + 1):
        for task, seen in zip(tasks, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            seen.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [tuple(map(statistics.median, zip(*seen[1:], strict=True))) for seen in times]


def profile(model: onnx.ModelProto, feeds: dict[str, np.ndarray], threads: int) -> Counter[str]:
    """Milliseconds by operator: the faster of four runs of each node."""
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
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            key = event["name"], event["args"]["op_name"]
            best[key] = min(best.get(key, np.inf), event["dur"] / 1e3)
    total: Counter[str] = Counter()
    for (_, op), milliseconds in best.items():
        total[op] += milliseconds
    return total


def torch_error(model: onnx.ModelProto, rows: Rows) -> str:
    """Worst relative difference of the scores, relative to the largest of each weight."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from gradients.onnx_in_torch import filter_norms, sample_gradients

    axes = filter_weights(model)
    want = filter_norms(sample_gradients(model, rows.feeds, rows.labels, list(axes)), axes)
    got = fisher(model, rows)
    worst = {name: np.abs(got[name] - x.mean(0)).max() / x.mean(0).max() for name, x in want.items()}
    name = max(worst, key=worst.__getitem__)
    return f"{worst[name]:.1e} ({name}, {len(rows)} samples)"


def bench(path: Path, args: argparse.Namespace) -> None:
    """Print all about one model."""
    model = onnx.load(path)
    plain = Session(model, threads=args.threads)
    names = [spec.name for spec in plain.inputs]
    first = Rows(args.data, names, args.samples, args.samples)
    net = PerSample(model, first.feeds, threads=args.threads)
    rows = Rows(args.data, names, args.samples, net.batch)

    def infer() -> None:
        for batch in rows:
            plain.run(batch.feeds)

    def score() -> None:
        for batch in rows:
            net(batch.feeds, batch.labels)

    (plain_wall, plain_cpu), (wall, cpu) = in_turn([infer, score], args.repeats)
    print(f"{path.name}: {len(rows)} samples in batches of {net.batch}, {args.threads or 'all'} threads")
    print(f"  wall  plain {plain_wall * 1e3:8.1f} ms  fisher {wall * 1e3:8.1f} ms  ratio {wall / plain_wall:.2f}")
    print(f"  CPU   plain {plain_cpu * 1e3:8.1f} ms  fisher {cpu * 1e3:8.1f} ms  ratio {cpu / plain_cpu:.2f}")
    batch = next(iter(rows))
    extra = {net.model.graph.input[-1].name: batch.labels}
    for op, milliseconds in profile(net.model, {**batch.feeds, **extra}, args.threads).most_common(8):
        print(f"    {op:18s} {milliseconds:8.2f} ms")
    print(f"  against torch: {torch_error(model, Rows(args.data, names, 8, 8))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help=".npz with the inputs and labels")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    for path in args.models:
        bench(path, args)


if __name__ == "__main__":
    main()
