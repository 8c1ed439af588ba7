"""Widths and bits of weights together: how small a model gets inside a budget, by two steps and by a search over both.

    python tools/bench_bits.py --row resnet18 models/resnet18.onnx models/fashion_mnist_calib.npz \
        models/fashion_mnist_val.npz models/fashion_mnist_test.npz

``hqp optimize --objective size --precision int4`` takes two steps: as many units are removed as the budget allows in
float32, and then either fewer units with all weights in INT4, or as many with some weights in INT8, whichever is
smaller. This command runs it, and then a joint search: for --points numbers of units between these two ends, as few
weights in INT8 as the budget allows there (bisection over the order of what INT4 costs the loss). Below, INT4 costs the
budget nothing, and the model only grows; above, it is outside in float32. The table has the bytes of every model inside
the budget, and its drop on the validation data, which the budget is held on. Every verdict is in the ledger under -o,
so a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job import precision
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.options import Options
from hqp_onnx.job.path import Path as PlanPath
from hqp_onnx.job.search import bisect_from
from hqp_onnx.job.setup import Setup
from hqp_onnx.steps.optimize import optimize

Choice = tuple[Candidate, int]
ROW = "| {} | {:.1f} | {} | {:.1f} | {:+.2f} |"


def line(judge: Judge, name: str, candidate: Candidate) -> str:
    """Of one model: units removed in %, weights in INT8, kB, drop in points."""
    size, trial = to_proto(judge.models.graph(candidate)).ByteSize(), judge.trial(candidate)
    lost = 100 * judge.budget.baseline.metric - 100 * (trial.metric or 0.0)
    return ROW.format(name, 100 * trial.sparsity, len(candidate.floats), size / 1e3, lost)


def _admits(judge: Judge, candidates: Sequence[Candidate], number: int) -> bool:
    return judge.admits(candidates[number])


def joint(points: int) -> Callable[..., Choice | None]:
    """``precision.admissible``, which prints its choices and those in between."""
    two_steps = precision.admissible

    def admissible(
        setup: Setup, ledger: Ledger, judge: Judge, path: PlanPath, removed: int, wanted: Candidate, threads: int
    ) -> Choice | None:
        found = two_steps(setup, ledger, judge, path, removed, wanted, threads)
        fewer = [*path.up_to(removed), removed]
        all_four = [replace(wanted, plan=path.plan(count)) for count in fewer]
        last = len(fewer) - 1
        admits = partial(_admits, judge, all_four)
        back = last if admits(last) else bisect_from(last - 1, last - 1, 1, admits)
        print(
            f"all weights in INT4 are inside the budget up to {100 * judge.sparsity(all_four[back]):.1f} %", flush=True
        )
        print("\n| search | units removed % | in INT8 | kB | drop on the validation data |\n|---|--:|--:|--:|--:|")
        if found is not None:
            print(line(judge, "two steps", found[0]), flush=True)
        for number in np.unique(np.linspace(back, last, points + 2).round().astype(int)).tolist():
            like = all_four[number]
            spared = like if judge.admits(like) else precision._spared(setup, ledger, judge, like)
            if judge.admits(spared):
                print(line(judge, "joint", spared), flush=True)
        return found

    return admissible


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--row", nargs=5, action="append", required=True, metavar=("NAME", "MODEL", "CALIB", "VAL", "TEST")
    )
    parser.add_argument("--max-drop", type=float, default=0.015)
    parser.add_argument("--points", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bits"))
    args = parser.parse_args(arguments)
    precision.admissible = joint(args.points)
    for name, model, calib, val, test in args.row:
        print(f"\n{name}, {100 * args.max_drop:g} points", flush=True)
        chosen = {"objective": "size", "precision": "int4", "max_drop": args.max_drop, "threads": args.threads}
        folder = args.output / name
        report = optimize(Options(Path(model), calib, val, folder, test=test, resume=folder.exists(), **chosen))
        row = report.rows[report.ships]
        print(f"\nships {report.ships}: {row.bytes / 1e3:.1f} kB, drop on test {100 * row.drop:+.2f}", flush=True)


if __name__ == "__main__":
    main()
