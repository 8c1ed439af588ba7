"""Where the ways of a network run beside its rows: a lane for every result that a later row still reads.

A row takes the lane of a result that it is the last to read, the leftmost of them, and else the leftmost free lane. So
what a branch goes around stays in its lane, and the branch runs to the right of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lanes:
    """``of``: the lane of each row; ``count``: of them all."""

    of: tuple[int, ...]
    count: int


def lanes(reads: Sequence[Sequence[int]]) -> Lanes:
    """The lanes of rows, each of which reads rows before it."""
    last = {read: row for row, reading in enumerate(reads) for read in reading}
    taken: dict[int, int] = {}  # lane -> the row whose result runs in it
    of: list[int] = []
    for row, reading in enumerate(reads):
        ending = sorted(lane for lane, held in taken.items() if held in reading and last[held] == row)
        for lane in ending:
            del taken[lane]
        free = next(lane for lane in range(len(taken) + 1) if lane not in taken)
        of.append(ending[0] if ending else free)
        if row in last:
            taken[of[-1]] = row
    return Lanes(tuple(of), max(of, default=0) + 1)
