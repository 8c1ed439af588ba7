"""Groups of units that share a width, and the widths that each may take.

Units that occur along one axis, or along axes that share units, form a group: its width is one number of the model.
Within a group, units are removed in the order of a ranking; how many is the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.ranking.order import aligned

_MOST_LEVELS = 16
_FINER = 8  # counts that are looked at for each level that is kept
_STEPS = 6  # that even a narrow group has, where its width allows


@dataclass(frozen=True, eq=False)
class Group:
    """Units that share a width.

    Attributes:
        size: its units, those that must stay included.
        levels: removed units, from none to as many as may be removed: ever more, each int64, the first empty.
        costs: what the ranking says that each level costs, float64 [levels], ascending from 0.
    """

    size: int
    levels: tuple[IntArray, ...]
    costs: FloatArray

    @property
    def widths(self) -> IntArray:
        """Units left at each level, int64 [levels]."""
        return np.array([self.size - len(units) for units in self.levels])


@dataclass(frozen=True, eq=False)
class Groups:
    """All groups of a model that have a choice. A *choice* is the level of each, int64 [groups]."""

    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def whole(self) -> IntArray:
        """The choice that removes nothing."""
        return np.zeros(len(self), np.int64)

    @property
    def least(self) -> IntArray:
        """The choice that removes all it may."""
        return np.array([len(group.levels) - 1 for group in self.groups], np.int64)

    def widths(self, choice: IntArray) -> IntArray:
        """Units left in each group."""
        pairs = zip(self.groups, choice, strict=True)
        return np.array([group.size - len(group.levels[level]) for group, level in pairs], np.int64)

    def widths_of(self, plan: PruningPlan) -> IntArray:
        """Units that any plan leaves in each group."""
        removed = (np.isin(group.levels[-1], plan.removed).sum() for group in self.groups)
        return np.array([group.size - gone for group, gone in zip(self.groups, removed, strict=True)], np.int64)

    def plan(self, choice: IntArray) -> PruningPlan:
        """What a choice removes."""
        parts = [group.levels[level] for group, level in zip(self.groups, choice, strict=True)]
        return PruningPlan(np.concatenate([np.zeros(0, np.int64), *parts]))


def find_groups(channels: ChannelMap, order: IntArray, costs: FloatArray, multiple: int) -> Groups:
    """The groups of a model, in the order of their first units.

    Args:
        channels: the units.
        order: those that may be removed, in the order of removal.
        costs: of the removal of each unit, float64 [units].
        multiple: what widths stay multiples of; narrow groups take a smaller power of two.
    """
    place = np.full(channels.units, -1)
    place[order] = np.arange(len(order))
    groups = []
    for units in _connected(channels):
        own = units[place[units] >= 0]
        group = _group(channels, units, own[np.argsort(place[own])], costs, multiple)
        if len(group.levels) > 1:
            groups.append(group)
    return Groups(tuple(groups))


def _connected(channels: ChannelMap) -> list[IntArray]:
    """Units by group, each int64, sorted."""
    sets = []
    for axes in channels.groups():
        units = np.unique(np.concatenate([channels.members[axis] for axis in axes]))
        sets.append(units[units >= 0])
    return sorted((units for units in sets if units.size), key=lambda units: int(units[0]))


def _group(channels: ChannelMap, units: IntArray, order: IntArray, costs: FloatArray, multiple: int) -> Group:
    step = min(multiple, 2 ** int(np.log2(max(1, len(units) // _STEPS))))
    levels: dict[int, IntArray] = {}
    for count in np.unique(np.linspace(0, len(order), _FINER * _MOST_LEVELS + 1).round().astype(int)).tolist():
        removed = aligned(order[:count], channels, step)
        levels.setdefault(len(removed), removed)
    chosen = _thinned([levels[count] for count in sorted(levels)])
    return Group(len(units), chosen, np.array([np.maximum(costs[removed], 0).sum() for removed in chosen]))


def _thinned(levels: Sequence[IntArray]) -> tuple[IntArray, ...]:
    """At most so many of them, the first and the last included."""
    if len(levels) <= _MOST_LEVELS:
        return tuple(levels)
    kept = np.unique(np.round(np.linspace(0, len(levels) - 1, _MOST_LEVELS)).astype(int))
    return tuple(levels[number] for number in kept)
