"""The path of plans that ``--objective latency`` walks: widths of least divergence for each time on the target.

    ranking, moments ─► groups and their levels ─► tables of times (measured) ─► curves (measured) ─► path
    last admissible plan of the path ─► is it fastest as it was timed? else times as it is, and a path by these
    last admissible plan of that ─► what lies around it, by curves and tables that are measured there
    ─► the last admissible of these

The model's weights are refitted from one half of the calibration samples where divergence is measured on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
import onnx

from hqp_onnx.allocation.curves import measured_curves
from hqp_onnx.allocation.divergence import Divergence
from hqp_onnx.allocation.groups import Groups, find_groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.allocation.search import Allocation, Point, front, refine
from hqp_onnx.allocation.times import COUNTED, WidthTimes
from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.evidence import Evidence, halves
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.path import PlanPath
from hqp_onnx.job.search import last_admissible
from hqp_onnx.job.setup import Setup
from hqp_onnx.job.timing import Timing, choose_timing
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.ranking.least_squares import Fits
from hqp_onnx.statistics.moment_halves import half_ranges
from hqp_onnx.timing.table import TimeTable

SAMPLES = 512  # that divergence is measured on
AGAIN = "-again"  # names of what is measured a second time
CLOSELY = 32  # samples of a second refit, where divergence is measured as a plan ships
REFINEMENT_SECONDS = 15.0  # of the curves of a refinement, or as long as the first curves took
_TRIED_BEHIND = 2  # candidates of a refinement, behind the one that ended a bisection
Seconds = Callable[[IntArray], float]
"""Of a choice, measured or predicted."""
_BEYOND = 1.5  # of the divergence of the first candidate that was not admitted, where a refinement ends


@dataclass(frozen=True)
class Choosing:
    """What the choice of widths stands on: losses and times of widths, and the way in which models are timed."""

    allocation: Allocation
    times: WidthTimes
    timing: Timing


def choosing(setup: Setup, ledger: Ledger, evidence: Evidence) -> Choosing:
    """What the choice of widths stands on, measured or read from the ledger's cache."""
    groups = groups_of(setup, evidence)
    timing = choose_timing(setup, ledger, groups.plan(groups.least // 2), "timing")
    times = timing.widths(setup, ledger, groups, "")
    once = divergence_of(setup, ledger, evidence)
    refitted_again = evidence.refit is not None and evidence.refit.data is not None
    as_shipped = divergence_of(setup, ledger, evidence, closely=True) if refitted_again else once

    def diverges(choice: IntArray) -> float:
        return once(groups.plan(choice))

    def closely(choice: IntArray) -> float:
        return as_shipped(groups.plan(choice))

    def curves() -> list[list[float]]:
        with ledger.timed("loss curves"):
            report = partial(setup.progress, "loss curves")
            return [curve.tolist() for curve in measured_curves(groups, diverges, report)]

    found = [np.array(c) for c in ledger.once("curves", curves)]
    programs = _programs(ledger, groups, times, "")
    return Choosing(Allocation(groups, programs, found, diverges, closely), times, timing)


def retimed(setup: Setup, ledger: Ledger, before: Choosing, choice: IntArray) -> Choosing | None:
    """The same by times of the way that is fastest at ``choice``; None if that is how it was timed."""
    groups = before.allocation.groups
    plan = groups.plan(choice)
    if not len(plan) or setup.target.stand_in:
        return None
    timing = choose_timing(setup, ledger, plan, f"timing{AGAIN}", before.timing)
    if timing == before.timing:
        return None
    times = timing.widths(setup, ledger, groups, AGAIN)
    return Choosing(replace(before.allocation, programs=_programs(ledger, groups, times, AGAIN)), times, timing)


def _programs(ledger: Ledger, groups: Groups, times: WidthTimes, suffix: str) -> list[Program]:
    """Of each table of times, kept as ``tables*.json``."""
    tables = ledger.once(f"tables{suffix}", lambda: msgspec.to_builtins(times.tables()))
    return [Program(groups, table) for table in msgspec.convert(tables, list[TimeTable])]


@dataclass(frozen=True)
class Allocated:
    """A path, the number of its fastest admissible plan, the threads to time on, what to know of the times, its end."""

    path: PlanPath
    count: int
    threads: int
    notes: tuple[str, ...]
    ended: str


def allocated_path(setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence) -> Allocated:
    """The path of an allocation, its last admissible plan refined."""
    chosen, choices, last, before = _timed_path(setup, ledger, judge, evidence)
    allocation, timing = chosen.allocation, chosen.timing
    points, beyond = _refined(setup, ledger, chosen, choices, last)
    refined = [choices[0], *(point.choice for point in points)]
    guess = sum(point.divergence <= allocation.closely(choices[last]) for point in points)
    found = _last_admissible(setup, judge, allocation, refined, guess)
    if setup.options.search == "bisect":
        found = _beyond_refused(judge, [Candidate(allocation.groups.plan(choice)) for choice in refined], found)
    known = {point.choice.tobytes(): point.seconds for point in points}

    def seconds(choice: IntArray) -> float:
        return known.get(choice.tobytes()) or allocation.program.seconds(choice)

    distinct = {choice.tobytes(): choice for choice in (*before, *choices[: last + 1], *refined[: found + 1])}
    tried = sorted(distinct.values(), key=seconds, reverse=True)
    plans = [allocation.groups.plan(choice) for choice in tried]

    def fastest_choice() -> list[int]:
        admitted = [number for number, plan in enumerate(plans) if _is_admitted(ledger, plan)] or [0]
        measured = len(admitted) > 1 and not setup.target.stand_in
        place = timing.fastest(setup, [plans[number] for number in admitted]) if measured else -1
        return list(map(int, tried[admitted[place]]))

    ships = ledger.once("fastest-choice", fastest_choice)
    best = next(number for number, choice in enumerate(tried) if choice.tolist() == ships)
    slower = [*plans[:best], *plans[best + 1 :], plans[best]]
    faster = [allocation.groups.plan(choice) for choice in _faster(seconds, tried[-1], refined, beyond)]
    floor = _floor(setup, ledger, allocation, timing)
    ended = _why_it_ended(setup, ledger, allocation, seconds, tried[best], [*choices, *refined], floor)
    notes = (note_on(allocation.program),)
    return Allocated(PlanPath((*slower, *faster)), len(slower) - 1, timing.threads, notes, ended)


def _refined(
    setup: Setup, ledger: Ledger, chosen: Choosing, choices: Sequence[IntArray], last: int
) -> tuple[list[Point], list[IntArray]]:
    """The front of choices around the last admissible one of a path, and a path from the best of them on."""
    allocation = chosen.allocation

    def refinement() -> dict[str, Any]:
        known = [d for d in map(allocation.closely, choices[last : last + 2]) if np.isfinite(d)]
        if last + 1 == len(choices) or not known:
            return {"points": [], "beyond": [choice.tolist() for choice in choices[last:]]}
        limit = float(np.mean(known))  # as much as the budget may well allow

        def fastest(points: Sequence[Point]) -> Point:
            return min(points, key=lambda point: (point.divergence > limit, point.seconds))

        with ledger.timed("refinement"):
            report, seconds = partial(setup.progress, "refinement"), refinement_seconds(ledger)
            found = refine(allocation, chosen.times, choices[last], _BEYOND * max(known), fastest, seconds, report)
            points = [(p.choice.tolist(), p.divergence, p.seconds) for p in front(found.points) if p.choice.any()]
            return {"points": points, "beyond": [c.tolist() for c in found.allocation.path(found.best.choice)]}

    found = ledger.once("refinement", refinement)
    points = [Point(np.array(choice), *measured) for choice, *measured in found["points"]]
    return points, [np.array(choice) for choice in found["beyond"]]


def refinement_seconds(ledger: Ledger) -> float:
    """For the curves of a refinement."""
    return max(REFINEMENT_SECONDS, ledger.seconds.get("loss curves", 0.0))


def _faster(
    seconds: Seconds, than: IntArray, refined: Sequence[IntArray], beyond: Sequence[IntArray]
) -> list[IntArray]:
    """What training goes on with, slowest first: what was refined, and what is ``beyond`` that."""
    better = [choice for choice in refined if seconds(choice) < seconds(than)]
    limit = min(map(seconds, [than, *better]))
    return [*better, *(choice for choice in beyond if seconds(choice) < limit)]


def _timed_path(
    setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence
) -> tuple[Choosing, list[IntArray], int, list[IntArray]]:
    """A path by times of the way in which its last admissible plan is fastest, its number, and the one before."""
    chosen = choosing(setup, ledger, evidence)
    choices = first_path(ledger, chosen.allocation)
    last = _last_admissible(setup, judge, chosen.allocation, choices)
    again = retimed(setup, ledger, chosen, choices[last])
    if again is None:
        return chosen, choices, last, []
    replaced = choices[last]
    choices = first_path(ledger, again.allocation, AGAIN)
    guess = sum(again.allocation.loss(choice) <= again.allocation.loss(replaced) for choice in choices[1:])
    return again, choices, _last_admissible(setup, judge, again.allocation, choices, guess), [replaced]


def first_path(ledger: Ledger, allocation: Allocation, suffix: str = "") -> list[IntArray]:
    """``Allocation.path``, or what an earlier run found it to be."""
    return [np.array(c) for c in ledger.once(f"path{suffix}", lambda: [c.tolist() for c in allocation.path()])]


def note_on(program: Program) -> str:
    """What a reader of the result should know of the times that widths were chosen by."""
    if program.source == COUNTED:
        return "widths were chosen by multiply-accumulates: what is measured here tells nothing of their times"
    return f"widths were chosen by times of {program.source}, predicted within {100 * program.error:.0f} %"


def _floor(setup: Setup, ledger: Ledger, allocation: Allocation, timing: Timing) -> str:
    """How much faster the model could be at all."""
    seconds, groups = allocation.program.seconds, allocation.groups
    if allocation.program.source != COUNTED and not setup.target.stand_in:
        speedup = ledger.once("floor", lambda: timing.beside(setup, groups.plan(groups.least)).speedup)
        return f"with the fewest channels allowed everywhere, it would be {speedup:.1f} times as fast as the input"
    least = seconds(groups.least)
    times = f"{seconds(groups.whole) / least:.1f}" if least > 0 else "ever so many"
    return f"with the fewest channels allowed everywhere, it would take {times} times fewer multiply-accumulates"


def _why_it_ended(
    setup: Setup,
    ledger: Ledger,
    allocation: Allocation,
    seconds: Seconds,
    best: IntArray,
    choices: Sequence[IntArray],
    floor: str,
) -> str:
    """Why the path ended at the choice ``best``; and the ``floor``."""
    groups = allocation.groups
    trials = {number: ledger.trials.get(Candidate(groups.plan(choice)).key) for number, choice in enumerate(choices)}
    refused = [n for n, trial in trials.items() if trial and not trial.accepted and seconds(choices[n]) < seconds(best)]
    if refused:
        number = max(refused, key=lambda n: seconds(choices[n]))
        trial, less = trials[number], 100 * (1 - seconds(choices[number]) / seconds(best))
        assert trial is not None
        fewer = "fewer multiply-accumulates" if allocation.program.source == COUNTED else "less time"
        next_one = f"the next faster plan, which takes {less:.0f} % {fewer}, is outside it"
        return f"the budget ended the search: {next_one} ({trial.why}); {floor}"
    if any(trial and trial.accepted and seconds(choices[n]) < seconds(best) for n, trial in trials.items()):
        return f"the clock ended the search: faster plans are inside the budget, but no faster as measured; {floor}"
    options, stay = setup.options, len(setup.channels.frozen)
    widths = (
        f"--min-width {options.min_width:g}, multiples of {options.width_multiple}, and {stay} units that must stay"
    )
    return f"the narrowest widths ended the search, not the budget: {widths}; {floor}"


def added_costs(scores: FloatArray, order: IntArray, cumulative: bool) -> FloatArray:
    """What the removal of each unit of ``order`` adds, float64 [units]; 0 for others."""
    costs = np.zeros(len(scores))
    ascending = order[np.argsort(scores[order], kind="stable")]
    known = np.where(np.isfinite(scores[ascending]), scores[ascending], 0.0)
    costs[ascending] = np.diff(known, prepend=known.min(initial=0.0)) if cumulative else known
    return costs


def _last_admissible(
    setup: Setup, judge: Judge, allocation: Allocation, choices: list[IntArray], guess: int | None = None
) -> int:
    """The number of the last admissible choice; the search begins with the one of the number ``guess``."""
    plans = [allocation.groups.plan(choice) for choice in choices]
    return last_admissible(
        setup.options.search, len(plans) - 1, 1, lambda count: judge.admits(Candidate(plans[count])), guess
    )


def _beyond_refused(judge: Judge, candidates: Sequence[Candidate], last: int) -> int:
    """The number of the last that is admitted of ``last`` and a few behind the one that was refused.

    They are close together, and verdicts on a few thousand samples a matter of chance as well.
    """
    behind = range(last + 2, min(last + 2 + _TRIED_BEHIND, len(candidates)))
    return max([last, *(number for number in behind if judge.admits(candidates[number]))])


def _is_admitted(ledger: Ledger, plan: PruningPlan) -> bool:
    trial = ledger.trials.get(Candidate(plan).key)
    return trial is not None and trial.accepted


def groups_of(setup: Setup, evidence: Evidence) -> Groups:
    """The groups of units that share a width, and their levels."""
    costs = added_costs(evidence.ranking.units, evidence.order, setup.scoring.method.cumulative)
    return find_groups(setup.channels, evidence.order, costs, setup.options.width_multiple)


def divergence_of(setup: Setup, ledger: Ledger, evidence: Evidence, closely: bool = False) -> Divergence:
    """How far plans are from the original, on calibration samples that their refit has not seen.

    ``closely``: with a second refit, on few samples: what these cannot tell, it leaves.
    """
    graph, data = setup.model.graph, setup.data["calib"]
    fitted, held_out = half_ranges(data)
    kept = _batches(data, held_out or fitted, SAMPLES)
    refit = None
    if evidence.refit is not None:
        again = _batches(data, fitted, CLOSELY) if closely else None
        refit = Refit(halves(setup, ledger)[0], evidence.refit.ridges, again, setup.options.threads)
    known = Fits()

    def build(plan: PruningPlan) -> onnx.ModelProto:
        return to_proto(fold_batchnorm(cut(graph, setup.channels, plan, refit, known).graph).graph)

    return Divergence(to_proto(graph), build, kept, setup.task, setup.options.threads)


def _batches(data: Dataset, ranges: Sequence[range], samples: int) -> list[Batch]:
    """The first ``samples`` of some ranges of samples, or all."""
    batches: list[Batch] = []
    for part in ranges:
        left = samples - sum(map(len, batches))
        if left > 0:
            batches.append(data.rows(part.start, min(part.stop, part.start + left)))
    return batches
