"""How many units leave: Algorithm 1 of the paper, and a search in log steps under the same budget.

Both walk one fixed order, least sensitive first, in steps of delta units. ``linear`` is Algorithm 1 to the
letter: remove the next delta, evaluate, stop at the first violation. ``bisect`` supposes that the metric falls
with every step, and finds the last admissible one in about log2(1 / delta) evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hqp_onnx.errors import UsageError

Verdict = Callable[[int], bool]
"""Whether the candidate without the first n units of the order is inside the budget."""


def step_size(step: float, units: int) -> int:
    """Units per step: the fraction ``step`` of all prunable units, at least one."""
    if not 0 < step <= 1:
        raise UsageError(f"--step {step}: expected a fraction in 0..1, such as 0.01 for one percent")
    return max(1, round(step * units))


def linear(limit: int, step: int, admits: Verdict) -> int:
    """Units removed by Algorithm 1: steps up to ``limit`` units, until the first violation."""
    accepted = 0
    for count in candidates(limit, step):
        if not admits(count):
            break
        accepted = count
    return accepted


def bisect(limit: int, step: int, admits: Verdict) -> int:
    """Units removed by bisection over the same candidates; 0 units are taken to be admissible."""
    counts = [0, *candidates(limit, step)]
    low, high = 0, len(counts)
    while high - low > 1:
        middle = (low + high) // 2
        if admits(counts[middle]):
            low = middle
        else:
            high = middle
    return counts[low]


def candidates(limit: int, step: int) -> Iterator[int]:
    """delta, 2 delta, ... and ``limit`` itself."""
    yield from range(step, limit, step)
    if limit > 0:
        yield limit


SEARCHES: dict[str, Callable[[int, int, Verdict], int]] = {"bisect": bisect, "linear": linear}
