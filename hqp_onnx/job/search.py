"""How far along a path: Algorithm 1 of the paper, and a search in log steps under the same budget.

Both walk one path: units in one order, least sensitive first, in steps of delta, or the plans of an allocation, slowest
first. ``linear`` is Algorithm 1 to the letter: remove the next delta, evaluate, stop at the first violation. ``bisect``
assumes that the metric falls with every step, and finds the last admissible one in about log2(1 / delta) evaluations,
or in two or three from a good guess on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from hqp_onnx.errors import UsageError
from hqp_onnx.registry import Registry, outside_code

Verdict = Callable[[int], bool]
"""Whether the candidate of that count is inside the budget; the counts of one path mean ever more removed."""

Search = Callable[[int, int, Verdict], int]
"""(limit, step, admits) -> the count to ship: 0, or one up to ``limit`` that ``admits`` was asked for and admitted."""

SEARCHES: Registry[Search] = Registry("search", "hqp_onnx.searches")


def last_admissible(name: str, limit: int, step: int, admits: Verdict, guess: int | None = None) -> int:
    """What the search called ``name`` finds; ``bisect`` begins with the ``guess``, if there is one.

    Raises:
        UsageError: it fails, asks for a count that there is not, or ends in one that was not admitted.
    """
    admitted = {0}

    def asked(count: int) -> bool:
        if not isinstance(count, (int, np.integer)) or not 0 <= count <= limit:
            raise UsageError(f"search '{name}' asks for {count!r}: expected a whole number from 0 to {limit}")
        if not admits(int(count)):
            return False
        admitted.add(int(count))
        return True

    search = partial(bisect_from, guess) if name == "bisect" else SEARCHES.get(name)
    with outside_code(f"search '{name}' failed"):
        count = search(limit, step, asked)
    if not isinstance(count, (int, np.integer)) or count not in admitted:
        raise UsageError(f"search '{name}' ends in {count!r}: expected 0, or a count that was admitted")
    return int(count)


def step_size(step: float, units: int) -> int:
    """Units per step: the share ``step`` of all prunable units, at least one."""
    return max(1, round(step * units))


@SEARCHES.register("bisect")
def bisect(limit: int, step: int, admits: Verdict) -> int:
    """Units removed by bisection over the same candidates; 0 units are assumed to be admissible."""
    return bisect_from(None, limit, step, admits)


def bisect_from(guess: int | None, limit: int, step: int, admits: Verdict) -> int:
    """The same; from a guess, a number of candidates, in strides that double until the last admissible is passed."""
    counts = [0, *candidates(limit, step)]
    low, high, stride = 0, len(counts), 1
    while high - low > 1:
        middle = (low + high) // 2 if guess is None else max(low + 1, min(guess, high - 1))
        if admits(counts[middle]):
            low = middle
            guess = None if guess is None or high < len(counts) else middle + stride
        else:
            high = middle
            guess = None if guess is None or low else middle - stride
        stride *= 2
    return counts[low]


@SEARCHES.register("linear")
def linear(limit: int, step: int, admits: Verdict) -> int:
    """Units removed by Algorithm 1: steps up to ``limit`` units, until the first violation."""
    accepted = 0
    for count in candidates(limit, step):
        if not admits(count):
            break
        accepted = count
    return accepted


def candidates(limit: int, step: int) -> Iterator[int]:
    """delta, 2 delta, ... and ``limit`` itself."""
    yield from range(step, limit, step)
    if limit > 0:
        yield limit
