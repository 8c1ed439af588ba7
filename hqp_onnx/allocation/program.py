"""The choice of least loss within a time, exactly: a mixed-integer program.

    minimise    sum over groups g of loss_g(level of g)
    subject to  sum over kernels of t(levels of its groups) <= limit

A kernel's time that is a product of two widths is a table over pairs of levels; its variables are bound to those of the
two groups by their sums along rows and columns, and need not be whole numbers themselves. Solved by HiGHS.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from hqp_onnx.allocation.groups import Groups
from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.boundary import silenced
from hqp_onnx.timing.table import KernelTime, TimeTable

_SECONDS, _GAP = 3.0, 1e-3  # the best choice found by then is taken
_SCALE = 1e4  # of the losses: HiGHS stops at absolute gaps of 1e-6

Losses = Sequence[FloatArray]
"""Loss of each level of each group."""


class Program:
    """The program of one model and one time table: ``error`` and ``source`` are the table's.

    A part of a kernel's time that depends on more than two groups counts the others as there.

    Args:
        groups: of the model.
        table: its times.
    """

    def __init__(self, groups: Groups, table: TimeTable) -> None:
        self._widths = [group.widths for group in groups.groups]
        self._start = np.concatenate([[0], np.cumsum([len(widths) for widths in self._widths], dtype=np.int64)])
        self._fixed, self.error, self.source = table.rest, table.error, table.source
        self._tables: dict[tuple[int, ...], FloatArray] = {}
        for kernel in table.kernels.values():
            self._add(kernel)

    def seconds(self, choice: IntArray) -> float:
        """Time of a choice, as the program sees it."""
        return self._fixed + sum(float(table[tuple(choice[list(groups)])]) for groups, table in self._tables.items())

    def solve(self, losses: Losses, limit: float, near: IntArray | None = None, reach: int = 0) -> IntArray | None:
        """The choice of least summed loss within ``limit`` seconds; None where there is none, or no group.

        Args:
            losses: see ``Losses``.
            limit: seconds.
            near: with ``reach``, only choices that differ from it by so many levels in each group.
            reach: 0 for any.
        """
        if not self._widths:
            return None
        pairs = [groups for groups in self._tables if len(groups) == 2]
        first, count = {}, int(self._start[-1])
        for pair in pairs:
            first[pair], count = count, count + self._tables[pair].size
        objective, seconds = np.zeros(count), np.zeros(count)
        for number, loss in enumerate(losses):
            objective[self._start[number] : self._start[number + 1]] = loss
        for groups, table in self._tables.items():
            at = first[groups] if len(groups) == 2 else self._start[groups[0]]
            seconds[at : at + table.size] += table.ravel()
        unit = 1 / max(limit, 1e-12)
        rows = _Rows(count)
        for number in range(len(losses)):
            rows.add(np.arange(self._start[number], self._start[number + 1]), 1.0, 1, 1)
        rows.add(np.arange(count), seconds * unit, -np.inf, (limit - self._fixed) * unit)
        for pair in pairs:
            self._bind(rows, pair, first[pair])
        whole = np.zeros(count)
        whole[: self._start[-1]] = 1
        finite = objective[np.isfinite(objective)].max(initial=0) or 1.0
        with silenced():  # HiGHS prints a line of its own in some cases
            found = milp(
                np.where(np.isfinite(objective), objective, 1e3 * finite) / finite * _SCALE,
                constraints=rows.constraint(),
                integrality=whole,
                bounds=Bounds(0, self._allowed(count, near, reach)),
                options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
            )
        if found.x is None:
            return None
        starts = zip(self._start, self._start[1:], strict=False)
        return np.array([int(np.argmax(found.x[start:stop])) for start, stop in starts], np.int64)

    def _allowed(self, count: int, near: IntArray | None, reach: int) -> FloatArray:
        """Upper bounds of the variables."""
        allowed = np.ones(count)
        if near is not None and reach:
            for number, level in enumerate(near):
                levels = np.arange(len(self._widths[number]))
                allowed[self._start[number] + levels[abs(levels - level) > reach]] = 0
        return allowed

    def _bind(self, rows: _Rows, pair: tuple[int, ...], at: int) -> None:
        """A pair's row and column sums are the levels of its groups."""
        shape = self._tables[pair].shape
        cells = at + np.arange(shape[0] * shape[1]).reshape(shape)
        for axis, group in enumerate(pair):
            for level, line in enumerate(cells if axis == 0 else cells.T):
                variables = np.append(line, self._start[group] + level)
                rows.add(variables, np.append(np.ones(len(line)), -1.0), 0, 0)

    def _add(self, kernel: KernelTime) -> None:
        """Add a kernel's time to the tables."""
        for part in kernel.parts:
            axes = tuple(sorted(list(dict.fromkeys((*part.axes, *kernel.owners)))[:2]))
            along = np.ix_(*(self._widths[group] for group in axes))
            time = kernel.part_seconds(part, dict(zip(axes, along, strict=True)))
            if not axes:
                self._fixed += float(time)
                continue
            table = self._tables.setdefault(axes, np.zeros([len(self._widths[g]) for g in axes]))
            table += time


class _Rows:
    """Constraints, one by one."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._low: list[float] = []
        self._high: list[float] = []
        self._parts: list[tuple[IntArray, FloatArray]] = []

    def add(self, variables: IntArray, values: FloatArray | float, low: float, high: float) -> None:
        """``low`` <= sum of values times variables <= ``high``."""
        self._parts.append((variables, np.broadcast_to(np.asarray(values, np.float64), variables.shape)))
        self._low.append(low)
        self._high.append(high)

    def constraint(self) -> LinearConstraint:
        """All of them."""
        numbers = np.repeat(np.arange(len(self._parts)), [len(variables) for variables, _ in self._parts])
        columns = np.concatenate([variables for variables, _ in self._parts])
        values = np.concatenate([value for _, value in self._parts])
        matrix = coo_matrix((values, (numbers, columns)), (len(self._parts), self._columns))
        return LinearConstraint(matrix.tocsr(), self._low, self._high)
