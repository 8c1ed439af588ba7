"""The path of plans that ``--objective latency`` walks: widths of least divergence for each time on the target.

    ranking, moments ─► groups and their levels ─► tables of times (measured) ─► curves (measured) ─► path
    last admissible plan of the path ─► is it fastest as it was timed? else times as it is, and a path by these
    last admissible plan of that ─► descent from it, or where that finds nothing, what lies between it and the next plan
    ─► the last admissible of these

Of several tables that one is taken whose choices are faster at equal divergence, both measured: a table that predicts
any model well may still be blind to what sets two choices apart.

The model's weights are refitted from one half of the calibration samples where divergence is measured on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import onnx

from hqp_onnx.allocation.curves import measured_curves
from hqp_onnx.allocation.divergence import Divergence
from hqp_onnx.allocation.groups import Groups, find_groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.allocation.search import Allocation
from hqp_onnx.allocation.times import COUNTED
from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels.channel_map import PruningPlan
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
DESCENT_SECONDS = 60.0
COMPARED_AT = (0.85, 0.65, 0.45, 0.3)  # of the whole model's time, whose choices tables are compared by
_BEYOND = 1.5  # of the divergence of the first candidate that was not admitted, where a descent ends


def allocate(setup: Setup, ledger: Ledger, evidence: Evidence) -> tuple[Allocation, Timing]:
    """What the choice of widths stands on, measured or read from the ledger's cache, and how models are timed."""
    groups = groups_of(setup, evidence)
    timing = choose_timing(setup, ledger, groups.plan(groups.least // 2), "timing")
    tables = _tables(setup, ledger, groups, timing, "")
    divergence = divergence_of(setup, ledger, evidence)

    def diverges(choice: IntArray) -> float:
        return divergence(groups.plan(choice))

    def curves() -> list[list[float]]:
        with ledger.timed("loss curves"):
            report = partial(setup.progress, "loss curves")
            return [curve.tolist() for curve in measured_curves(groups, diverges, report)]

    found = [np.array(c) for c in ledger.once("curves", curves)]
    allocation = Allocation(groups, Program(groups, tables[0]), found, diverges)
    return _with_fastest(setup, ledger, allocation, tables, timing, ""), timing


def retimed(
    setup: Setup, ledger: Ledger, allocation: Allocation, timing: Timing, choice: IntArray
) -> tuple[Allocation, Timing] | None:
    """The allocation by times of the way that is fastest at ``choice``; None if that is how it was timed."""
    plan = allocation.groups.plan(choice)
    if not len(plan) or setup.target.stand_in:
        return None
    again = choose_timing(setup, ledger, plan, f"timing{AGAIN}", timing)
    if again == timing:
        return None
    tables = _tables(setup, ledger, allocation.groups, again, AGAIN)
    return _with_fastest(setup, ledger, allocation, tables, again, AGAIN), again


def _tables(setup: Setup, ledger: Ledger, groups: Groups, timing: Timing, suffix: str) -> list[TimeTable]:
    def measured() -> Any:
        return msgspec.to_builtins(timing.tables(setup, ledger, groups, f"times{suffix}"))

    return msgspec.convert(ledger.once(f"tables{suffix}", measured), list[TimeTable])


def _with_fastest(
    setup: Setup, ledger: Ledger, allocation: Allocation, tables: Sequence[TimeTable], timing: Timing, suffix: str
) -> Allocation:
    """The allocation by that table whose choices are fastest at equal divergence, both measured."""
    ways = [replace(allocation, program=Program(allocation.groups, table)) for table in tables]

    def fastest() -> int:
        points: list[list[tuple[float, float]]] = [[] for _ in ways]
        with ledger.timed(f"tables of times{suffix}".replace("-", ", ")):
            for choices in _rivals(ways):
                seconds = timing.seconds(setup, [allocation.groups.plan(choice) for choice in choices])
                for found, choice, time in zip(points, choices, seconds, strict=True):
                    found.append((allocation.measure(choice), time))
        return _fastest_at_equal_divergence(points)

    def chosen() -> Any:
        return msgspec.to_builtins(tables[0 if len(tables) == 1 else fastest()])

    table = msgspec.convert(ledger.once(f"times{suffix}", chosen), TimeTable)
    return replace(allocation, program=Program(allocation.groups, table))


def _rivals(ways: Sequence[Allocation]) -> Iterator[list[IntArray]]:
    """For some shares of the whole model's time the choice of each way."""
    for share in COMPARED_AT:
        limits = [share * way.program.seconds(way.groups.whole) for way in ways]
        solved = (way.program.solve(way.curves, limit) for way, limit in zip(ways, limits, strict=True))
        choices = [choice for choice in solved if choice is not None]
        if len(choices) == len(ways):
            yield choices


def _fastest_at_equal_divergence(ways: Sequence[Sequence[tuple[float, float]]]) -> int:
    """Of lines through points (divergence, seconds), the lowest over the divergences that all have; else the first."""
    lines = [sorted((np.log(d), np.log(seconds)) for d, seconds in way if 0 < d < np.inf) for way in ways]
    if not all(lines):
        return 0
    low, high = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    if low >= high:
        return 0
    at = np.linspace(low, high, 16)
    return int(np.argmin([np.interp(at, *np.array(line).T).mean() for line in lines]))


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
    allocation, timing, choices, last, before = _timed_path(setup, ledger, judge, evidence)

    def descent() -> list[list[int]]:
        if last + 1 == len(choices) or not np.isfinite(allocation.measure(choices[last])):
            return []
        with ledger.timed("descent"):
            known = [d for d in map(allocation.measure, choices[last : last + 2]) if np.isfinite(d)]
            found = allocation.descent(choices[last], _BEYOND * max(known), perf_counter() + DESCENT_SECONDS)
            between = partial(allocation.between, *choices[last : last + 2])
            return [choice.tolist() for choice in [*found] or between()]

    better = [np.array(choice) for choice in ledger.once("descent", descent)]
    front = ledger.once("front", lambda: [c.tolist() for c in allocation.front([*choices[1 : last + 1], *better])])
    refined = [choices[0], *map(np.array, front)]
    seconds, found = allocation.program.seconds, _last_admissible(setup, judge, allocation, refined, choices[last])
    distinct = {choice.tobytes(): choice for choice in (*before, *choices[: last + 1], *refined[: found + 1])}
    tried = sorted(distinct.values(), key=seconds, reverse=True)
    plans = [allocation.groups.plan(choice) for choice in tried]

    def fastest_plan() -> int:
        admitted = [number for number, plan in enumerate(plans) if _is_admitted(ledger, plan)] or [0]
        if len(admitted) == 1 or setup.target.stand_in:
            return admitted[-1]
        return admitted[timing.fastest(setup, [plans[number] for number in admitted])]

    best = ledger.once("fastest", fastest_plan)
    slower = [*plans[:best], *plans[best + 1 :], plans[best]]
    faster = [allocation.groups.plan(choice) for choice in _faster(allocation, tried[-1], refined, choices)]
    floor = _floor(setup, ledger, allocation, timing)
    ended = _why_it_ended(setup, ledger, allocation, tried[best], [*choices, *refined], floor)
    notes = (note_on(allocation.program),)
    return Allocated(PlanPath((*slower, *faster)), len(slower) - 1, timing.threads, notes, ended)


def _faster(
    allocation: Allocation, than: IntArray, refined: Sequence[IntArray], choices: Sequence[IntArray]
) -> list[IntArray]:
    """What training goes on with, slowest first: what was refined, and from where that ends those of the path."""
    seconds = allocation.program.seconds
    better = [choice for choice in refined if seconds(choice) < seconds(than)]
    limit = min(map(seconds, [than, *better]))
    return [*better, *(choice for choice in choices if seconds(choice) < limit)]


def _timed_path(
    setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence
) -> tuple[Allocation, Timing, list[IntArray], int, list[IntArray]]:
    """A path by times of the way in which its last admissible plan is fastest, its number, and the one before."""
    allocation, timing = allocate(setup, ledger, evidence)
    choices = first_path(ledger, allocation)
    last = _last_admissible(setup, judge, allocation, choices)
    again = retimed(setup, ledger, allocation, timing, choices[last])
    if again is None:
        return allocation, timing, choices, last, []
    replaced = choices[last]
    choices = first_path(ledger, again[0], AGAIN)
    return *again, choices, _last_admissible(setup, judge, again[0], choices, replaced), [replaced]


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
    setup: Setup, ledger: Ledger, allocation: Allocation, best: IntArray, choices: Sequence[IntArray], floor: str
) -> str:
    """Why the path ended at the choice ``best``; and the ``floor``."""
    seconds, groups = allocation.program.seconds, allocation.groups
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
    setup: Setup, judge: Judge, allocation: Allocation, choices: list[IntArray], like: IntArray | None = None
) -> int:
    """The number of the last admissible choice; the search begins where as much is lost as by ``like``, admitted."""
    plans = [allocation.groups.plan(choice) for choice in choices]
    guess = None
    if like is not None:
        guess = sum(allocation.loss(choice) <= allocation.loss(like) for choice in choices[1:])
    return last_admissible(
        setup.options.search, len(plans) - 1, 1, lambda count: judge.admits(Candidate(plans[count])), guess
    )


