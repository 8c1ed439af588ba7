"""Accuracy against the share of units removed: plain, refitted in closed form, and other pruners; in one run.

    python tools/bench_recovery.py [--row NAME MODEL CALIB VAL TEST] [--peers PYTHON] [--ablate] [--cost]

Rows are means over ``--seeds`` calibration subsets, with half the spread; accuracy is on TEST, which nothing else sees.
theta is the share of prunable units removed; for peers, the share of channels that they were asked for, of each group
or ("global") of all. "MACs" is the share of multiply-accumulates removed. The table of budgets is what `hqp optimize`
itself ships: the largest theta inside the budget on VAL after INT8, and its drop on TEST. PYTHON has the peers:

    python -m venv build/pruners && build/pruners/bin/pip install torch==2.13.0 torch-pruning==1.6.1 onnxsim==0.8.1 \
        onnx onnxruntime pillow

Time per trial is that of one candidate; peak memory that of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.evaluation.metrics import evaluate, load_metric
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.options import Options
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.passes.recover import recover
from hqp_onnx.passes.refit_in_order import refit_in_order
from hqp_onnx.ranking.order import removal_order
from hqp_onnx.ranking.rank import rank
from hqp_onnx.ranking.removal import ridges_of
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.points import kept_positions
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics import moments
from hqp_onnx.statistics.moment_halves import halved_moments, joined
from hqp_onnx.steps.optimize import optimize

ROOT = Path(__file__).parents[1] / "models"
BUNDLED = [
    (name, ROOT / f"{name}.onnx", *(ROOT / f"fashion_mnist_{part}.npz" for part in ("calib", "val", "test")))
    for name in ("resnet18", "mobilenet_v3_small")
]
TOOL = Path(__file__).with_name("recovery_peers.py")
PEERS = (
    "onnxsim L2",
    "onnxsim Wanda",
    *(f"Torch-Pruning {k}{g}" for k in ("L2", "Taylor", "OBD-C") for g in ("", " global")),
)
MIN_WIDTH = 0.1


class Case:
    """A model with one calibration subset."""

    def __init__(self, paths: Sequence[Path], folder: Path, limit: int | None, samples: int, seed: int) -> None:
        self.path, calib, self.val, self.test_file = paths
        self.model = open_model(self.path)
        self.calib_file = folder / f"calib-{samples}-{seed}.npz"
        with np.load(calib) as arrays:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(arrays["labels"]))[:samples])
            np.savez(self.calib_file, **{name: values[chosen] for name, values in arrays.items()})
        self.calib = open_data(self.model, str(self.calib_file))
        self.test = open_data(self.model, str(self.test_file))
        self.test = self.test if limit is None else self.test.first(limit)
        self.channels = self.model.channels().restricted(branches=False)
        self.counts = cost.positions(self.model.graph, self.model.shapes)
        self._orders: dict[str, np.ndarray] = {}
        self._ridges: dict[str, dict[str, float]] = {}

    @cached_property
    def halves(self):
        """Moments of the inputs of the weights, of two halves of the samples."""
        return halved_moments(to_proto(self.model.graph), self.calib)

    @cached_property
    def moments(self):
        """Of all samples."""
        return joined(*self.halves)

    def ridges(self, saliency: str) -> dict[str, float]:
        """Those that do best where half of the units are removed."""
        if saliency not in self._ridges:
            self._ridges[saliency] = ridges_of(self.model.graph, self.channels, self.order(saliency), self.halves)
        return self._ridges[saliency]

    def order(self, saliency: str) -> np.ndarray:
        """Units in the order in which they are removed."""
        if saliency not in self._orders:
            options = {"halves": self.halves, "min_width": MIN_WIDTH} if saliency == "obs" else {}
            scores = rank(self.model.graph, self.channels, Scoring(saliency), self.calib, **options).units
            self._orders[saliency] = removal_order(scores, self.channels, MIN_WIDTH)
        return self._orders[saliency]

    def cut(self, saliency: str, theta: float, refit: Refit | None = None) -> gs.Graph:
        """The graph without a share of the units."""
        plan = PruningPlan(self.order(saliency)[: round(theta * len(self.channels.prunable))])
        return cut(self.model.graph, self.channels, plan, refit).graph

    def macs(self, graph: gs.Graph) -> float:
        """Share of the original's that is gone."""
        return 1 - cost.macs(graph, self.counts) / cost.macs(self.model.graph, self.counts)


def plain(saliency: str) -> Callable[[Case, float], gs.Graph]:
    return lambda case, theta: case.cut(saliency, theta)


def refitted(saliency: str, ridge: float | None = None) -> Callable[[Case, float], gs.Graph]:
    def make(case: Case, theta: float) -> gs.Graph:
        ridges = case.ridges(saliency) if ridge is None else dict.fromkeys(case.moments, ridge)
        return case.cut(saliency, theta, Refit(case.moments, ridges))

    return make


