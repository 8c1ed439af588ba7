"""Speed in place of a budget, a family of models, the number of threads: under a clock that goes by MACs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from small_model import small_data, small_model

from hqp_onnx import Options, optimize
from hqp_onnx.allocation import times
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.latency import Latency
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.job import rows, timing
from hqp_onnx.job.goal import Goal
from hqp_onnx.job.pareto import POINTS, _front, _losses, _next_place, _plans
from hqp_onnx.job.path import OrderPath, PlanPath
from hqp_onnx.job.results import Row
from hqp_onnx.job.rows import Measured, best_threads
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.report.html import render
from hqp_onnx.runtimes.session import Session


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    onnx.save(small_model(), tmp_path / "small.onnx")
    np.savez(tmp_path / "data.npz", **small_data(60))
    data = str(tmp_path / "data.npz")
    return {
        "model": tmp_path / "small.onnx",
        "calib": data,
        "val": data,
        "output": tmp_path / "out",
        "precision": "fp32",
        "multiple_of": 1,
        "min_width": 0.0,
        "metric": "fidelity",
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes as long as its weights are large; on one thread three quarters of that, for what is pruned."""

    def of_size(bytes: int, whole: int, threads: int) -> float:
        return bytes / whole * (0.75 if threads == 1 and bytes < whole else 1.0)

    def latencies(models: Mapping[str, Measured], threads: Sequence[int], _: Any) -> dict[str, dict[int, Latency]]:
        whole = next(iter(models.values())).params
        times = {n: {t: of_size(m.params, whole, t) for t in threads} for n, m in models.items()}
        return {n: {t: Latency(x, x, x, 9, 1 / x) for t, x in of.items()} for n, of in times.items()}

    def beside(self: timing.Timing, setup: Any, plan: Any) -> timing.Beside:
        graph = timing._bare(setup, plan)
        share = of_size(setup.size(graph)["params"], setup.size(setup.model.graph)["params"], self.threads)
        return timing.Beside(1 / share, share)

    def whole(model: onnx.ModelProto, *_: Any) -> tuple[float, int]:
        return 1e-6 * sum(np.prod(tensor.dims) for tensor in model.graph.initializer), 5

    monkeypatch.setattr(times, "_whole", whole)
    monkeypatch.setattr(times, "_kernels", lambda *_: {})
    monkeypatch.setattr(rows, "latencies_of", latencies)
    monkeypatch.setattr(timing.Timing, "beside", beside)


@pytest.mark.parametrize("asked", [{"speedup": 1.5}, {"target_latency": 0.5}])
def test_the_best_model_that_is_fast_enough(options: dict[str, Any], clock: None, asked: dict[str, float]) -> None:
    report = optimize(Options(**options, **asked, pareto=True))
    row = report.rows[report.ships]
    assert report.budget_met and report.ships == "pruned"
    assert row.speedup >= 0.98 * asked.get("speedup", 0) and row.latency_ms <= 1.02 * asked.get("target_latency", 9)
    folder = Path(report.shipped).parent
    listed = json.loads((folder / "pareto.json").read_text())
    assert [point["file"] for point in listed] == [point.file for point in report.pareto]
    speeds, drops = [p.speedup for p in report.pareto], [p.val_drop for p in report.pareto]
    assert len(listed) > 1 and speeds == sorted(speeds) and drops == sorted(drops)
    feeds = {"input": small_data(60)["input"]}
    whole = Session(small_model()).run(feeds)["logits"].astype(np.float64)
    for point in report.pareto:
        error = Session(folder / point.file).run(feeds)["logits"] - whole
        nearness = np.clip(1 - np.square(error).sum(1) / np.square(whole).sum(1), 0, 1)
        assert nearness.mean() == pytest.approx(point.val_metric, abs=1e-4)
    assert "Speed against quality" in render(report, folder) and "Accuracy against trials" not in render(report, folder)


