"""The path of plans that ``--objective latency`` walks: widths of least divergence for each time on the target.

    ranking, moments ─► groups and their levels ─► times (measured) ─► curves (measured) ─► path
    last admissible plan of the path ─► descent from it ─► the last admissible of what the descent found

The model's weights are refitted from one half of the calibration samples where divergence is measured on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import msgspec
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.allocation.curves import measured_curves
from hqp_onnx.allocation.divergence import Divergence
from hqp_onnx.allocation.groups import Groups, find_groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.allocation.search import Allocation
from hqp_onnx.allocation.times import COUNTED, measure_table
from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.evaluation.latency import fastest
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.evidence import Evidence, halves
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.path import PlanPath
from hqp_onnx.job.search import last_admissible
from hqp_onnx.job.setup import Setup
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize import Recipe, prepare, quantize_prepared
from hqp_onnx.passes.widen_float16 import widen_float16
from hqp_onnx.quantization.placement import quantized_tensors
from hqp_onnx.ranking.least_squares import Fits
from hqp_onnx.statistics.calibration import Calibration, Range
from hqp_onnx.statistics.moment_halves import half_ranges
from hqp_onnx.timing.table import TimeTable

SAMPLES = 512  # that divergence is measured on
DESCENT_SECONDS = 60.0
_COMPARISON_SECONDS = 1.0
_BARE = Recipe(equalize=False, correct_bias=False, round_weights=False)
_ANY_RANGE = Range(-1.0, 1.0, 1.0)
_BEYOND = 1.5  # of the divergence of the first candidate that was not admitted, where a descent ends


def allocate(setup: Setup, ledger: Ledger, evidence: Evidence) -> Allocation:
    """Measure what the choice of widths stands on, or read what the ledger's cache holds."""
    options, channels = setup.options, setup.channels
    costs = added_costs(evidence.ranking.units, evidence.order, setup.scoring.method.cumulative)
    groups = find_groups(channels, evidence.order, costs, options.width_multiple)
    times = ledger.once("times", lambda: msgspec.to_builtins(_table(setup, ledger, groups)))
    program = Program(groups, msgspec.convert(times, TimeTable))
    divergence = _divergence(setup, ledger, evidence)

    def diverges(choice: IntArray) -> float:
        return divergence(groups.plan(choice))

    def curves() -> list[list[float]]:
        with ledger.timed("loss curves"):
            report = partial(setup.progress, "loss curves")
            return [curve.tolist() for curve in measured_curves(groups, diverges, report)]

    return Allocation(groups, program, [np.array(c) for c in ledger.once("curves", curves)], diverges)


@dataclass(frozen=True)
class Allocated:
    """A path, the number of its fastest admissible plan, and what a reader of the result should know of the times."""

    path: PlanPath
    count: int
    note: str


def allocated_path(setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence) -> Allocated:
    """The path of an allocation, its last admissible plan refined."""
    allocation = allocate(setup, ledger, evidence)
    choices = [np.array(c) for c in ledger.once("path", lambda: [c.tolist() for c in allocation.path()])]
    last = _last_admissible(setup, judge, allocation, choices)

    def descent() -> list[list[int]]:
        if last + 1 == len(choices) or not np.isfinite(allocation.measure(choices[last])):
            return []
        with ledger.timed("descent"):
            known = [d for d in map(allocation.measure, choices[last : last + 2]) if np.isfinite(d)]
            found = allocation.descent(choices[last], _BEYOND * max(known), perf_counter() + DESCENT_SECONDS)
            return [choice.tolist() for choice in found]

    better = [np.array(choice) for choice in ledger.once("descent", descent)]
    front = ledger.once("front", lambda: [c.tolist() for c in allocation.front([*choices[1 : last + 1], *better])])
    refined = [choices[0], *map(np.array, front)]
    seconds, found = allocation.program.seconds, _last_admissible(setup, judge, allocation, refined)
    distinct = {choice.tobytes(): choice for choice in (*choices[: last + 1], *refined[: found + 1])}
    tried = sorted(distinct.values(), key=seconds, reverse=True)
    plans = [allocation.groups.plan(choice) for choice in tried]

    def fastest_plan() -> int:
        admitted = [number for number, plan in enumerate(plans) if _is_admitted(ledger, plan)] or [0]
        return admitted[_fastest(setup, [plans[number] for number in admitted])]

    best = ledger.once("fastest", fastest_plan)
    slower = [*plans[:best], *plans[best + 1 :], plans[best]]
    faster = [allocation.groups.plan(choice) for choice in choices if seconds(choice) < seconds(tried[-1])]
    program = allocation.program
    note = f"widths were chosen by times of {program.source}, predicted within {100 * program.error:.0f} %"
    if program.source == COUNTED:
        note = "widths were chosen by multiply-accumulates: what is measured here tells nothing of their times"
    return Allocated(PlanPath((*slower, *faster)), len(slower) - 1, note)


