"""Scores of units, the order in which they are removed, the least widths, and the alignment of widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.errors import UsageError


def unit_scores(filters: Mapping[str, FloatArray], channels: ChannelMap, axes: Mapping[str, int]) -> FloatArray:
    """Sum of the scores of the filters that belong to each unit.

    Args:
        filters: weight -> float64 [filters].
        channels: the units; label -1 along a filter axis belongs to none.
        axes: weight -> filter axis, as ``filter_weights`` gives them.

    Returns:
        float64 [units]; a unit without a scored filter is +inf: nothing is known of it, so it is removed last.
    """
    scores, known = np.zeros(channels.units), np.zeros(channels.units, bool)
    for weight, values in filters.items():
        labels = channels.members.get(ParamAxis(weight, axes[weight]))
        if labels is None:
            continue
        member = labels >= 0
        np.add.at(scores, labels[member], values[member])
        known[labels[member]] = True
    return np.where(known, scores, np.inf)


def removal_order(scores: FloatArray, channels: ChannelMap, min_width: float, *, branches: bool = False) -> IntArray:
    """Prunable units, ascending by score, without those that some tensor needs for its ``min_width``.

    Args:
        scores: one per unit, float64 [units].
        channels: the units.
        min_width: share of the units of every parameter axis and tensor that stays, 0..1; one always stays.
        branches: whether all units of a branch may be removed; ``scores`` must then be those of a ``Ranking``, by which
            the last of them are removed together.
    """
    floors = Floors(channels, min_width, branches=not branches)
    ascending = channels.prunable[np.argsort(scores[channels.prunable], kind="stable")]
    return np.asarray([unit for unit in ascending.tolist() if floors.take(unit)], np.int64)


def with_branches(
    scores: FloatArray, channels: ChannelMap, min_width: float, gains: FloatArray | None = None
) -> FloatArray:
    """``scores`` per gain, where the last units of each branch, ``min_width`` of it, are removed as one.

    Args:
        scores: float64 [units], of each unit alone.
        channels: the units.
        min_width: see ``removal_order``.
        gains: float64 [units], above 0; None for 1.
    """
    changed = scores.copy() if gains is None else scores / gains
    for units in channels.branches:
        last = units[np.argsort(scores[units], kind="stable")][-least_width(min_width, len(units)) :]
        changed[last] = scores[last].sum() / (1 if gains is None else gains[last].sum())
    return changed


def least_width(min_width: float, units: int) -> int:
    """How many of its ``units`` a tensor keeps."""
    return max(1, int(np.ceil(min_width * units)))


def first_removed(scores: FloatArray, units: Sequence[int] | IntArray) -> FloatArray:
    """``scores`` by which ``units`` are removed before all others, in this order.

    Args:
        scores: float64 [units].
        units: distinct.
    """
    lowest = scores[np.isfinite(scores)].min(initial=0)
    changed = np.where(scores == -np.inf, lowest, scores)
    changed[np.asarray(units, np.int64)] = lowest - np.arange(len(units), 0, -1)
    return changed


class Floors:
    """How many units every parameter axis and tensor can still lose.

    Args:
        channels: the units.
        min_width: share of the units of every line that stays, 0..1; one always stays.
        branches: whether lines of branches must keep that share, too.

    Raises:
        UsageError: ``min_width`` is not a share.
    """

    def __init__(self, channels: ChannelMap, min_width: float, branches: bool = True) -> None:
        check_min_width(min_width)
        self._lines: list[list[int]] = [[] for _ in range(channels.units)]
        self._spare: list[int] = []
        for line in channels.lines:
            units = np.unique(line)
            if not branches and channels.branch_of[units[0]] >= 0:
                continue
            for unit in units.tolist():
                self._lines[unit].append(len(self._spare))
            self._spare.append(len(units) - least_width(min_width, len(units)))

    def take(self, unit: int) -> bool:
        """Whether the unit can be removed; if so, it counts as removed from now on."""
        can = all(self._spare[line] > 0 for line in self._lines[unit])
        for line in self._lines[unit] if can else ():
            self._spare[line] -= 1
        return can


def aligned(removed: IntArray, channels: ChannelMap, multiple: int) -> IntArray:
    """``removed`` without the units that are put back to make widths multiples of ``multiple``.

    For each parameter axis of at least that width, the units that would be removed last are put back until the
    remaining width is a multiple, or nothing is removed along that axis.

    Args:
        removed: units in the order in which they are removed.
        channels: the units.
        multiple: 1 or more; integer kernels work on 8, 16 or 32 channels at a time.
    """
    check_multiple(multiple)
    rank = np.full(channels.units + 1, -1)  # the last entry is for label -1, which is never removed
    rank[removed] = np.arange(len(removed))
    lines = _touched([labels for labels in channels.members.values() if len(labels) >= multiple], rank)
    changed = multiple > 1
    while changed:
        changed = False
        for line in lines:
            ranks = rank[line]
            while (ranks >= 0).any() and (ranks < 0).sum() % multiple:
                rank[line[np.argmax(ranks)]] = -1
                ranks = rank[line]
                changed = True
    return removed[rank[removed] >= 0]


def _touched(lines: list[IntArray], rank: IntArray) -> list[IntArray]:
    """Those that lose any of their units."""
    if not lines:
        return []
    starts = np.cumsum([0, *map(len, lines[:-1])])
    touched = np.logical_or.reduceat(rank[np.concatenate(lines)] >= 0, starts)
    return [line for line, any_removed in zip(lines, touched, strict=True) if any_removed]


def check_min_width(min_width: float) -> None:
    """Raise ``UsageError`` unless it is a share."""
    if not 0 <= min_width <= 1:
        raise UsageError(f"{{--min_width}} {min_width}: expected a share in 0..1")


def check_multiple(multiple_of: int) -> None:
    """Raise ``UsageError`` unless widths can be multiples of it."""
    if multiple_of < 1:
        raise UsageError(f"{{--multiple_of}} {multiple_of}: expected 1 or more")
