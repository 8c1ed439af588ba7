"""Measure time tables of a model: some width configurations, built, profiled and timed on the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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


def measured(
    groups: Groups, choice: IntArray, shipped: Built, target: Target, feeds: Mapping[str, Array], threads: int
) -> Configuration:
    """A configuration, built, profiled and timed."""
    model = shipped(groups.plan(choice))
    seconds, runs = _whole(model, target, feeds, threads)
    return Configuration(groups.widths(choice), _kernels(model, target, feeds, threads, runs), seconds)


def measure_tables(
    groups: Groups,
    shipped: Built,
    graph_of: Callable[[PruningPlan], gs.Graph],
    target: Target,
    feeds: Mapping[str, Array],
    positions: Mapping[str, int],
    threads: int,
    progress: StageProgress,
    seed: int,
) -> list[TimeTable]:
    """Tables of a model on a target, from configurations within ``SECONDS``; the one that predicts best comes first.

    Args:
        groups: of the model.
        shipped: models in the precision that they ship in.
        graph_of: the same as graphs in float32, for their multiply-accumulates.
        target: where times are measured. Times of kernels are fitted, and times of whole models by the
            multiply-accumulates of their nodes. Where neither tells anything (a model that is all overhead), or another
            runtime stands in for the target's, multiply-accumulates alone count.
        feeds: what one run computes.
        positions: how often each node's weight is used, by name (``cost.positions``).
        threads: of the runtime.
        progress: called with the configurations measured and their number.
        seed: of the random ones.

    Raises:
        ModelError: the runtime cannot run one of them.
    """
    if not len(groups):
        return [TimeTable({}, 0.0, 0.0, COUNTED)]
    choices = configurations(groups, number(groups), seed)
    counted = [
        Configuration(groups.widths(choice), _macs(graph_of(groups.plan(choice)), positions), 0.0) for choice in choices
    ]
    counted = [replace(c, seconds=sum(kernel.seconds for kernel in c.kernels.values())) for c in counted]
    if target.stand_in:
        return [replace(fit_table(counted, 0), source=COUNTED)]
    timed: list[Configuration] = []
    end = perf_counter() + SECONDS
    for choice in choices:
        timed.append(measured(groups, choice, shipped, target, feeds, threads))
        progress(len(timed), len(choices))
        enough = len(timed) > max(LEAST, len(groups))
        if len(timed) > LEAST and perf_counter() > end + (0.0 if enough else (LATE - 1) * SECONDS):
            break
    models = [replace(c, seconds=t.seconds) for c, t in zip(counted, timed, strict=False)]
    tables = [replace(fit_table(models, FOLDS), source=MODELS)]
    if any(c.kernels for c in timed):
        tables.append(replace(fit_table(timed, FOLDS), source=KERNELS))
    whole, least = groups.widths(groups.whole), groups.widths(groups.least)
    telling = [table for table in tables if table.seconds(least) < TELLING * table.seconds(whole)]
    error = {KERNELS: 1.0, MODELS: CLEARLY}
    counting = replace(fit_table(counted, 0), source=COUNTED)
    return sorted(telling, key=lambda table: error[table.source] * table.error) or [counting]


def _whole(model: onnx.ModelProto, target: Target, feeds: Mapping[str, Array], threads: int) -> tuple[float, int]:
    """Seconds of a run, and how many runs are worth their time."""
    runner = target.runtime.open(model, None, threads, False)
    times = remembered(
        [runner], feeds, "alone", lambda: stopwatch(runner, feeds)(_SETTLE_SECONDS, _RUN_SECONDS, _FEWEST_RUNS, _MOST_RUNS)
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
