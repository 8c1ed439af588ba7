"""Models over the whole range of speeds, each a file: what is lost at twice, at four times the speed.

Plans of the path of the search are made in the precision that was chosen, judged on all of the data and timed in turn:
its ends, the one that ships, and then, one at a time, the plan in the middle of where least is known. A file is kept
for each that no faster one beats in the metric.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.files import json_text, write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import Candidate, plan_key
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.path import Path
from hqp_onnx.job.records import record_of
from hqp_onnx.job.results import Point, Row
from hqp_onnx.job.rows import Measured, best_threads, latencies_once, make_rows, measured_file
from hqp_onnx.job.run import SearchResult
from hqp_onnx.job.setup import Setup
from hqp_onnx.runtimes.runners import thread_metadata

POINTS = 10  # at most
_FLAT = 0.05  # of the whole range of losses: what a stretch of the path counts as, even if nothing is lost along it
PARETO = "pareto.json"
FILES = tuple(f"pareto/{number}.onnx" for number in range(1, POINTS + 1))
"""Slowest first."""


def write_family(
    setup: Setup, ledger: Ledger, result: SearchResult, baseline: Measured, like: Candidate
) -> tuple[Point, ...]:
    """Write ``FILES`` and ``PARETO``, in the precision of ``like``; the points, slowest first."""
    folder = setup.options.folder
    with ledger.timed("pareto"):
        models = {"baseline": baseline} | _judged(setup, ledger, result, like)
        rows = make_rows(models, latencies := latencies_once(setup, ledger, models, "pareto"))
        front = [name for name in _front(rows) if name != "baseline"]
        points = []
        for file, name in zip(FILES, front, strict=False):
            threads = best_threads(latencies[name])
            metadata = thread_metadata(setup.target, threads) if threads else {}
            model_io.copy(ledger.cache / f"point-{name}.onnx", folder / file, metadata)
            points.append(Point(**{**vars(rows[name]), "bytes": model_io.stored_bytes(folder / file)}, file=file))
    for large in ledger.cache.glob("point-*.onnx*"):
        large.unlink(missing_ok=True)
    write_text(folder / PARETO, json_text(msgspec.to_builtins(points)))
    return tuple(points)


def _judged(setup: Setup, ledger: Ledger, result: SearchResult, like: Candidate) -> dict[str, Measured]:
    """By number, which is that of ``point-NUMBER.onnx`` in the cache: at most ``POINTS`` models of the path."""
    judge, budget = result.judge, result.judge.budget
    plans = _plans(result.path, like.plan)
    asked = [0, len(plans) - 1, [plan_key(plan) for plan in plans].index(plan_key(like.plan))]
    scale = budget.max_drop or 0.01 * abs(budget.baseline.metric)
    models: dict[str, Measured] = {}
    losses: dict[int, float] = {}
    while len(losses) < POINTS:
        place = next((place for place in asked if place not in losses), None)
        if place is None and (place := _next_place(losses)) is None:
            break
        candidate, number = replace(like, plan=plans[place], trained=False), str(len(losses) + 1)
        kept = ledger.cache / f"point-{number}.onnx"
        proto = model_io.to_proto(judge.models.graph(candidate))
        record_of(setup, judge, candidate).write(proto)
        model_io.save(proto, kept)
        models[number] = model = measured_file(setup, judge, candidate, kept)
        losses[place] = _loss(model.val.scale.drop(budget.baseline.metric, model.val.metric), scale)
        setup.progress("pareto", len(losses), POINTS)
    return models


def _plans(path: Path, ships: PruningPlan) -> list[PruningPlan]:
    """Of a path, slowest first, and ``ships`` among them."""
    last = path.beyond(0)[-1]
    plans = [path.plan(number) for number in dict.fromkeys([*path.up_to(last), last])]
    if plan_key(ships) not in map(plan_key, plans):
        plans.append(ships)
        plans.sort(key=lambda plan: len(plan.removed))
    return plans


def _loss(drop: float, scale: float) -> float:
    """From 0, where nothing is lost, to 1, where all is; a drop of ``scale`` is in the middle."""
    return max(drop, 0.0) / (max(drop, 0.0) + scale) if math.isfinite(drop) else 1.0


def _next_place(losses: Mapping[int, float]) -> int | None:
    """The middle between the two neighbours that leave most open: places between them, times the losses between."""
    places = sorted(losses)
    gaps = [(a, b) for a, b in itertools.pairwise(places) if b - a > 1]
    if not gaps:
        return None
    a, b = max(gaps, key=lambda gap: (gap[1] - gap[0]) * (abs(losses[gap[1]] - losses[gap[0]]) + _FLAT))
    return (a + b) // 2


def _front(rows: Mapping[str, Row]) -> list[str]:
    """Slowest first, those that lose less than every one that is at least as fast; of equals, the first."""
    least, front = float("inf"), []
    for name in sorted(rows, key=lambda name: (-rows[name].speedup, rows[name].val_drop)):
        if rows[name].val_drop < least:
            least = rows[name].val_drop
            front.append(name)
    return front[::-1]
