"""Latency of several models side by side: in turn, so noise meets all alike, and each as if it ran alone.

A turn is many runs of one model. Every session has threads of its own, which spin after a run, onnxruntime's for 40 ms
by default, on the cores that the next session needs: with one run a turn, a model may take three times as long as alone
(tools/check_latency.py). A turn therefore begins when the process is at rest, and its first runs, which find cold
caches and sleeping threads, do not count. Turns are short beside the slow seconds of shared machines, and speedups are
medians of the ratios within a round, which such a second meets as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.markup import Table, table
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.stopwatch import remembered, stopwatch

WARM_UP_SECONDS, TURN_SECONDS = 0.005, 0.02
_FEWEST_RUNS, _MOST_RUNS = 3, 50  # of a turn
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 40


@dataclass(frozen=True)
class Latency:
    """Time of one run of a batch.

    Attributes:
        median_ms, p10_ms, p90_ms: milliseconds: median, 10th and 90th percentile.
        runs: that were measured.
        speedup: time of the first session that was measured beside it over its own.
        joules: of a sample, where a board was asked for it and can say it.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    speedup: float
    joules: float | None = None


class Latencies(dict[str, Latency]):
    """Latencies of models that were measured in turn, by name."""

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = tuple(
            (name, *(f"{x:.3f}" for x in (each.median_ms, each.p10_ms, each.p90_ms)), f"{each.speedup:.2f}x")
            for name, each in self.items()
        )
        return table(Table("", ("model", "median ms", "p10", "p90", "speedup"), rows))


def measure(
    sessions: Mapping[str, Runner],
    feeds: Mapping[str, Array],
    seconds: float = 4.0,
    progress: StageProgress | None = None,
) -> dict[str, Latency]:
    """Latency of every session on the same feeds, in runs back to back.

    Rounds of turns end after ``seconds`` (5 at least, 40 at most). ``progress`` is called with the rounds done and the
    most that there can be.
    """
    names, runners = list(sessions), list(sessions.values())
    turns = remembered(runners, feeds, f"in turn, {seconds:g} s", lambda: _in_turn(runners, feeds, seconds, progress))
    first = turns[0] if turns else []
    return {name: _summary(times, first) for name, times in zip(names, turns, strict=True)}


def most_seconds(sessions: int) -> float:
    """What ``measure`` takes for so many fast sessions at most: of slow ones, it takes the seconds that it is given."""
    return _MOST_ROUNDS * sessions * (WARM_UP_SECONDS + TURN_SECONDS)


def fastest(sessions: Sequence[Runner], feeds: Mapping[str, Array], seconds: float = 4.0) -> int:
    """The number of the fastest session; see ``measure``."""
    latencies = measure({str(number): session for number, session in enumerate(sessions)}, feeds, seconds)
    return max(range(len(sessions)), key=lambda number: latencies[str(number)].speedup)


def _in_turn(
    runners: Sequence[Runner], feeds: Mapping[str, Array], seconds: float, progress: StageProgress | None
) -> list[list[list[float]]]:
    """Milliseconds of each run, by session and turn."""
    watches = [stopwatch(runner, feeds) for runner in runners]
    turns: list[list[list[float]]] = [[] for _ in watches]
    end = time.perf_counter() + seconds
    for done in range(1, _MOST_ROUNDS + 1):
        for taken, watch in zip(turns, watches, strict=True):
            times = watch(WARM_UP_SECONDS, TURN_SECONDS, _FEWEST_RUNS, _MOST_RUNS, rest=True)
            taken.append([1e3 * spent for spent in times])
        if progress:
            progress(done, _MOST_ROUNDS)
        if done >= _FEWEST_ROUNDS and time.perf_counter() > end:
            break
    return turns


def _summary(turns: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Latency:
    times = np.concatenate(turns)
    low, median, high = (float(np.percentile(times, q)) for q in (10, 50, 90))
    ratios = [np.median(other) / np.median(turn) for other, turn in zip(first, turns, strict=True)]
    return Latency(median, low, high, len(times), float(np.median(ratios)))
