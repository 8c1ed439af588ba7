"""What widths of a model take: choices of them, built, profiled and timed on the target, and tables fitted to these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.allocation.groups import Groups
from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.kernels import undisturbed
from hqp_onnx.runtimes.runtime import Profiling
from hqp_onnx.runtimes.stopwatch import remembered, stopwatch
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.timing.fit import Configuration, fit_table
from hqp_onnx.timing.kernel_times import KeyTime, by_key
from hqp_onnx.timing.table import TimeTable

FEWEST, EACH, MOST = 12, 2, 40  # configurations: some, more for each group, no more than
LEAST = FEWEST  # that any table needs
FOLDS = 3  # of the configurations, each of which judges a table of the others
_UNIFORM = (0.25, 0.5, 0.75, 1.0)
_ENDS = 0.25  # chance of a group to be at its last level, so that branches that end are seen
SECONDS, LATE = 40.0, 3.0  # of all configurations, if there are as many as groups by then; else so many times as long
TELLING = 0.9  # of the whole model's time, that of the narrowest must be below
CLEARLY = 1.1  # times as large, an error of kernels' times must be for whole models to come first
KERNELS, MODELS, COUNTED = "kernels", "whole models", "multiply-accumulates alone"
_SETTLE_SECONDS, _RUN_SECONDS = 0.02, 0.1  # of one configuration, whose first runs take longer
_FEWEST_RUNS, _MOST_RUNS, _PROFILED_RUNS = 5, 1000, 100

Built = Callable[[PruningPlan], onnx.ModelProto]
"""The model of a plan; its weights' values do not matter."""


def configurations(groups: Groups, count: int, seed: int) -> list[IntArray]:
    """Choices to measure: whole, evenly narrower, and random ones, the most telling first."""
    rng, least = np.random.default_rng(seed), groups.least
    chosen = [groups.whole, *(np.round(share * least).astype(np.int64) for share in _UNIFORM)]
    while len(chosen) < count:
        ends = rng.random(len(least)) < _ENDS
        chosen.append(np.where(ends, least, rng.integers(0, least + 1)))
    return chosen


def number(groups: Groups) -> int:
    """Of configurations."""
    return min(FEWEST + EACH * len(groups), MOST)


@dataclass(frozen=True)
class Measurement:
    """A choice of widths: its seconds by kernel and as a whole, and its multiply-accumulates, at 1e12 per second."""

    timed: Configuration
    counted: Configuration

    @property
    def seconds(self) -> float:
        """Of a run; what multiply-accumulates say where it was not timed."""
        return self.timed.seconds or self.counted.seconds


def measured(
    groups: Groups,
    choice: IntArray,
    shipped: Built,
    graph_of: Callable[[PruningPlan], gs.Graph],
    target: Target,
    feeds: Mapping[str, Array],
    positions: Mapping[str, int],
    threads: int,
) -> Measurement:
    """A choice, built, profiled and timed; where another runtime stands in for the target's, only counted.

    Args:
        groups: of the model.
        choice: of widths.
        shipped: models in the precision that they ship in.
        graph_of: the same as graphs in float32, for their multiply-accumulates.
        target: where times are measured.
        feeds: what one run computes.
        positions: how often each node's weight is used, by name (``cost.positions``).
        threads: of the runtime.

    Raises:
        ModelError: the runtime cannot run it.
    """
    widths, plan = groups.widths(choice), groups.plan(choice)
    macs = _macs(graph_of(plan), positions)
    counted = Configuration(widths, macs, sum(kernel.seconds for kernel in macs.values()))
    if target.stand_in:
        return Measurement(Configuration(widths, {}, 0.0), counted)
    model = shipped(plan)
    seconds, runs = _whole(model, target, feeds, threads)
    return Measurement(Configuration(widths, _kernels(model, target, feeds, threads, runs), seconds), counted)