def _is_admitted(ledger: Ledger, plan: PruningPlan) -> bool:
    trial = ledger.trials.get(Candidate(plan).key)
    return trial is not None and trial.accepted


def groups_of(setup: Setup, evidence: Evidence) -> Groups:
    """The groups of units that share a width, and their levels."""
    costs = added_costs(evidence.ranking.units, evidence.order, setup.scoring.method.cumulative)
    return find_groups(setup.channels, evidence.order, costs, setup.options.width_multiple)


def divergence_of(setup: Setup, ledger: Ledger, evidence: Evidence) -> Divergence:
    """How far plans are from the original, on calibration samples that their refit has not seen."""
    graph, data = setup.model.graph, setup.data["calib"]
    parts = half_ranges(data)
    rows = parts[1] or parts[0]
    kept = [data.rows(part.start, part.stop) for part in rows[: max(1, SAMPLES // len(rows[0]))]]
    refit = None if evidence.refit is None else Refit(halves(setup, ledger)[0], evidence.refit.ridges)
    known = Fits()

    def build(plan: PruningPlan) -> onnx.ModelProto:
        return to_proto(fold_batchnorm(cut(graph, setup.channels, plan, refit, known).graph).graph)

    return Divergence(to_proto(graph), build, kept, setup.task, setup.options.threads)
