"""Which channel slices must be removed together: parameter axes, units, pruning plans.

A *unit* is the smallest set of channel slices that must be removed as one. A ``ChannelMap`` gives, for every
axis of every parameter that names channels, the unit of each index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np

from hqp_onnx.arrays import BoolArray, IntArray
from hqp_onnx.channels.heads import HeadProduct
from hqp_onnx.channels.in_file import in_file
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.origin import Home


@dataclass(frozen=True, slots=True, order=True)
class ParamAxis:
    """One axis of one initializer."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class PruningPlan:
    """``removed``: unit numbers, sorted and distinct."""

    removed: IntArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "removed", np.unique(np.asarray(self.removed, np.int64)))

    def __len__(self) -> int:
        return len(self.removed)


@dataclass(frozen=True)
class ChannelMap:
    """Units of a graph.

    Attributes:
        units: their number; unit numbers are 0 .. units - 1.
        members: the unit of each index along a parameter axis, int64 [size of the axis]; -1 = no unit. A unit may
            own several indices of one axis.
        frozen: units that must stay, with the reason.
        tensors: unit numbers that broadcast against each activation tensor's shape (size 1 on an axis along which
            they do not vary); tensors without units are absent.
        branches: sets of units that a plan may remove completely (``branches.find_branches``), each int64, sorted; of
            all other lines of units, some must stay.
        homes: where weights are in the file that was given, see ``of_file``.
        products: weights that meet inside the heads of an attention, whose dimensions are units.
    """

    units: int
    members: Mapping[ParamAxis, IntArray]
    frozen: Mapping[int, str]
    tensors: Mapping[str, IntArray]
    branches: tuple[IntArray, ...] = ()
    homes: Mapping[str, Home] = field(default_factory=dict)
    products: tuple[HeadProduct, ...] = ()

    def __post_init__(self) -> None:
        for key, labels in self.members.items():
            if labels.ndim != 1 or labels.min(initial=-1) < -1 or labels.max(initial=-1) >= self.units:
                raise ValueError(f"members of {key} are not unit numbers below {self.units}")
        if not all(0 <= unit < self.units for unit in self.frozen):
            raise ValueError("a frozen unit is out of range")

    @cached_property
    def lines(self) -> list[IntArray]:
        """Distinct lines of units, -1 left out: parameter axes and tensors."""
        lines = [labels.ravel() for labels in [*self.members.values(), *self.tensors.values()]]
        kept = {line.tobytes(): line for line in (labels[labels >= 0] for labels in lines) if line.size}
        return list(kept.values())

    @cached_property
    def branch_of(self) -> IntArray:
        """The branch of each unit, int64 [units]; -1 for none."""
        numbers = np.full(self.units, -1)
        for number, units in enumerate(self.branches):
            numbers[units] = number
        return numbers

    @cached_property
    def prunable(self) -> IntArray:
        """Units that are not frozen, sorted."""
        free = np.ones(self.units, bool)
        free[list(self.frozen)] = False
        return np.flatnonzero(free)

    def restricted(self, keep: Sequence[str] = (), only: Sequence[str] = (), branches: bool = True) -> ChannelMap:
        """The same units, more of them frozen: those of tensors that match ``keep``, and all but those of ``only``.

        Args:
            keep: shell patterns on names of parameters and activations.
            only: likewise; empty selects all.
            branches: whether branches may be removed as a whole.

        Raises:
            UsageError: a pattern that matches no tensor with units.
        """
        frozen = dict(self.frozen)
        for pattern in keep:
            frozen.update(
                (unit, f"kept by the pattern {pattern}") for unit in self._matching(pattern) if unit not in frozen
            )
        if only:
            chosen = {unit for pattern in only for unit in self._matching(pattern)}
            rest = set(range(self.units)) - chosen - frozen.keys()
            frozen.update(dict.fromkeys(sorted(rest), f"not selected by {' '.join(only)}"))
        whole = tuple(units for units in self.branches if branches and frozen.keys().isdisjoint(units.tolist()))
        return replace(self, frozen=frozen, branches=whole)

    def _matching(self, pattern: str) -> list[int]:
        own, file = self.members.items(), self.of_file().members.items()
        named = [*((key.tensor, labels) for key, labels in (*own, *file)), *self.tensors.items()]
        matching = [labels.ravel() for name, labels in named if fnmatchcase(name, pattern)]
        if not matching:
            raise UsageError(f"'{pattern}' matches no tensor with prunable channels: `hqp inspect` lists them")
        units: list[int] = np.unique(np.concatenate(matching)).tolist()
        return [unit for unit in units if unit >= 0]

    def of_file(self) -> ChannelMap:
        """The same units by the names and axes that weights have in the file that was given."""
        placed = in_file({(key.tensor, key.axis): labels for key, labels in self.members.items()}, self.homes)
        members = {ParamAxis(*place): labels for place, labels in placed.items()}
        return replace(self, members=members, homes={})

    def without(self, plan: PruningPlan) -> ChannelMap:
        """The same units on the graph without those of ``plan``, which count as frozen."""
        gone = self.removed(plan)
        members = {key: labels[~gone[labels]] for key, labels in self.members.items()}
        frozen = {**dict.fromkeys(plan.removed.tolist(), "removed"), **self.frozen}
        rest = (units[~gone[units]] for units in self.branches)
        branches, products = tuple(units for units in rest if units.size), []
        for product in self.products:
            left, right = (
                f.where(~gone[self.members[ParamAxis(f.weight, f.axis)]]) for f in (product.left, product.right)
            )
            if left.index.size:
                products.append(HeadProduct(left, right, product.reads))
        return ChannelMap(self.units, members, frozen, {}, branches, products=tuple(products))

    def groups(self) -> list[list[ParamAxis]]:
        """Parameter axes by shared units, each list and the whole in order of the tensors' names."""
        owner: dict[int, int] = {}
        groups: dict[int, list[ParamAxis]] = {}
        for number, (key, labels) in enumerate(sorted(self.members.items(), key=lambda item: item[0])):
            units = np.unique(labels[labels >= 0]).tolist()
            joined = {owner[unit] for unit in units if unit in owner}
            groups[number] = sorted([key, *(axis for other in joined for axis in groups.pop(other))])
            absorbed = [unit for unit, group in owner.items() if group in joined]
            owner.update(dict.fromkeys([*units, *absorbed], number))
        return sorted(groups.values())

    def removed(self, plan: PruningPlan) -> BoolArray:
        """Mask over units plus a last entry for label -1, which is never removed: index it with labels."""
        mask = np.zeros(self.units + 1, bool)
        mask[plan.removed] = True
        return mask

    def ended(self, plan: PruningPlan) -> int:
        """How many branches a plan removes completely."""
        gone = self.removed(plan)
        return sum(bool(gone[units].all()) for units in self.branches)

    def removed_slices(self, plan: PruningPlan) -> dict[str, dict[int, IntArray]]:
        """The ledger of a plan: initializer -> axis -> removed indices of the original tensor (none empty)."""
        mask = self.removed(plan)
        ledger: dict[str, dict[int, IntArray]] = {}
        for key, labels in sorted(self.members.items(), key=lambda item: item[0]):
            if (gone := np.flatnonzero(mask[labels])).size:
                ledger.setdefault(key.tensor, {})[key.axis] = gone
        return ledger
