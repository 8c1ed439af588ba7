"""Models over the whole range of speeds, each a file: what is lost at twice, at four times the speed.

Plans of the path of the search are made in the precision that was chosen, judged on all of the data and timed in turn:
its ends, the one that ships, and then, one at a time, the plan in the middle of where least is known. A file is kept
for each that no faster one beats in the metric.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.files import json_text, write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import Candidate, plan_key
from hqp_onnx.job.goal import Goal
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.path import Path
from hqp_onnx.job.records import record_of
from hqp_onnx.job.results import Point, Row
from hqp_onnx.job.rows import Measured, best_threads, latencies_once, make_rows, measured_file
from hqp_onnx.job.run import SearchResult
from hqp_onnx.job.setup import Setup
from hqp_onnx.job.shipping import NOISE
from hqp_onnx.runtimes.runners import thread_metadata

POINTS = 10  # at most
BASELINE = "baseline"
Models = Mapping[str, Measured]
_FLAT = 0.05  # of the whole range of losses: what a stretch of the path counts as, even if nothing is lost along it
_LITTLE = 0.02  # of the largest drop: what is of interest where no budget says it
PARETO = "pareto.json"
FILES = tuple(f"pareto/{number}.onnx" for number in range(1, POINTS + 1))
"""Slowest first."""


@dataclass(frozen=True)
class Family:
    """Models, slowest first, and what is to be said of them."""

    points: tuple[Point, ...]
    notes: tuple[str, ...]


def write_family(setup: Setup, ledger: Ledger, result: SearchResult, baseline: Measured, like: Candidate) -> Family:
    """Write ``FILES`` and ``PARETO``, in the precision of ``like``, which ships."""
    folder = setup.options.folder
    with ledger.timed("pareto"):
        models = {BASELINE: baseline} | _judged(setup, ledger, result, like)
        rows = make_rows(models, latencies := latencies_once(setup, ledger, models, "pareto"))
        front = [name for name in _front(rows) if name != BASELINE]
        points = []
        for file, name in zip(FILES, front, strict=False):
            threads = best_threads(latencies[name])
            metadata = thread_metadata(setup.target, threads) if threads else {}
            model_io.copy(ledger.cache / f"point-{name}.onnx", folder / file, metadata)
            points.append(Point(**{**vars(rows[name]), "bytes": model_io.stored_bytes(folder / file)}, file=file))
    for large in ledger.cache.glob("point-*.onnx*"):
        large.unlink(missing_ok=True)
    write_text(folder / PARETO, json_text(msgspec.to_builtins(points)))
    return Family(tuple(points), tuple(_notes(setup, result, models, rows, like)))


def _judged(setup: Setup, ledger: Ledger, result: SearchResult, like: Candidate) -> dict[str, Measured]:
    """By number, which is that of ``point-NUMBER.onnx`` in the cache: at most ``POINTS`` models of the path."""
    judge = result.judge
    plans = _plans(result.path, like.plan)
    asked = [0, len(plans) - 1, [plan_key(plan) for plan in plans].index(plan_key(like.plan))]
    budget = 0.0 if Goal.of(setup.options) else judge.budget.max_drop
    models: dict[str, Measured] = {}
    drops: dict[int, float] = {}
    while len(drops) < POINTS:
        place = next((place for place in asked if place not in drops), None)
        if place is None and (place := _next_place(_losses(drops, budget))) is None:
            break
        candidate, number = replace(like, plan=plans[place], trained=False), str(len(drops) + 1)
        kept = ledger.cache / f"point-{number}.onnx"
        proto = model_io.to_proto(judge.models.graph(candidate))
        record_of(setup, judge, candidate).write(proto)
        model_io.save(proto, kept)
        models[number] = model = measured_file(setup, judge, candidate, kept)
        drops[place] = judge.budget.drop(model.val)
        setup.progress("pareto", len(drops), POINTS)
    return models


def _plans(path: Path, ships: PruningPlan) -> list[PruningPlan]:
    """Of a path, slowest first and each once, and ``ships`` among them."""
    last = path.beyond(0)[-1]
    plans = {plan_key(plan): plan for plan in map(path.plan, [*path.up_to(last), last])}
    if plan_key(ships) in plans:
        return [*plans.values()]
    return sorted([*plans.values(), ships], key=lambda plan: len(plan.removed))


def _losses(drops: Mapping[int, float], budget: float) -> dict[int, float]:
    """0 where nothing is lost, 1 where all is; the budget, or a little of the largest drop, is in the middle."""
    scale = budget or _LITTLE * max([0.0, *filter(math.isfinite, drops.values())])

    def loss(drop: float) -> float:
        if not math.isfinite(drop):
            return 1.0
        return drop / (drop + scale) if drop > 0 else 0.0

    return {place: loss(drop) for place, drop in drops.items()}


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


def _notes(setup: Setup, result: SearchResult, models: Models, rows: Mapping[str, Row], like: Candidate) -> list[str]:
    """That no model was kept; that one is faster than what ships, and as good."""
    front = [name for name in _front(rows) if name != BASELINE]
    if not front:
        return [f"none of the {len(models) - 1} models tried for the family is faster than the input: there is none"]
    if setup.options.objective != "latency":
        return []
    key, goal = plan_key(like.plan), Goal.of(setup.options)
    ships = next(name for name, model in models.items() if name != BASELINE and plan_key(model.candidate.plan) == key)
    most, judge = rows[ships].val_drop, result.judge
    better = [name for name in front if rows[name].speedup > (1 + NOISE) * rows[ships].speedup]
    good = [n for n in better if (rows[n].val_drop <= most if goal else judge.budget.admits(models[n].val))]
    if not good:
        return []
    what = "loses no more than what ships" if goal else "is inside the budget as well"
    file, faster = FILES[front.index(good[-1])], rows[good[-1]].speedup / rows[ships].speedup - 1
    return [f"{file} {what}, and is {100 * faster:.0f} % faster than the plan that the search ended with"]
