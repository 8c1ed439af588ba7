"""What each group's levels cost, in one unit for all groups: the divergence of the outputs, as measured.

A ranking orders the units of a group, but its costs are not comparable between groups (a head of attention, a gate, a
residual trunk). So each group alone is cut to a few levels and the divergence measured; between these levels the
ranking's costs give the shape. Around a plan in hand the same is done with all other groups at the plan's levels, which
tells what the sum of the first curves cannot: how losses of different groups add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from time import perf_counter

import numpy as np

from hqp_onnx.allocation.groups import Group, Groups
from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.progress import StageProgress

SHARES = (0.3, 0.6, 0.85, 1.0)
"""Of a group's levels, where its curve is measured."""

Measure = Callable[[IntArray], float]
"""The divergence of a choice."""


def measured_curves(groups: Groups, measure: Measure, progress: StageProgress) -> list[FloatArray]:
    """The divergence of each level of each group alone, float64 [levels] by group, rising from 0."""
    curves = []
    for number, group in enumerate(groups.groups):
        last = len(group.levels) - 1
        known = {0: 0.0}
        for level in sorted({max(1, round(share * last)) for share in SHARES}):
            known[level] = measure(_with(groups.whole, number, level))
        curves.append(_curve(group, known))
        progress(number + 1, len(groups))
    return curves


def curves_around(
    groups: Groups,
    curves: list[FloatArray],
    choice: IntArray,
    measure: Measure,
    order: Sequence[int],
    until: float,
    progress: StageProgress,
) -> list[FloatArray]:
    """Curves that hold around ``choice``, float64 [levels] by group: 0 there, rising.

    Measured with all other groups as they are in ``choice``: the ends of each group, the levels beside its own, and one
    on the way to the last. Groups come in an ``order``; ``curves`` stand for those that ``until`` of ``perf_counter``
    leaves no time for, and for what cannot be measured.
    """
    base = measure(choice)
    local = list(curves)
    for done, number in enumerate(order, 1):
        group, own, last = groups.groups[number], int(choice[number]), len(curves[number]) - 1
        levels = sorted({0, max(own - 1, 0), min(own + 1, last), (own + 1 + last) // 2, last} - {own})
        known = {own: 0.0} | {level: measure(_with(choice, number, level)) - base for level in levels}
        if np.isfinite(known[0]):
            local[number] = _curve(group, known)
        progress(done, len(groups))
        if perf_counter() > until:
            break
    here = [curve[level] for curve, level in zip(local, choice, strict=True)]
    return [curve - (value if np.isfinite(value) else 0.0) for curve, value in zip(local, here, strict=True)]


def _with(choice: IntArray, number: int, level: int) -> IntArray:
    changed = choice.copy()
    changed[number] = level
    return changed


def _curve(group: Group, known: Mapping[int, float]) -> FloatArray:
    """Through the known levels, 0 among them, made to rise; in between, the shape of the ranking's costs."""
    curve, levels = np.zeros(len(group.levels)), sorted(known)
    curve[0] = known[0]
    for low, high in pairwise(levels):
        if not np.isfinite(known[high]):
            curve[low + 1 :] = np.inf
            break
        first = curve[low]
        curve[low : high + 1] = first + max(known[high] - first, 0.0) * _shape(group.costs[low : high + 1])
    return curve


def _shape(costs: FloatArray) -> FloatArray:
    """From 0 to 1 as the costs rise; evenly where they do not, or are not known."""
    if not np.isfinite(costs).all() or costs[-1] == costs[0]:
        return np.linspace(0, 1, len(costs))
    return np.asarray((costs - costs[0]) / (costs[-1] - costs[0]))
