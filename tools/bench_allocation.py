"""What each part of the allocation of widths is worth: the same job without it, or with another in its place.

    python tools/bench_allocation.py [MODEL] [--calib DATA --val DATA --test DATA] [--max-drop 0.015] [--threads N]
                                     [--variants default macs ...] [-o FOLDER] [--page FILE.md]

Default: the bundled models and data. One job after the other; then all that they ship are timed in turn, each on the
threads that it is fastest on, and on one. Drops are on the validation data, which the budget binds, and on test data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from result_page import recorded, result_parser

from hqp_onnx.allocation import times
from hqp_onnx.allocation.times import WidthTimes
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.job import allocation, timing
from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report
from hqp_onnx.model import open_session
from hqp_onnx.runtimes.machine import processor, thread_counts
from hqp_onnx.steps.optimize import optimize
from hqp_onnx.timing import fit
from hqp_onnx.timing.table import TimeTable

ROOT = Path(__file__).parents[1] / "models"
Patch = Callable[[], Any]


class FirstTable(WidthTimes):
    """Only one of the tables."""

    def tables(self) -> list[TimeTable]:
        """The one that predicts best."""
        return super().tables()[:1]


def unrefined(*arguments: Any) -> Any:
    """No choices but those of the path."""
    *_, choices, last = arguments
    return [], choices[last:]


def raw_curves(groups: Any, measure: Any, progress: Any) -> list[np.ndarray]:
    """What the ranking says, in place of what is measured."""
    return [group.costs / max(sum(g.costs[-1] for g in groups.groups), 1e-30) for group in groups.groups]


@dataclass(frozen=True)
class Variant:
    """Options, and parts of the program that others stand for."""

    words: str
    options: dict[str, Any] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()


VARIANTS = {
    "default": Variant("all parts"),
    "counted": Variant(
        "multiply-accumulates in place of measured times",
        patches=(partial(patch.object, times, "TELLING", 0.0),),
    ),
    "linear": Variant(
        "times linear in each width, without products",
        patches=(partial(patch.object, fit, "combinations", lambda *_: ()),),
    ),
    "raw": Variant(
        "loss curves as the ranking has them",
        patches=(partial(patch.object, allocation, "measured_curves", raw_curves),),
    ),
    "no-refinement": Variant(
        "without a refinement of the last plan", patches=(partial(patch.object, allocation, "_refined", unrefined),)
    ),
    "one-round": Variant(
        "one round of refinement", patches=(partial(patch.object, allocation, "REFINEMENT_SECONDS", 0.0),)
    ),
    "one-table": Variant(
        "the better table of times in place of both", patches=(partial(patch.object, timing, "WidthTimes", FirstTable),)
    ),
    "refit-once": Variant("one refit, from the original's features", {"refit": "once"}),
    "first-times": Variant("times only in the way that is fastest at half the widths"),
    "fp32-times": Variant("times in float32 only, precision chosen afterwards"),
    "int8-times": Variant("times in INT8 only"),
    "all-threads": Variant("times on the runtime's number of threads only"),
    "unaligned": Variant("widths of any number", {"multiple_of": 1}),
    "aligned-8": Variant("widths multiples of 8", {"multiple_of": 8}),
    "aligned-32": Variant("widths multiples of 32", {"multiple_of": 32}),
    "fisher": Variant("units ranked by Fisher", {"saliency": "fisher"}),
    "l2": Variant("units ranked by L2", {"saliency": "l2"}),
    "macs": Variant("in one order, obs per MAC", {"objective": "macs"}),
    "size": Variant("in one order, obs per parameter", {"objective": "size"}),
    "sparsity": Variant("in one order, by obs", {"objective": "sparsity"}),
    "sparsity-fisher": Variant("in one order, by Fisher", {"objective": "sparsity", "saliency": "fisher"}),
}


def timed_once(precision: Precision | None = None, threads: int | None = None) -> tuple[Patch, ...]:
    """Patches of how models are timed while widths are chosen: in one way to the end."""
    choose = timing.choose_timing

    def chosen(*arguments: Any) -> timing.Timing:
        found = choose(*arguments)
        return timing.Timing(precision or found.precision, found.threads if threads is None else threads)

    return (
        partial(patch.object, allocation, "choose_timing", chosen),
        partial(patch.object, allocation, "retimed", lambda *_: None),
    )


TIMED_ONCE = {
    "first-times": timed_once(),
    "fp32-times": timed_once(Precision.FP32),
    "int8-times": timed_once(Precision.INT8),
    "all-threads": timed_once(threads=0),
}


@contextmanager
def patched(name: str) -> Iterator[None]:
    """The parts of a variant in place."""
    with ExitStack() as stack:
        for make in (*VARIANTS[name].patches, *TIMED_ONCE.get(name, ())):
            stack.enter_context(make())
        yield


def shipped_times(model: Path, reports: dict[str, Report], target: str, threads: int) -> dict[str, dict[int, float]]:
    """Speed-up over the input of what each ships, by number of threads (0 for the best), in turn in one run."""
    counts = [threads] if threads else sorted({1, *thread_counts()}, key=lambda count: count or 1 << 20)
    files = {"input": model, **{name: Path(report.shipped) for name, report in reports.items()}}
    sessions = {f"{name} {n}": open_session(file, target, n) for name, file in files.items() for n in counts}
    (spec,) = open_session(model, target).inputs
    shape = [1, *(size or 1 for size in spec.shape[1:])]
    feeds = {spec.name: np.random.default_rng(0).uniform(0, 1, shape).astype(spec.dtype)}
    found = measure(sessions, feeds, 20.0)
    base = max(found[f"input {n}"].speedup for n in counts)
    return {
        name: {
            0: max(found[f"{name} {n}"].speedup for n in counts) / base,
            1: found[f"{name} {counts[0]}"].speedup / found[f"input {counts[0]}"].speedup,
        }
        for name in reports
    }


def jobs(options: Options, names: list[str], folder: Path) -> dict[str, Report]:
    """The report of each variant."""
    reports: dict[str, Report] = {}
    for name in names:
        with patched(name):
            output = folder / name
            reports[name] = optimize(replace(options, output=output, resume=output.exists(), **VARIANTS[name].options))
        report = reports[name]
        row = report.rows[report.ships]
        print(f"{name}: {report.ships}, {row.speedup:.2f}x, {report.metric.change(row.val_drop)}", flush=True)
    return reports


def print_table(model: Path, reports: dict[str, Report], target: str, threads: int) -> None:
    speeds = shipped_times(model, reports, target, threads)
    first = next(iter(reports.values()))
    print(f"\n## {model.stem}, {first.metric.limit(first.max_drop)}, {target}, {processor()}\n")
    print("| variant | | speed-up | one thread | drop (validation) | drop (test) | times predicted within | seconds |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name, report in reports.items():
        row, q = report.rows[report.ships], report.metric
        error = next((note.rsplit(" within ", 1)[1] for note in report.notes if "predicted within" in note), "")
        cells = [name, VARIANTS[name].words, f"{speeds[name][0]:.2f}x", f"{speeds[name][1]:.2f}x"]
        cells += [q.worse(row.val_drop, "+"), q.worse(row.drop, "+"), error, f"{sum(report.seconds.values()):.0f}"]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = result_parser(__doc__)
    parser.add_argument("model", nargs="*", type=Path, default=sorted(ROOT.glob("*.onnx")))
    for part in ("calib", "val", "test"):
        parser.add_argument(f"--{part}", default=str(ROOT / f"fashion_mnist_{part}.npz"))
    parser.add_argument("--max-drop", type=float, default=0.015)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument(
        "--threads", type=int, default=0, help="of the runtime, in all jobs; default: the best for each"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("-o", "--output", type=Path, default=Path("build/allocation"))
    chosen = parser.parse_args()
    with recorded(chosen.page, "What each part of the choice of widths is worth"):
        print_all(chosen)


def print_all(chosen: argparse.Namespace) -> None:
    """The table of every model."""
    for model in chosen.model:
        options = Options(
            model,
            chosen.calib,
            chosen.val,
            chosen.output,
            test=chosen.test,
            max_drop=chosen.max_drop,
            target=chosen.target,
            threads=chosen.threads,
        )
        reports = jobs(options, chosen.variants, chosen.output / model.stem)
        print_table(model, reports, chosen.target, chosen.threads)


if __name__ == "__main__":
    main()