def test_a_speed_that_nothing_reaches(options: dict[str, Any], clock: None) -> None:
    report = optimize(Options(**options, speedup=1e4))
    assert not report.budget_met and report.rows[report.ships].speedup == max(r.speedup for r in report.rows.values())
    assert "as fast as was asked for" in report.why


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"speedup": 2.0, "target_latency": 1.0},
            "takes the place of a budget: leave out target_latency$",
        ),
        ({"speedup": 2.0, "max_drop": 0.1}, "takes the place of a budget: leave out max_drop$"),
        ({"speedup": -1.0}, "expected a finite number above 0"),
        ({"speedup": 2.0, "objective": "macs"}, "is for --objective latency|objective"),
    ],
)
def test_what_excludes_a_speed(options: dict[str, Any], asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Options(**options, **asked)


def test_threads_are_the_runtimes_unless_another_number_is_clearly_faster() -> None:
    def times(**speedups: float) -> dict[int, Latency]:
        return {int(n[1:]): Latency(1 / s, 0, 0, 9, s) for n, s in speedups.items()}

    assert best_threads(times(t1=1.01, t0=1.0)) == 0
    assert best_threads(times(t1=1.5, t2=1.6, t0=1.0)) == 2


def test_a_model_says_on_how_many_threads_it_is_fastest(
    options: dict[str, Any], clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "thread_counts", lambda *_: (1, 0))
    report = optimize(Options(**options, max_drop=0.3))
    assert report.ships == "pruned" and report.pruned.threads == 1 and report.baseline.threads == 0
    metadata = {entry.key: entry.value for entry in onnx.load(report.shipped).metadata_props}
    assert json.loads(metadata["ort_config"]) == {"session_options": {"intra_op_num_threads": 1}}
    assert "intra_op_num_threads = 1" in render(report, Path(report.shipped).parent)


def test_goals_are_met_within_the_noise() -> None:
    def row(speedup: float) -> Row:
        judged = dict.fromkeys(("metric", "drop", "drop_low", "drop_high", "val_metric", "val_drop"), 0.0)
        rest = {"bytes": 1, "size_reduction": 0.0, "params": 1, "macs": 1, "sparsity": 0.0}
        times = {"latency_ms": 1 / speedup, "latency_p10_ms": 0.0, "latency_p90_ms": 0.0}
        return Row(**judged, **rest, **times, speedup=speedup)

    assert Goal(2.0, None).met(row(1.99)) and not Goal(2.0, None).met(row(1.9))
    assert Goal(None, 0.5).met(row(1.99)) and not Goal(None, 0.5).met(row(1.9))


def test_models_that_are_the_same_do_not_beat_each_other() -> None:
    def row(speedup: float, drop: float) -> Row:
        return cast("Row", SimpleNamespace(speedup=speedup, val_drop=drop))

    rows = {
        "baseline": row(1, 0),
        "1": row(1, 0),
        "2": row(2, 0.1),
        "3": row(2, 0.1),
        "4": row(3, 0.3),
        "5": row(4, 0.2),
    }
    assert _front(rows) == ["baseline", "2", "5"]


@pytest.mark.parametrize("budget", [0.015, 0.0])
@pytest.mark.parametrize("knee", [0.2, 0.5, 0.9])
def test_most_models_of_a_family_lie_where_the_metric_begins_to_fall(knee: float, budget: float) -> None:
    """Nothing is lost in front of the knee, soon all behind it: half the places are within a sixth of it."""

    def drop(place: int) -> float:
        return min(0.8, max(0.0, 0.015 * math.expm1((place / 60 - knee) * 15)))

    drops = {place: drop(place) for place in (0, 60)}
    while len(drops) < POINTS:
        place = _next_place(_losses(drops, budget))
        assert place is not None and place not in drops
        drops[place] = drop(place)
    assert sum(abs(place / 60 - knee) <= 1 / 6 for place in drops) >= POINTS // 2
    assert max(b - a for a, b in itertools.pairwise(sorted(drops))) <= 30


def test_a_family_of_all_plans_that_there_are_is_complete() -> None:
    drops = {0: 0.0, 3: 1.0}
    for _ in range(2):
        place = _next_place(_losses(drops, 0.0))
        assert place in {1, 2} - drops.keys()
        drops[place] = math.nan
    assert _next_place(_losses(drops, 0.0)) is None
    assert _losses(drops, 0.0) == {0: 0.0, 3: pytest.approx(1 / 1.02), 1: 1.0, 2: 1.0}
    assert _losses({0: 0.0, 1: -0.1}, 0.0) == {0: 0.0, 1: 0.0}


def test_plans_of_a_family_have_the_steps_of_the_search_and_the_one_that_ships() -> None:
    channels = analyze(canonicalize(to_graph(small_model())).graph)
    order = OrderPath(channels.prunable, channels, multiple=1, step=2)
    counts = [len(plan.removed) for plan in _plans(order, order.plan(3))]
    assert counts == sorted({*range(0, len(order), 2), 3, len(order)}) and len(counts) > 4
    plans = [PruningPlan(np.arange(count)) for count in (0, 3, 7)]
    ships = PruningPlan(np.arange(5))
    assert [len(plan.removed) for plan in _plans(PlanPath(tuple(plans)), plans[1])] == [0, 3, 7]
    assert [len(plan.removed) for plan in _plans(PlanPath(tuple(plans)), ships)] == [0, 3, 5, 7]
