"""Paired intervals of metrics that are no means, beside a bootstrap by brute force of raw outputs.

    python tools/check_intervals.py            # the table of docs/metrics.md, a few minutes

For a bundled task of each metric, the original and the same model pruned are judged on the same samples. hqp's interval
of the drop is made from statistics of the samples. Here, samples are drawn anew, with other random numbers, and the
whole metric is computed from what both models gave for them, in numpy and pycocotools (`tools/bench_tasks.py`); of
`map`, which is slow, 200 times at most.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from bench_tasks import ROOT, TASKS, Array, detections, outputs_of

import hqp_onnx
from hqp_onnx.evaluation.metrics import evaluate, load_metric
from hqp_onnx.model import open_data, open_model
from hqp_onnx.runtimes.session import Session

CHOSEN = ("segments", "objects", "tags", "signals")
Redrawn = Callable[[Array], float]


def redrawn_map(file: Path, outputs: dict[str, Array], rows: Array) -> Redrawn:
    """AP of images that may be there several times: pycocotools matches once, and accumulates anew."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(detections(outputs, rows)), "bbox")
        judge.params.imgIds = [int(image) for image in rows]
        judge.evaluate()
    matched, count = judge.evalImgs, len(rows)

    def value(draw: Array) -> float:
        judge.evalImgs = [matched[at + image] for at in range(0, len(matched), count) for image in draw]
        judge._paramsEval.imgIds = judge.params.imgIds = list(range(len(draw)))
        with contextlib.redirect_stdout(io.StringIO()):
            judge.accumulate()
            judge.summarize()
        return float(judge.stats[0])

    return value


def row(name: str, folder: Path, options: argparse.Namespace) -> str:
    bench, at, count = TASKS[name], folder / name, options.samples
    made = ["models/task_data.py", name, str(at), "--samples", str(count)]
    subprocess.run([sys.executable, *made], cwd=ROOT, check=True)
    original = ROOT / "models" / "tasks" / f"{name}.onnx"
    pruned = folder / f"{name}.onnx"
    onnx.save(hqp_onnx.prune(original, options.share), pruned)
    model, metric = open_model(original), load_metric(bench.metric)
    targets = at / bench.data[2]
    data = open_data(model, hqp_onnx.Reading(at / bench.data[0], targets=targets), metric=metric)
    before, after = (evaluate(Session(path), data, metric) for path in (original, pruned))
    start = time.perf_counter()
    found = before.drop_to(after)
    seconds = time.perf_counter() - start
    feeds, wanted = bench.read(at)
    rows, rng = np.arange(count), np.random.default_rng(1)
    outputs = [outputs_of(path, feeds, rows) for path in (original, pruned)]
    if isinstance(wanted, Path):
        each = [redrawn_map(wanted, values, rows) for values in outputs]
    else:
        each = [
            lambda draw, values=values: bench.judge({k: x[draw] for k, x in values.items()}, wanted[draw], draw)
            for values in outputs
        ]
    sign = -1 if bench.metric == "rmse" else 1
    whole = sign * (each[0](rows) - each[1](rows))
    draws = [
        rng.integers(0, count, count) for _ in range(min(options.draws, 200) if name == "objects" else options.draws)
    ]
    drops = [sign * (each[0](draw) - each[1](draw)) for draw in draws]
    low, high = np.quantile(drops, (0.025, 0.975))
    off = max(abs(found.low - low), abs(found.high - high)) / (high - low)
    return (
        f"| {bench.metric} | {before.metric:.4f}, {after.metric:.4f} | {found.drop:.4f} | {whole:.4f} "
        f"| {found.low:.4f} to {found.high:.4f} | {low:.4f} to {high:.4f} | {100 * off:.0f} % | {seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*CHOSEN, []], help="all, if none is named")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.15, help="of the units that is removed")
    options = parser.parse_args()
    removed = f"{100 * options.share:g} % of the units removed"
    print(f"{options.samples} samples, {options.draws} draws by brute force, {removed}\n")
    print("| metric | original, pruned | drop | by brute force | 95 % interval | by brute force | ends differ by | s |")
    print(f"|{'---|' * 8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.tasks or CHOSEN:
            print(row(name, Path(folder), options), flush=True)


if __name__ == "__main__":
    main()
