"""Choices of least divergence for given times: a path from the curves, then better ones around a choice in hand.

    path        the exact choice for a row of times, each 6 % less than the one before
    refinement  curves are measured around a choice, and the program is solved by them for times near its own, once for
                each table of times; all that this finds is measured, its divergence and its time. Tables are fitted
                again with what was measured, the best choice is the next to go on from, until none is better; then
                what lies between choices that are far apart is measured

Sums of curves are a proxy, since losses of groups add up to more or less than their sum, and so is a table: choices
are where it errs to their advantage. What choices are compared by is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from typing import Protocol

import numpy as np

from hqp_onnx.allocation.curves import Measure, curves_around
from hqp_onnx.allocation.groups import Groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.progress import StageProgress
from hqp_onnx.timing.table import TimeTable

STEP = 0.94
_AROUND = (1.06, 1.03, *(0.97**power for power in range(12)))  # times a choice's own time
_BETTER = 0.99  # of a time, or a divergence, that is worth another round
_SPARSE = 1.3  # times the divergence of the next slower choice, where a front is looked at more closely
_BETWEEN = (0.25, 0.5, 0.75)  # of the way from one choice to the next


class Clock(Protocol):
    """Measures what choices take, and fits tables to all that it has measured."""

    def seconds(self, choice: IntArray) -> float:
        """Of a run, measured once."""

    def tables(self) -> Sequence[TimeTable]:
        """The one that predicts best comes first."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """A model's groups, the programs over their levels, and what each level costs.

    Attributes:
        groups: of units.
        programs: one for each table of times; the first predicts best.
        curves: divergence of each level of each group alone, or what is added to that of a choice in hand.
        measure: divergence of a whole choice, once its weights are refitted.
        closely: the same as the choice would ship, which takes several times as long.
    """

    groups: Groups
    programs: Sequence[Program]
    curves: list[FloatArray]
    measure: Measure
    closely: Measure

    @property
    def program(self) -> Program:
        """The first of them."""
        return self.programs[0]

    def loss(self, choice: IntArray) -> float:
        """The sum of the curves at a choice, which is less to measure than its divergence, and no more than a guide."""
        return sum(float(curve[level]) for curve, level in zip(self.curves, choice, strict=True))

    def path(self, begin: IntArray | None = None) -> list[IntArray]:
        """Distinct choices, slowest first, from ``begin``, or the whole model, to the fastest that there is."""
        least = self.program.seconds(self.groups.least)
        choices = [self.groups.whole if begin is None else begin]
        limit = self.program.seconds(choices[0]) * STEP
        while limit > least:
            choice = self.program.solve(self.curves, limit)
            if choice is None:
                break
            if not np.array_equal(choice, choices[-1]):
                choices.append(choice)
            limit = min(limit, self.program.seconds(choice)) * STEP
        return choices

    def around(self, choice: IntArray, threshold: float) -> Iterator[IntArray]:
        """Choices for ever shorter times near that of ``choice``, by each program until they pass the ``threshold``."""
        programs = list(self.programs)
        for share in _AROUND:
            for program in list(programs):
                found = program.solve(self.curves, share * program.seconds(choice))
                if found is not None and self.closely(found) <= threshold:
                    yield found
                else:
                    programs.remove(program)

    def by_leverage(self) -> list[int]:
        """Numbers of the groups, those first whose widths make the most of the whole model's time."""
        whole, least, times = self.groups.whole, self.groups.least, list[float]()
        for number, last in enumerate(least):
            narrow = whole.copy()
            narrow[number] = last
            times.append(self.program.seconds(narrow))
        return [int(number) for number in np.argsort(times, kind="stable")]


@dataclass(frozen=True)
class Point:
    """A choice, its divergence and its seconds, measured."""

    choice: IntArray
    divergence: float
    seconds: float


Pick = Callable[[Sequence[Point]], Point]
"""The best of some."""


@dataclass(frozen=True)
class Refined:
    """What a refinement measured, and the allocation around the choice that it ended with, which is the ``best``."""

    points: tuple[Point, ...]
    best: Point
    allocation: Allocation


def refine(
    allocation: Allocation,
    clock: Clock,
    start: IntArray,
    threshold: float,
    pick: Pick,
    seconds: float,
    progress: StageProgress,
) -> Refined:
    """Choices around ``start`` that diverge by ``threshold`` at most, then around the best of these, and so on.

    Args:
        allocation: the groups, and how divergence is measured: closely.
        clock: of the same groups.
        start: a choice of finite divergence.
        threshold: of divergence.
        pick: what is best.
        seconds: for the curves of a round, as long again for its choices, and again for what lies between the best.
        progress: called with the groups that curves were measured of in this round, and their number.
    """
    found: dict[bytes, Point] = {}

    def measured(choice: IntArray) -> Point:
        return found.setdefault(choice.tobytes(), Point(choice, allocation.closely(choice), clock.seconds(choice)))

    best, order, began = measured(start), allocation.by_leverage(), perf_counter()
    while True:
        now = perf_counter()
        curves = curves_around(
            allocation.groups, allocation.curves, best.choice, allocation.closely, order, now + seconds, progress
        )
        programs = [Program(allocation.groups, table) for table in clock.tables()]
        here = replace(allocation, programs=programs, curves=curves)
        for choice in here.around(best.choice, threshold):
            measured(choice)
            if perf_counter() > now + 2 * seconds:
                break
        before, best = best, pick([*found.values()])
        no_better = best.seconds > _BETTER * before.seconds and best.divergence > _BETTER * before.divergence
        if no_better or 2 * perf_counter() - now > began + 2 * seconds:
            break
    end = perf_counter() + seconds
    for choice in between(front([*found.values()])):
        measured(choice)
        if perf_counter() > end:
            break
    return Refined(tuple(found.values()), pick([*found.values()]), here)


def between(points: Sequence[Point]) -> Iterator[IntArray]:
    """Choices on the straight way from one of a front to the next, where that diverges much further."""
    for slower, faster in pairwise(points):
        if faster.divergence > _SPARSE * slower.divergence:
            for share in _BETWEEN:
                yield np.round(slower.choice + share * (faster.choice - slower.choice)).astype(np.int64)


def front(points: Sequence[Point]) -> list[Point]:
    """Slowest first, those that no other beats in time and divergence."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.seconds, point.divergence)):
        if point.divergence < (kept[-1].divergence if kept else np.inf):
            kept.append(point)
    return kept[::-1]
