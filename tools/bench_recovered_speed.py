"""What recovery adds to the speed inside the budget: against the number of unlabelled images, and the time to train.

    python models/cifar10.py --source FILE
    python tools/bench_recovered_speed.py MODEL --source FILE [--counts 500 2000 45000] [--seconds 600] [-o FOLDER]

MODEL is a network of ``models/train.py --data cifar10``, FILE what it was trained on. For each count, ``hqp optimize
--recover auto --recover-time SECONDS --threads 1`` with so many images of the training split, without their labels; the
budget holds on the validation images. A row has what the search found without training, and the recovered model, both
timed in turn beside the original: the speed, the share of units removed, and the drop in points on test images that no
step saw.

Seconds of training are the processor's, so what else the machine does hardly matters to them. A run that was
interrupted goes on; one that is there is only printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from hqp_onnx.allocation import search
from hqp_onnx.job import allocation, judge
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report, Row
from hqp_onnx.model import open_model
from hqp_onnx.passes import recover
from hqp_onnx.recovery import trainer
from hqp_onnx.steps.optimize import optimize

sys.path.append(str(Path(__file__).parents[1] / "models"))


def by_the_processor() -> None:
    """Let whatever ends with its time count the processor's; latencies stay those of the clock."""
    for module in (trainer, recover, allocation, search):
        module.perf_counter = time.process_time
    judge.time = SimpleNamespace(perf_counter=time.process_time)


def cells(row: Row | None) -> tuple[str, ...]:
    """Of a model: speed, share of units and MACs removed, drop."""
    if row is None:
        return "none", "", ""
    interval = f"({100 * row.drop_low:+.2f} to {100 * row.drop_high:+.2f})" if row.drop_low is not None else ""
    return f"{row.speedup:.2f}x", f"{100 * row.sparsity:.1f}", f"{100 * row.drop:+.2f} {interval}"


def line(count: int, seconds: float, report: Report) -> str:
    trained = [trial for trial in report.trials if trial.trained]
    spent = f"{len(trained)} in {sum(trial.seconds for trial in trained):.0f} s"
    found = (*cells(report.rows.get("hqp")), *cells(report.rows.get("recovered")))
    return f"| {count} | {seconds:g} | {' | '.join(found)} | {spent} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000, 45_000])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--max-drop", type=float, default=0.015)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/recovered_speed"))
    args = parser.parse_args()
    import cifar10

    parts = cifar10.split(args.source)
    name, folder = open_model(args.model).graph.inputs[0].name, args.output / args.model.stem
    val, test = ({name: parts[part][0], "labels": parts[part][1]} for part in ("val", "test"))
    by_the_processor()
    print(f"{args.model.stem}, {100 * args.max_drop:g} points, one thread\n")
    print("| images | s | without recovery | units % | drop on test | recovered | units % | drop on test | trained |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for count in args.counts:
        calib, output = {name: np.ascontiguousarray(parts["train"][0][:count])}, folder / f"{count}-{args.seconds:g}"
        options = Options(
            args.model,
            calib,
            val,
            output,
            test=test,
            max_drop=args.max_drop,
            threads=1,
            recover="auto",
            recover_time=args.seconds,
            resume=True,
        )
        print(line(count, args.seconds, optimize(options)), flush=True)


if __name__ == "__main__":
    main()