def in_order(case: Case, theta: float) -> gs.Graph:
    """Refitted a second time, each weight from what it then reads."""
    plan = case.cut("obs", theta)[1]
    return refit_in_order(case.model.graph, refitted("obs")(case, theta), case.channels, plan, case.calib).graph


def recovered(epochs: int) -> Callable[[Case, float], gs.Graph]:
    """Trained without labels."""

    def make(case: Case, theta: float) -> gs.Graph:
        kept = kept_positions(case.channels, case.channels.removed(case.cut("obs", theta)[1]))
        start = refitted("obs")(case, theta)
        return recover(start, case.model.graph, case.calib, Recovery(epochs), kept=kept).graph

    return make


ROWS: dict[str, Callable[[Case, float], gs.Graph]] = {
    "l2": plain("l2"),
    "fisher": plain("fisher"),
    "l2, refit": refitted("l2"),
    "fisher, refit": refitted("fisher"),
    "obs, refit": refitted("obs"),
}
RANKED = {"objective": "sparsity", "saliency": "fisher"}  # unless a row says otherwise
BUDGETS = {
    "fisher": {"compensate": False, "branches": False},
    "fisher, refit": {"branches": False},
    "fisher, refit, branches": {},
    "obs, refit": {"saliency": "obs", "branches": False},
    "obs, refit, branches": {"saliency": "obs"},
    "obs, refit, 2 epochs": {"saliency": "obs", "recover": 2, "branches": False},
    "obs, refit, branches, 2 epochs": {"saliency": "obs", "recover": 2},
    "obs, any width, refit in order, 6 epochs of flips and crops": {
        "saliency": "obs",
        "multiple_of": 1,
        "refit": "in-order",
        "recover": 6,
        "augment": ("flip", "crop"),
        "branches": False,
    },
}


@dataclass(frozen=True)
class Point:
    """Accuracy on TEST, and the share of MACs removed."""

    accuracy: float
    macs: float

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.2f} ({100 * self.macs:.0f})"


def accuracy(model: gs.Graph | Path, data: Dataset) -> float:
    session = Session(model if isinstance(model, Path) else to_proto(model))
    return evaluate(session, data, load_metric("top1")).metric


def mean(points: Sequence[Point]) -> str:
    scores = [100 * point.accuracy for point in points]
    spread = f" ±{(max(scores) - min(scores)) / 2:.2f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.2f}{spread} ({100 * np.mean([point.macs for point in points]):.0f})"


def head(first: str, columns: Sequence[object]) -> None:
    print(f"\n| {first} | {' | '.join(map(str, columns))} |\n|---|{'--:|' * len(columns)}")


def row(name: str, cells: Sequence[object]) -> None:
    print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


def curves(cases: Sequence[Case], thetas: Sequence[float]) -> None:
    head("accuracy % (MACs removed %) at theta", [f"{theta:.0%}" for theta in thetas])
    for name, make in ROWS.items():
        cells = []
        for theta in thetas:
            variants = [(case, make(case, theta)) for case in cases]
            cells.append(mean([Point(accuracy(graph, case.test), case.macs(graph)) for case, graph in variants]))
        row(name, cells)


