"""A path of plans, numbered: ever more units of one order are removed, or ever faster plans of an allocation follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.job.candidate import plan_key
from hqp_onnx.ranking.order import aligned

_GROWING = tuple(2 ** (power / 2) for power in range(-10, 1))


class Path(Protocol):
    """Plans by number, from 0, which removes nothing."""

    def plan(self, count: int) -> PruningPlan:
        """The plan of a number."""

    def up_to(self, count: int) -> list[int]:
        """Numbers of distinct plans before ``count``, ascending; [0] if there are none."""

    def beyond(self, count: int) -> list[int]:
        """``count`` and numbers of distinct plans beyond it, ascending."""


@dataclass(frozen=True, eq=False)
class PlanPath:
    """Given plans, each faster than the one before."""

    plans: tuple[PruningPlan, ...]

    def plan(self, count: int) -> PruningPlan:
        """The plan of a number."""
        return self.plans[count]

    def up_to(self, count: int) -> list[int]:
        """All numbers before ``count``; [0] if there are none."""
        return list(range(count)) or [0]

    def beyond(self, count: int) -> list[int]:
        """``count`` and all numbers beyond it."""
        return list(range(count, len(self.plans)))


@dataclass(frozen=True, eq=False)
class OrderPath:
    """Plans by how many units they would remove.

    Attributes:
        order: units in the order of removal.
        channels: the units.
        multiple: widths stay multiples of this.
        step: units from one candidate of the search to the next.
    """

    order: IntArray
    channels: ChannelMap
    multiple: int
    step: int

    def __len__(self) -> int:
        return len(self.order)

    def plan(self, count: int) -> PruningPlan:
        """The first ``count`` units, less those that stay for the sake of alignment."""
        return PruningPlan(aligned(self.order[:count], self.channels, self.multiple))

    def distinct(self, counts: Iterable[int]) -> list[int]:
        """The first count of each distinct plan: alignment gives many counts the same plan."""
        first: dict[str, int] = {}
        for count in counts:
            first.setdefault(plan_key(self.plan(count)), count)
        return list(first.values())

    def up_to(self, count: int) -> list[int]:
        """The distinct counts of the search below ``count`` that have another plan; [0] if there are none."""
        return self.distinct([*range(0, count, self.step), count])[:-1] or [0]

    def beyond(self, count: int) -> list[int]:
        """``count`` and distinct counts beyond it, in steps that grow: 1/32, 1/23, 1/16 ... of what is left."""
        rest = len(self) - count
        more = {count + max(round(share * rest), min(self.step, rest)) for share in _GROWING}
        return self.distinct(sorted({count, *more}))
