"""Latency of several models side by side: warmed up, then run in turn, so that noise meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hqp_onnx.runtime import Array, Runner

WARM_UP = 5


@dataclass(frozen=True)
class Latency:
    """Milliseconds per run of one batch: median, 10th and 90th percentile, number of runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


def measure(
    sessions: Mapping[str, Runner],
    feeds: Mapping[str, Array],
    seconds: float = 4.0,
    runs: int = 400,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Latency]:
    """Latency of every session on the same feeds; rounds end after ``runs`` or ``seconds``, 20 at least.

    ``progress`` is called with the rounds done and the most that there can be.
    """
    for session in sessions.values():
        for _ in range(WARM_UP):
            session.run(feeds)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    for done in range(runs):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(feeds)
            times[name].append(1e3 * (time.perf_counter() - start))
        if progress:
            progress(done + 1, runs)
        if done >= 20 and time.perf_counter() > end:
            break
    return {name: _summary(np.asarray(values)) for name, values in times.items()}


def _summary(values: Array) -> Latency:
    low, median, high = (float(np.percentile(values, q)) for q in (10, 50, 90))
    return Latency(median, low, high, len(values))