def peers(case: Case, methods: Sequence[str], thetas: Sequence[float], python: str, folder: Path) -> None:
    head("other pruners, accuracy % (MACs removed %) at a share of channels of", [f"{theta:.0%}" for theta in thetas])
    for method in methods:
        command = [python, str(TOOL), method, str(case.path), str(case.calib_file), str(folder), *map(str, thetas)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (completed.stdout.strip().splitlines() or [""])[-1]
        results = json.loads(last) if last.startswith("[") else []
        if not results:
            row(method, [(completed.stderr.strip().splitlines() or ["no output"])[-1][:110]])
        for variant in dict.fromkeys(entry["variant"] for entry in results):
            by_share = {entry["share"]: entry for entry in results if entry["variant"] in (variant, "")}
            by_share |= {entry["share"]: entry for entry in results if entry["variant"] == variant}
            row(method + variant, [peer_point(case, by_share[theta]) for theta in thetas])


def peer_point(case: Case, entry: dict) -> Point | str:
    if "error" in entry:
        return entry["error"]
    pruned = open_model(Path(entry["file"]))
    macs = cost.macs(pruned.graph, cost.positions(pruned.graph, pruned.shapes))
    return Point(accuracy(Path(entry["file"]), case.test), 1 - macs / cost.macs(case.model.graph, case.counts))


def budgets(case: Case, folder: Path, max_drop: float, names: Sequence[str]) -> None:
    head(f"largest theta inside {100 * max_drop:g} points after INT8", ["theta %", "MACs removed %", "drop on TEST"])
    for name in names:
        options = Options(
            case.path,
            str(case.calib_file),
            str(case.val),
            folder / f"out-{name}".replace(", ", "-"),
            test=str(case.test_file),
            max_drop=max_drop,
            precision="int8",
            **{**RANKED, **BUDGETS[name]},
        )
        rows = optimize(options).rows
        shipped, base = rows.get("recovered", rows["hqp"]), rows["baseline"]
        interval = f"{100 * shipped.drop:+.2f} ({100 * shipped.drop_low:+.2f} to {100 * shipped.drop_high:+.2f})"
        row(name, [f"{100 * shipped.sparsity:.1f}", f"{100 * (1 - shipped.macs / base.macs):.1f}", interval])


def ablations(case: Case, other: Callable[[int], Case], thetas: Sequence[float], counts: Sequence[int]) -> None:
    head("ablation (obs), accuracy % (MACs removed %) at theta", [f"{theta:.0%}" for theta in thetas])
    variants = {f"lambda {ridge:g}": (case, refitted("obs", ridge)) for ridge in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}
    variants["lambda held out"] = (case, refitted("obs"))
    variants["one mixing of channels for all taps"] = (mixing(case), refitted("obs"))
    variants["refit in order"] = (case, in_order)
    variants |= {f"{count} images": (other(count), refitted("obs")) for count in counts}
    for name, (used, make) in variants.items():
        graphs = [make(used, theta) for theta in thetas]
        row(name, [Point(accuracy(graph, used.test), used.macs(graph)) for graph in graphs])


def mixing(case: Case) -> Case:
    """The case with moments of channels where there are more patches than any layer has channels."""
    other, largest = copy.copy(case), moments.LARGEST
    other._ridges = {}
    uses = moments.contractions(case.model.graph).values()
    moments.LARGEST = max(features.channels for use in uses for features in use.features)
    try:
        other.halves = halved_moments(to_proto(case.model.graph), case.calib)
        other.moments = joined(*other.halves)
    finally:
        moments.LARGEST = largest
    return other


def peak(paths: Sequence[Path], folder: Path, limit: int | None, samples: int, refit: bool) -> tuple[float, float]:
    """Seconds to make one candidate of half of the units, and the peak MiB of this process."""
    case = Case(paths, folder, limit, samples, 0)
    case.order("l2")
    chosen = Refit(case.moments, {}) if refit else None
    start = time.perf_counter()
    graph = case.cut("l2", 0.5, chosen)
    seconds = time.perf_counter() - start
    accuracy(graph, case.test)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include what the parent held when it forked
    return seconds, next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def costs(case: Case, *arguments: object) -> None:
    """Time of what is paid once, of a trial, and peak memory."""
    start = time.perf_counter()
    halved_moments(to_proto(case.model.graph), case.calib)
    once = time.perf_counter() - start
    start = time.perf_counter()
    accuracy(case.model.graph, case.test)
    evaluation = time.perf_counter() - start
    head("cost", ["candidate s", "evaluation s (TEST, original)", "once s", "peak MiB"])
    for refit in (False, True):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, memory = pool.apply(peak, (*arguments, refit))
        cells = [f"{seconds:.2f}", f"{evaluation:.2f}", f"{once:.1f}" if refit else "0", f"{memory:.0f}"]
        row("refit" if refit else "plain", cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs=5, action="append", metavar=("NAME", "MODEL", "CALIB", "VAL", "TEST"))
    parser.add_argument("--thetas", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000, help="calibration samples of a subset")
    parser.add_argument("--test-samples", type=int, help="of TEST for curves; default: all")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 300, 1000, 2000], help="samples, for --ablate")
    parser.add_argument("--max-drop", type=float, default=0.015)
    parser.add_argument("--methods", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--peers", help="Python of the environment above")
    parser.add_argument("--skip", nargs="*", default=[], choices=["curves", "budgets"])
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS, metavar="ROW")
    parser.add_argument("--recover", type=int, default=0, metavar="EPOCHS", help="a row with label-free training")
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    if args.recover:
        ROWS[f"obs, refit, {args.recover} epochs"] = recovered(args.recover)
    for name, *files in args.row or BUNDLED:
        paths = [Path(file) for file in files]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            cases = [Case(paths, folder, args.test_samples, args.samples, seed) for seed in range(args.seeds)]
            whole = accuracy(cases[0].model.graph, cases[0].test)
            samples = f"{len(cases[0].test)} samples of TEST, subsets of {args.samples} for calibration"
            print(f"\n### {name}: {100 * whole:.2f} % on {samples}")
            if "curves" not in args.skip:
                curves(cases, args.thetas)
            if args.peers:
                peers(cases[0], args.methods, args.thetas, args.peers, folder)
            if "budgets" not in args.skip:
                budgets(cases[0], folder, args.max_drop, args.budgets)
            if args.ablate:
                larger = args.thetas[-3:]
                ablations(cases[0], partial(Case, paths, folder, args.test_samples, seed=0), larger, args.counts)
            if args.cost:
                costs(cases[0], paths, folder, args.test_samples, args.samples)


if __name__ == "__main__":
    main()