class WidthTimes:
    """What choices of widths take: each is measured once, and tables are fitted to all that are.

    Times of kernels are fitted, and times of whole models by the multiply-accumulates of their nodes. Where neither
    tells anything (a model that is all overhead, a target that is not here), multiply-accumulates alone count.

    Args:
        groups: of the model.
        measure: a choice.
        known: choices that were measured before.
    """

    def __init__(
        self, groups: Groups, measure: Callable[[IntArray], Measurement], known: Sequence[Measurement] = ()
    ) -> None:
        self._groups, self._measure = groups, measure
        self._known = {one.counted.widths.tobytes(): one for one in known}
        self._fitted: tuple[int, list[TimeTable]] = 0, []

    def survey(self, progress: StageProgress, seed: int) -> list[Measurement]:
        """Measure some choices within ``SECONDS``; ``progress`` is called with those measured and their number."""
        choices = configurations(self._groups, number(self._groups), seed) if len(self._groups) else []
        end = perf_counter() + SECONDS
        for done, choice in enumerate(choices, 1):
            self.seconds(choice)
            progress(done, len(choices))
            enough = done > max(LEAST, len(self._groups))
            if done > LEAST and perf_counter() > end + (0.0 if enough else (LATE - 1) * SECONDS):
                break
        return [*self._known.values()]

    def seconds(self, choice: IntArray) -> float:
        """Of a run."""
        key = self._groups.widths(choice).tobytes()
        if key not in self._known:
            self._known[key] = self._measure(choice)
        return self._known[key].seconds

    def tables(self) -> list[TimeTable]:
        """The one that predicts best comes first."""
        if self._fitted[0] != len(self._known) or not self._known:
            self._fitted = len(self._known), self._fit([*self._known.values()])
        return self._fitted[1]

    def _fit(self, known: Sequence[Measurement]) -> list[TimeTable]:
        counted, timed = [one.counted for one in known], [one.timed for one in known if one.timed.seconds]
        tables = []
        if timed:
            models = [replace(one.counted, seconds=one.timed.seconds) for one in known]
            tables.append(replace(fit_table(models, FOLDS), source=MODELS))
        if any(one.kernels for one in timed):
            tables.append(replace(fit_table(timed, FOLDS), source=KERNELS))
        whole, least = self._groups.widths(self._groups.whole), self._groups.widths(self._groups.least)
        telling = [table for table in tables if table.seconds(least) < TELLING * table.seconds(whole)]
        error = {KERNELS: 1.0, MODELS: CLEARLY}
        counting = replace(fit_table(counted, 0), source=COUNTED)
        return sorted(telling, key=lambda table: error[table.source] * table.error) or [counting]


def _whole(model: onnx.ModelProto, target: Target, feeds: Mapping[str, Array], threads: int) -> tuple[float, int]:
    """Seconds of a run, and how many runs are worth their time."""
    runner = target.runtime.open(model, None, threads, False)
    times = remembered(
        [runner],
        feeds,
        "alone",
        lambda: stopwatch(runner, feeds)(_SETTLE_SECONDS, _RUN_SECONDS, _FEWEST_RUNS, _MOST_RUNS),
    )
    return undisturbed(times), min(len(times), _PROFILED_RUNS)


def _kernels(
    model: onnx.ModelProto, target: Target, feeds: Mapping[str, Array], threads: int, runs: int
) -> dict[str, KeyTime]:
    if not isinstance(target.runtime, Profiling):
        return {}
    known = {name for node in model.graph.node for name in (node.name, *node.output) if name}
    return by_key(target.runtime.kernels(model, feeds, threads, runs), known)


def _macs(graph: gs.Graph, positions: Mapping[str, int]) -> dict[str, KeyTime]:
    """In place of seconds, multiply-accumulates of the nodes with a weight, at 1e12 per second."""
    shapes = cost.weight_shapes(graph)
    return {name: KeyTime(1e-12 * macs, 1, (shapes[name],)) for name, macs in cost.node_macs(graph, positions).items()}
