"""What a table is fitted to where profiles, or times, tell nothing."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from small_model import small_model

from hqp_onnx.allocation import times as module
from hqp_onnx.allocation.groups import Groups, find_groups
from hqp_onnx.allocation.times import COUNTED, KERNELS, MODELS, WidthTimes, configurations, measured
from hqp_onnx.channels import cost
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.order import removal_order
from hqp_onnx.runtimes.targets import target
from hqp_onnx.timing.kernel_times import KeyTime

MODEL = open_model(small_model())
CHANNELS = MODEL.channels()
ORDER = removal_order(np.ones(CHANNELS.units), CHANNELS, 0.1, branches=True)
GROUPS = find_groups(CHANNELS, ORDER, np.ones(CHANNELS.units), 4)
POSITIONS = cost.positions(MODEL.graph, MODEL.shapes)


def graph_of(plan):
    return prune_channels(MODEL.graph, CHANNELS, plan).graph


def nowhere(done: int, total: int) -> None:
    pass


def times_of(name: str = "onnxruntime", groups: Groups = GROUPS) -> WidthTimes:
    def built(plan):
        return to_proto(graph_of(plan))

    def measure(choice):
        return measured(groups, choice, built, graph_of, target(name), feeds, POSITIONS, 1)

    feeds = {"input": np.zeros((1, 1, 8, 8), np.float32)}
    return WidthTimes(groups, measure)


def tables(name: str = "onnxruntime", progress=nowhere):
    times = times_of(name)
    times.survey(progress, 0)
    return times.tables()


@pytest.mark.parametrize(
    ("kernel", "whole", "source"),
    [
        ("width", "width", KERNELS),
        ("flat", "macs", MODELS),
        ("width", "macs", MODELS),
        ("none", "macs", MODELS),
        ("flat", "flat", COUNTED),
    ],
)
def test_what_predicts_better_comes_first(monkeypatch, kernel: str, whole: str, source: str) -> None:
    def width(model) -> int:
        return next(tensor.dims[0] for tensor in model.graph.initializer if tensor.name == "w1")

    def seconds(kind: str, model) -> float:
        macs = 1e-4 * sum(float(np.prod(tensor.dims)) for tensor in model.graph.initializer)
        return {"width": 1.0 * width(model), "macs": macs, "flat": 1.0}[kind]

    def kernels(model, *_):
        return {} if kernel == "none" else {"all": KeyTime(seconds(kernel, model), 1, ((width(model),),))}

    monkeypatch.setattr(module, "_kernels", kernels)
    monkeypatch.setattr(module, "_whole", lambda model, *_: (seconds(whole, model), 5))
    table, *others = tables()
    assert table.source == source
    assert all(table.error <= 1.1 * other.error for other in others)
    assert table.seconds(GROUPS.widths(GROUPS.least)) < 0.7 * table.seconds(GROUPS.widths(GROUPS.whole))


def test_multiply_accumulates_count_where_the_target_is_not_here() -> None:
    (table,) = tables("tensorrt")
    widths = GROUPS.widths(GROUPS.least)
    macs = cost.macs(graph_of(GROUPS.plan(GROUPS.least)), POSITIONS)
    assert table.source == COUNTED
    assert table.seconds(widths) == pytest.approx(1e-12 * macs, rel=0.1)


def test_no_groups_are_not_measured(monkeypatch) -> None:
    monkeypatch.setattr(module, "_whole", None)
    times = times_of(groups=Groups(()))
    assert times.survey(nowhere, 0) == []
    (table,) = times.tables()
    assert table.kernels == {} and table.source == COUNTED


def test_a_choice_is_measured_once_and_tables_know_it(monkeypatch) -> None:
    """A survey says that all widths take a second; what is measured later, that the narrowest take a tenth."""
    asked: list[float] = []

    def whole(model, *_):
        asked.append(0.1 if narrow else 1.0)
        return asked[-1], 5

    monkeypatch.setattr(module, "_kernels", lambda *_: {})
    monkeypatch.setattr(module, "_whole", whole)
    times, narrow = times_of(), False
    known = times.survey(nowhere, 0)
    (table,) = times.tables()
    assert table.source == COUNTED and len(known) == len(asked)
    narrow = True
    unseen = next(c for c in configurations(GROUPS, 60, 1) if times.seconds(c) == 0.1)
    count = len(asked)
    assert times.seconds(unseen) == 0.1 and len(asked) == count
    assert times.tables()[0] != table
    assert WidthTimes(GROUPS, None, known).seconds(GROUPS.whole) == 1.0


def test_the_first_runs_of_a_model_do_not_count() -> None:
    """A runtime whose first four runs take ten times as long as the others."""
    calls: list[float] = []

    class Slow:
        inputs = outputs = ()

        def run(self, feeds, outputs=None):
            calls.append(0.006 if len(calls) < 4 else 0.0006)
            time.sleep(calls[-1])
            return {}

    here = SimpleNamespace(runtime=SimpleNamespace(open=lambda *_: Slow()))
    seconds, runs = module._whole(None, here, {}, 1)
    assert 0.0006 <= seconds < 0.003 and 5 <= runs <= module._PROFILED_RUNS


def test_configurations_begin_with_the_whole_and_end_branches() -> None:
    chosen = configurations(GROUPS, 30, 0)
    assert len(chosen) == 30 and not chosen[0].any() and (chosen[4] == GROUPS.least).all()
    assert all((choice <= GROUPS.least).all() and (choice >= 0).all() for choice in chosen)


@pytest.mark.parametrize(("each", "count"), [(1.0, 16), (30.0, 3), (70.0, 2)])
def test_a_slow_machine_measures_as_many_as_groups_but_not_for_ever(monkeypatch, each: float, count: int) -> None:
    """Two groups: after 40 s no more than 3 configurations, and none after 120 s."""
    now, seen = [0.0], []

    def whole(*_):
        now[0] += each
        return 1.0 + now[0] % 7, 5

    monkeypatch.setattr(module, "LEAST", 0)
    monkeypatch.setattr(module, "FOLDS", 0)
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "_kernels", lambda *_: {})
    monkeypatch.setattr(module, "_whole", whole)
    tables(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (count, 16)
