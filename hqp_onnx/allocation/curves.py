"""What each group's levels cost, in one unit for all groups: the divergence of the outputs, as measured.

A ranking orders the units of a group, but its costs are not comparable between groups (a head of attention, a gate, a
residual trunk). So each group alone is cut to a few levels and the divergence measured; between these levels the
ranking's costs give the shape. Around a plan in hand the same is done with all other groups at the plan's levels, which
tells what the sum of the first curves cannot: how losses of different groups add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from time import perf_counter

import numpy as np

from hqp_onnx.allocation.groups import Group, Groups
from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.progress import StageProgress

_STRETCH = 0.3, 30.0
"""Of a curve, at most: what one measurement says of a slope holds for that step, not for all beyond it."""

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
    groups: Groups, curves: list[FloatArray], choice: IntArray, measure: Measure, until: float = np.inf
) -> list[FloatArray]:
    """Curves that hold near ``choice``: 0 there, what changes one level below and above alone, float64 [levels].

    Groups that ``until`` of ``perf_counter`` leaves no time for keep the shape of their own curve.
    """
    base = measure(choice)
    local = []
    for number, (group, curve) in enumerate(zip(groups.groups, curves, strict=True)):
        level, last = int(choice[number]), len(group.levels) - 1
        below, above = max(level - 1, 0), min(level + 1, last)
        levels = {below, above} - {level} if perf_counter() < until else ()
        known = {at: measure(_with(choice, number, at)) - base for at in levels}
        local.append(_bent(curve, level, known))
    return local


def _with(choice: IntArray, number: int, level: int) -> IntArray:
    changed = choice.copy()
    changed[number] = level
    return changed


def _curve(group: Group, known: Mapping[int, float]) -> FloatArray:
    """Through the known levels, made to rise; in between, the shape of the ranking's costs."""
    curve, levels = np.zeros(len(group.levels)), sorted(known)
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


def _bent(curve: FloatArray, level: int, known: Mapping[int, float]) -> FloatArray:
    """``curve`` less its value at ``level``, stretched on either side to what is known there."""
    local: FloatArray = curve - (curve[level] if np.isfinite(curve[level]) else 0.0)
    for at, change in known.items():
        side = slice(0, level) if at < level else slice(level + 1, len(curve))
        if not (np.isfinite(change) and np.isfinite(local[at])):
            continue
        distance = abs(local[at])
        if distance > 0:
            rise = change if at > level else -change
            local[side] *= float(np.clip(rise / distance, *_STRETCH))
        elif at > level:
            local[side] = np.maximum(local[side], change)
    return local
