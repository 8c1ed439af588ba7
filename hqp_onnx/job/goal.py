"""The reverse question: how fast the result must be, whatever that costs.

The plans of the path are timed until the slowest is found that is fast enough; then plans near it that diverge less in
the same time. Where that plan is not fastest as it was timed, this is done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from hqp_onnx.allocation.search import Point, refine
from hqp_onnx.arrays import IntArray
from hqp_onnx.errors import ModelError
from hqp_onnx.job.allocation import AGAIN, Choosing, choosing, first_path, note_on, refinement_seconds, retimed
from hqp_onnx.job.candidate import Candidate, Precision
from hqp_onnx.job.evidence import Evidence
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.options import Options
from hqp_onnx.job.path import PlanPath
from hqp_onnx.job.precision import as_asked, fails
from hqp_onnx.job.search import bisect
from hqp_onnx.job.setup import Setup
from hqp_onnx.job.shipping import NOISE


class Timed(Protocol):
    """Something that was timed beside the original."""

    @property
    def speedup(self) -> float:
        """Time of the original over its own."""

    @property
    def latency_ms(self) -> float:
        """Its median, in milliseconds."""


@dataclass(frozen=True)
class Goal:
    """So many times as fast as the original, or a latency in milliseconds."""

    speedup: float | None
    latency_ms: float | None

    @classmethod
    def of(cls, options: Options) -> Goal | None:
        """What was asked for, if anything."""
        asked = options.speedup, options.target_latency
        return None if asked == (None, None) else cls(*asked)

    def met(self, timed: Timed, margin: float = -NOISE) -> bool:
        """Whether a time is good enough, by a share of it more than that."""
        if self.speedup is not None:
            return timed.speedup >= (1 + margin) * self.speedup
        assert self.latency_ms is not None
        return (1 + margin) * timed.latency_ms <= self.latency_ms


@dataclass(frozen=True)
class Reached:
    """The best candidate found that is fast enough, or the fastest: in FP32, and in the precision that was asked for.

    Attributes:
        path: of plans over the whole range of times.
        pruned: the candidate in FP32.
        chosen: in the precision that was asked for.
        note: on the times.
        notes: on the precision.
    """

    path: PlanPath
    pruned: Candidate
    chosen: Candidate
    note: str
    notes: tuple[str, ...]


def reach(setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence, goal: Goal) -> Reached:
    """The candidate for a goal."""
    chosen = choosing(setup, ledger, evidence)
    choices = first_path(ledger, chosen.allocation)
    choice = _reached(setup, ledger, chosen, choices, goal, "reached")
    if (again := retimed(setup, ledger, chosen, choice)) is not None:
        chosen = again
        choices = first_path(ledger, chosen.allocation, AGAIN)
        choice = _reached(setup, ledger, chosen, choices, goal, f"reached{AGAIN}")
    allocation, timing = chosen.allocation, chosen.timing
    pruned = Candidate(allocation.groups.plan(choice))
    judge.trial(pruned)
    ships, notes = pruned, tuple[str, ...]()
    try:
        ships = as_asked(setup, ledger, judge.models, pruned, timing.threads)
        if timing.precision is Precision.DYNAMIC:
            ships = replace(pruned, precision=Precision.DYNAMIC)
        judge.trial(ships)
    except ModelError as e:
        ships, notes = pruned, (fails(setup, e),)
    ordered = sorted([*choices, choice], key=allocation.program.seconds, reverse=True)
    plans = PlanPath(tuple(allocation.groups.plan(other) for other in ordered))
    return Reached(plans, pruned, ships, note_on(allocation.program), notes)


def _reached(
    setup: Setup, ledger: Ledger, chosen: Choosing, choices: Sequence[IntArray], goal: Goal, name: str
) -> IntArray:
    """The slowest choice that is fast enough as timed, or the fastest, and then one near it that diverges less."""
    allocation, timing = chosen.allocation, chosen.timing

    def too_slow(number: int) -> bool:
        return not goal.met(timing.beside(setup, allocation.groups.plan(choices[number])), NOISE)

    def found() -> list[int]:
        with ledger.timed(name.replace("-", ", ")):
            last = bisect(len(choices) - 1, 1, too_slow) if too_slow(0) else -1
            slowest = choices[min(last + 1, len(choices) - 1)]
            most, limit = allocation.closely(slowest), chosen.times.seconds(slowest)
            if not 0 < most < np.inf:
                return list(map(int, slowest))

            def closest(points: Sequence[Point]) -> Point:
                return min(points, key=lambda point: (point.seconds > limit, point.divergence))

            report, seconds = partial(setup.progress, "refinement"), refinement_seconds(ledger)
            refined = refine(allocation, chosen.times, slowest, most, closest, seconds, report)
            return list(map(int, refined.best.choice))

    return np.array(ledger.once(name, found), np.int64)
