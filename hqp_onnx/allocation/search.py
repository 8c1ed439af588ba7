"""Choices of least divergence for given times: a first path from the curves, then better ones around a plan in hand.

    path       the exact choice for a row of times, each 6 % less than the one before
    descent    from a choice on: the program is solved again for 3 % less time, within reach of the choice, with curves
               that were measured around it. Where the outputs then diverge too far, the curves are measured anew, then
               the reach is shortened, then the descent ends
    between    where a path has a wide step: choices on the straight way from one of its choices to the next
    improved   the same for no less time, as long as the outputs diverge less

Sums of curves are a proxy: losses of groups add up to more or less than their sum, and only the measured divergence of
a whole choice counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from hqp_onnx.allocation.curves import Measure, curves_around
from hqp_onnx.allocation.groups import Groups
from hqp_onnx.allocation.program import Program
from hqp_onnx.arrays import FloatArray, IntArray

STEP = 0.94
_SMALL_STEP = 0.97
_BETWEEN = (0.2, 0.4, 0.6, 0.8)
_REACH = 3  # levels that one step of a descent may move a group


@dataclass(frozen=True, eq=False)
class Allocation:
    """A model's groups, the program over their levels, and what each level costs.

    Attributes:
        groups: of units.
        program: their times.
        curves: divergence of each level of each group alone.
        measure: divergence of a whole choice.
    """

    groups: Groups
    program: Program
    curves: list[FloatArray]
    measure: Measure

    def loss(self, choice: IntArray) -> float:
        """The sum of the curves at a choice, which is less to measure than its divergence, and no more than a guide."""
        return sum(float(curve[level]) for curve, level in zip(self.curves, choice, strict=True))

    def path(self) -> list[IntArray]:
        """Distinct choices, slowest first, from the whole model to the fastest that there is."""
        least = self.program.seconds(self.groups.least)
        choices = [self.groups.whole]
        limit = self.program.seconds(self.groups.whole) * STEP
        while limit > least:
            choice = self.program.solve(self.curves, limit)
            if choice is None:
                break
            if not np.array_equal(choice, choices[-1]):
                choices.append(choice)
            limit = min(limit, self.program.seconds(choice)) * STEP
        return choices

    def descent(self, choice: IntArray, threshold: float, end: float = np.inf) -> Iterator[IntArray]:
        """Ever faster choices from ``choice`` on whose divergence stays within ``threshold``, as they are found.

        No step begins after ``end`` of ``perf_counter``; what surrounds a choice is measured for half of what is left.
        """
        local, fresh, reach = self._around(choice, end), True, _REACH
        while perf_counter() < end:
            limit = self.program.seconds(choice) * _SMALL_STEP
            step = self.program.solve(local, limit, choice, reach)
            if step is not None and self.measure(step) <= threshold:
                choice, fresh, reach = step, False, _REACH
                yield choice
            elif not fresh:
                local, fresh = self._around(choice, end), True
            elif reach > 1:
                reach -= 1
            else:
                return

    def between(self, choice: IntArray, faster: IntArray) -> list[IntArray]:
        """Distinct choices on the way from one to another, each of less time than the one before."""
        found = [choice]
        for share in _BETWEEN:
            step = np.round(choice + share * (faster - choice)).astype(np.int64)
            if self.program.seconds(step) < self.program.seconds(found[-1]):
                found.append(step)
        return found[1:]

    def improved(self, choice: IntArray, end: float = np.inf) -> IntArray:
        """A choice that takes no more time and whose divergence is less, or ``choice`` itself where none is found.

        No step begins after ``end`` of ``perf_counter``; what surrounds a choice is measured for half of what is left.
        """
        limit, local, reach = self.program.seconds(choice), self._around(choice, end), _REACH
        while perf_counter() < end and reach:
            step = self.program.solve(local, limit, choice, reach)
            if step is not None and self.measure(step) < self.measure(choice):
                choice, local = step, self._around(step, end)
            else:
                reach -= 1
        return choice

    def _around(self, choice: IntArray, end: float) -> list[FloatArray]:
        now = perf_counter()
        return curves_around(self.groups, self.curves, choice, self.measure, now + (end - now) / 2)

    def front(self, choices: list[IntArray]) -> list[IntArray]:
        """``choices`` by time, slowest first, without those that a faster one beats in divergence."""
        front: list[IntArray] = []
        for choice in sorted(choices, key=lambda one: (self.program.seconds(one), self.measure(one))):
            if not front or self.measure(choice) < self.measure(front[-1]):
                front.append(choice)
        return front[::-1]