def added_costs(scores: FloatArray, order: IntArray, cumulative: bool) -> FloatArray:
    """What the removal of each unit of ``order`` adds, float64 [units]; 0 for others."""
    costs = np.zeros(len(scores))
    ascending = order[np.argsort(scores[order], kind="stable")]
    known = np.where(np.isfinite(scores[ascending]), scores[ascending], 0.0)
    costs[ascending] = np.diff(known, prepend=known.min(initial=0.0)) if cumulative else known
    return costs


def _last_admissible(setup: Setup, judge: Judge, allocation: Allocation, choices: list[IntArray]) -> int:
    plans = [allocation.groups.plan(choice) for choice in choices]
    return last_admissible(setup.options.search, len(plans) - 1, 1, lambda count: judge.admits(Candidate(plans[count])))


def _is_admitted(ledger: Ledger, plan: PruningPlan) -> bool:
    trial = ledger.trials.get(Candidate(plan).key)
    return trial is not None and trial.accepted


def _fastest(setup: Setup, plans: Sequence[PruningPlan]) -> int:
    """The number of the fastest plan, as measured where that is possible: predictions are good enough to search by."""
    if len(plans) == 1 or setup.target.stand_in:
        return len(plans) - 1
    build = _BUILDS.get(setup.options.precision, _in_float32)
    return fastest([setup.load(build(setup, plan)) for plan in plans], setup.sample, _COMPARISON_SECONDS)


def _table(setup: Setup, ledger: Ledger, groups: Groups) -> TimeTable:
    """In the precision that ships; where that is open, in the one that is faster at half the widths."""
    options = setup.options
    with ledger.timed("times"):
        build = _BUILDS.get(options.precision, _in_float32)
        if options.precision == "mixed":
            half, builds = groups.plan(groups.least // 2), (_in_float32, _BUILDS[options.narrow])
            sessions = [setup.load(build(setup, half)) for build in builds]
            build = builds[fastest(sessions, setup.sample, _COMPARISON_SECONDS)]
        return measure_table(
            groups,
            partial(build, setup),
            partial(_bare, setup),
            setup.target,
            setup.sample,
            setup.positions,
            options.threads,
            partial(setup.progress, "times"),
            options.seed,
        )


def _bare(setup: Setup, plan: PruningPlan) -> gs.Graph:
    """Cut without a refit: the values of weights do not change what a model takes."""
    return cut(setup.model.graph, setup.channels, plan).graph


def _in_float32(setup: Setup, plan: PruningPlan) -> onnx.ModelProto:
    return to_proto(fold_batchnorm(_bare(setup, plan)).graph)


def _in_int8(setup: Setup, plan: PruningPlan) -> onnx.ModelProto:
    """Quantized with any ranges, which do not change it either."""
    graph = fold_batchnorm(widen_float16(_bare(setup, plan)).graph).graph
    ranges = dict.fromkeys(quantized_tensors(graph, setup.target), _ANY_RANGE)
    prepared = prepare(graph, (), setup.target, known=Calibration(ranges, "any"), recipe=_BARE)
    return to_proto(quantize_prepared(prepared, setup.target).graph)


def _in_float16(setup: Setup, plan: PruningPlan) -> onnx.ModelProto:
    return to_proto(convert_fp16(fold_batchnorm(_bare(setup, plan)).graph).graph)


_BUILDS = {"int8": _in_int8, "fp16": _in_float16}
"""Models of a plan by precision; in float32 for any other."""


def _divergence(setup: Setup, ledger: Ledger, evidence: Evidence) -> Divergence:
    graph, data = setup.model.graph, setup.data["calib"]
    parts = half_ranges(data)
    rows = parts[1] or parts[0]
    kept = [data.rows(part.start, part.stop) for part in rows[: max(1, SAMPLES // len(rows[0]))]]
    refit = None if evidence.refit is None else Refit(halves(setup, ledger)[0], evidence.refit.ridges)
    known = Fits()

    def build(plan: PruningPlan) -> onnx.ModelProto:
        return to_proto(fold_batchnorm(cut(graph, setup.channels, plan, refit, known).graph).graph)

    classifier = setup.metric.labels != "any"
    return Divergence(to_proto(graph), build, kept, classifier, setup.options.threads)
