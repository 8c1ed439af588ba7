"""Latency of several models side by side: in turn, so noise meets all alike, and each as if it ran alone.

A turn is many runs of one model. Every session has threads of its own, which spin after a run, onnxruntime's for 40 ms
by default, on the cores that the next session needs: with one run a turn, a model may take three times as long as alone
(tools/check_latency.py). A turn therefore begins when the process is at rest, and its first runs, which find cold
caches and sleeping threads, do not count. Turns are short beside the slow seconds of shared machines, and speedups are
medians of the ratios within a round, which such a second meets as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Runner, timed_run

WARM_UP_SECONDS, TURN_SECONDS = 0.005, 0.02
_FEWEST_RUNS, _MOST_RUNS = 3, 50  # of a turn
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 40
_LOOK_SECONDS = 0.001  # at process time, which stands still at rest
_PATIENCE_SECONDS = 0.5


@dataclass(frozen=True)
class Latency:
    """Time of one run of a batch.

    Attributes:
        median_ms, p10_ms, p90_ms: milliseconds: median, 10th and 90th percentile.
        runs: that were measured.
        speedup: time of the first session that was measured beside it over its own.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    speedup: float


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
    turns: dict[str, list[list[float]]] = {name: [] for name in sessions}
    timed = {name: timed_run(session, feeds) for name, session in sessions.items()}
    end = time.perf_counter() + seconds
    for done in range(1, _MOST_ROUNDS + 1):
        for name, run in timed.items():
            _rest()
            _runs(run, WARM_UP_SECONDS, 1)
            turns[name].append(_runs(run, TURN_SECONDS, _FEWEST_RUNS))
        if progress:
            progress(done, _MOST_ROUNDS)
        if done >= _FEWEST_ROUNDS and time.perf_counter() > end:
            break
    first = next(iter(turns.values()), [])
    return {name: _summary(times, first) for name, times in turns.items()}


def fastest(sessions: Sequence[Runner], feeds: Mapping[str, Array], seconds: float = 4.0) -> int:
    """The number of the fastest session; see ``measure``."""
    latencies = measure({str(number): session for number, session in enumerate(sessions)}, feeds, seconds)
    return max(range(len(sessions)), key=lambda number: latencies[str(number)].speedup)


def _rest() -> None:
    """Wait until no thread of this process computes, but not for ever: the process may have other work."""
    end = time.perf_counter() + _PATIENCE_SECONDS
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_LOOK_SECONDS)
        if time.process_time() - before < _LOOK_SECONDS / 4:
            return


def _runs(run: Callable[[], object], seconds: float, fewest: int) -> list[float]:
    """Milliseconds of each run, for ``seconds``."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or (len(times) < _MOST_RUNS and time.perf_counter() < end):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _summary(turns: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Latency:
    times = np.concatenate(turns)
    low, median, high = (float(np.percentile(times, q)) for q in (10, 50, 90))
    ratios = [np.median(other) / np.median(turn) for other, turn in zip(first, turns, strict=True)]
    return Latency(median, low, high, len(times), float(np.median(ratios)))
