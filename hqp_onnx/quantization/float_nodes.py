"""Which nodes of an INT8 model are better left in float: for speed, and for accuracy; both measured, not guessed.

Speed. An integer kernel saves arithmetic and pays for quantizing and dequantizing at its borders, so neighbours decide
together. Starting from the faster of all-INT8 and all-float, by however little, blocks of consecutive nodes (halves,
quarters, ... single nodes) are switched one by one, either way; a switch stays if the model with it is faster beyond
the noise, twice. The two models run in turn; a chunk of turns is one measurement, and the noise is three standard
errors of the chunks' mean gain. What runs first in a turn does not count: caches are cold, and threads of the other
model may still be awake.

Accuracy. The error of a node is what quantizing it alone does to the model's outputs: ||y_v - y||^2 / ||y||^2 on
calibration samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.stopwatch import Stopwatch, stopwatch

Open = Callable[[Collection[str]], Runner]
"""Opens the model in which the named nodes stay in float; its threads sleep while another model runs."""

SECONDS, RUNS = 30.0, 2000  # of one search: at least so long, and the time of so many runs of the model
_SHARE = 0.01  # of that time, for one comparison
_SETTLE_SECONDS = 0.0015  # of a turn, before what counts
_TURN_SECONDS = 0.00125  # what counts
_CHUNKS = 6  # consecutive runs are not independent, so a chunk of turns counts as one measurement
_CERTAIN = 3.0  # standard errors
_WORTHWHILE = 0.003  # of the latency


@dataclass(frozen=True)
class Difference:
    """Seconds per run that the second model takes less than the first, its standard error, and the first's median."""

    gain: float
    error: float
    median: float

    @property
    def noise(self) -> float:
        """A smaller gain means nothing."""
        return max(_CERTAIN * self.error, _WORTHWHILE * self.median)


def compare(first: Runner, second: Runner, feeds: Mapping[str, Array], seconds: float) -> Difference:
    """Runs in turn, each as often before as after the other, until the sign is certain or ``seconds`` are over."""
    end = time.perf_counter() + seconds
    one, other = stopwatch(first, feeds), stopwatch(second, feeds)
    slower = max(watch(_SETTLE_SECONDS, 0, 1, 1)[0] for watch in (other, one))
    runs = max(1, math.ceil(_TURN_SECONDS / max(slower, 1e-6)))
    chunks: list[tuple[float, float]] = []
    while True:
        chunks.append(_chunk(one, other, runs))
        if len(chunks) < _CHUNKS:
            continue
        gains, medians = zip(*chunks, strict=True)
        error = float(np.std(gains)) / math.sqrt(len(chunks) - 1)
        difference = Difference(float(np.mean(gains)), error, float(np.median(medians)))
        if abs(difference.gain) > difference.noise or time.perf_counter() > end:
            return difference


def _chunk(first: Stopwatch, second: Stopwatch, runs: int) -> tuple[float, float]:
    """Median gain, and median of the first, over n runs of the first, 2 n of the second, n of the first."""
    before = first(0, 0, runs, runs)
    after = second(_SETTLE_SECONDS, 0, 2 * runs, 2 * runs)
    before += first(_SETTLE_SECONDS, 0, runs, runs)
    return float(np.median(np.subtract(before, after))), float(np.median(before))


def faster_in_float(
    nodes: Sequence[str],
    open_with: Open,
    feeds: Mapping[str, Array],
    progress: StageProgress | None = None,
) -> list[str]:
    """Nodes that the fastest model found keeps in float, in order.

    Args:
        nodes: that can be quantized, in topological order.
        open_with: see ``Open``.
        feeds: what one timed run computes.
        progress: called with the blocks tried and their number.
    """
    floats: set[str] = set()
    current = open_with(floats)
    start = time.perf_counter()
    limit = max(SECONDS, RUNS * min(stopwatch(current, feeds)(0, 0, 3, 3)))
    if nodes and compare(current, plain := open_with(set(nodes)), feeds, _SHARE * limit).gain > 0:
        floats, current = set(nodes), plain
    blocks = list(_blocks(nodes))
    for done, block in enumerate(blocks, 1):
        for changed in (floats | set(block), floats - set(block)):
            if changed == floats:
                continue
            candidate = open_with(changed)
            if _surely_faster(candidate, current, feeds, _SHARE * limit):
                floats, current = changed, candidate
        if progress:
            progress(done, len(blocks))
        if time.perf_counter() - start > limit:
            break
    return [node for node in nodes if node in floats]


def _surely_faster(candidate: Runner, current: Runner, feeds: Mapping[str, Array], seconds: float) -> bool:
    """Whether two measurements say so: among many comparisons, some show a gain by chance."""
    differences = (compare(current, candidate, feeds, seconds) for _ in range(2))
    return all(difference.gain > difference.noise for difference in differences)


def _blocks(nodes: Sequence[str]) -> Iterator[Sequence[str]]:
    """Halves of the nodes, quarters, ..., single nodes."""
    size = len(nodes)
    while size > 1:
        size = (size + 1) // 2
        yield from (nodes[start : start + size] for start in range(0, len(nodes), size))


def output_errors(
    nodes: Sequence[str],
    open_with: Open,
    batches: Iterable[Mapping[str, Array]],
    kept: Collection[str] = (),
    progress: StageProgress | None = None,
) -> dict[str, float]:
    """Relative squared error of the outputs when one node alone is quantized.

    Args:
        nodes: to judge.
        open_with: see ``Open``.
        batches: inputs; kept in memory.
        kept: nodes that stay in float throughout.
        progress: called with the nodes judged and their number.
    """
    inputs = list(batches)
    everything = {*nodes, *kept}
    exact = [open_with(everything).run(feeds) for feeds in inputs]
    errors = {}
    for done, node in enumerate(nodes, 1):
        session = open_with(everything - {node})
        pairs = [(want, session.run(feeds)) for want, feeds in zip(exact, inputs, strict=True)]
        wrong = sum(_square(got[name], want[name]) for want, got in pairs for name in want)
        errors[node] = wrong / max(sum(_square(y) for want in exact for y in want.values()), np.finfo(float).tiny)
        if progress:
            progress(done, len(nodes))
    return errors


def _square(values: Array, other: Array | float = 0.0) -> float:
    return float(np.square(np.subtract(values, other, dtype=np.float64)).sum())
