"""The path of an allocation, on a made-up model whose times and losses are functions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from allocation.test_program import groups, table
from small_model import small_data, small_model

from hqp_onnx.allocation.curves import measured_curves
from hqp_onnx.allocation.program import Program
from hqp_onnx.allocation.search import Allocation
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.job import allocation as module
from hqp_onnx.job.allocation import added_costs, allocated_path
from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.options import PAPER, Options
from hqp_onnx.job.timing import Beside, Timing
from hqp_onnx.steps.optimize import optimize
from hqp_onnx.timing.table import KernelTime, Part, TimeTable


def together(choice: np.ndarray) -> float:
    """What groups lose adds up to less than its sum: that of the worst."""
    return float(np.max([1.0, 3.0, 0.5] * np.square(choice)))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Allocation:
    of = groups()
    curves = measured_curves(of, together, lambda done, total: None)
    allocation = Allocation(of, Program(of, table()), curves, together)
    monkeypatch.setattr(module, "allocate", lambda *_: (allocation, Timing(Precision.FP32, 0)))
    monkeypatch.setattr(module, "retimed", lambda *_: None)
    return allocation


def found_by(admits: Any, measured: bool = False) -> Any:
    setup = SimpleNamespace(
        options=SimpleNamespace(search="bisect", min_width=0.1, width_multiple=1),
        target=SimpleNamespace(stand_in="" if measured else "not here"),
        channels=SimpleNamespace(frozen={}),
    )
    trials: dict[str, Any] = {}
    ledger = SimpleNamespace(once=lambda _, make: make(), timed=lambda _: nullcontext(), trials=trials)

    def judged(candidate: Any) -> bool:
        trials[candidate.key] = SimpleNamespace(accepted=admits(candidate), why="drop")
        return bool(trials[candidate.key].accepted)

    judge = SimpleNamespace(admits=judged, models=None)
    return allocated_path(setup, ledger, judge, SimpleNamespace())  # type: ignore[arg-type]


def seconds_of(made: Allocation, plan: PruningPlan) -> float:
    widths = [group.size - np.isin(group.levels[-1], plan.removed).sum() for group in made.groups.groups]
    return table().seconds(np.array(widths))


@pytest.mark.parametrize("measured", [False, True])
def test_the_fastest_plan_that_was_admitted_is_the_one(
    made: Allocation, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    """The judge takes the path up to some plan, and nothing of what the descent finds but the first third."""
    admitted: list[float] = []
    path = {tuple(made.groups.plan(choice).removed) for choice in made.path()}

    def admits(candidate: Any) -> bool:
        time, base = seconds_of(made, candidate.plan), tuple(candidate.plan.removed) in path
        inside = time > (0.5 if base else 0.8) * made.program.seconds(made.groups.whole)
        if inside:
            admitted.append(time)
        return inside

    def fastest(_: Timing, setup: Any, plans: list[PruningPlan]) -> int:
        """The clock has it that the first of them is the fastest."""
        chosen.append(seconds_of(made, plans[0]))
        return 0

    chosen: list[float] = []
    if measured:
        monkeypatch.setattr(Timing, "fastest", fastest)
        monkeypatch.setattr(Timing, "beside", lambda *_: Beside(9.5, 1.0))
    found = found_by(admits, measured)
    times = [seconds_of(made, plan) for plan in found.path.plans]
    assert times[found.count] == pytest.approx(chosen[0] if measured else min(admitted))
    assert f"it would {'be 9.5 times as fast' if measured else 'take'}" in found.ended
    if not measured:
        assert times == sorted(times, reverse=True)


def test_training_goes_on_with_what_the_descent_found(made: Allocation) -> None:
    """Plans that the budget ended at lose less for their time than those of the path, which follow where they end."""
    base = {tuple(made.groups.plan(choice).removed) for choice in made.path()}
    whole = made.program.seconds(made.groups.whole)

    def admits(candidate: Any) -> bool:
        return tuple(candidate.plan.removed) in base and seconds_of(made, candidate.plan) > 0.9 * whole

    found = found_by(admits)
    beyond = [found.path.plan(number) for number in found.path.beyond(found.count)][1:]
    times = [seconds_of(made, plan) / whole for plan in beyond]
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(0.891, abs=1e-3) and tuple(beyond[0].removed) not in base
    assert tuple(beyond[-1].removed) in base and times[-1] == pytest.approx(
        made.program.seconds(made.groups.least) / whole
    )
    assert not any(0.5 < time < 0.6 for time in times)  # of the path, and beaten by one that the descent found


def test_where_a_plan_is_fastest_in_another_way_the_path_goes_by_its_times(
    made: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In INT8 only the last group takes time, so only that is narrower, but in the plan that was found before."""
    kernels = {"k": KernelTime((Part((2,), ((0, 1.0),)),), (), 1)}
    second = replace(made, program=Program(made.groups, TimeTable(kernels, 0.5, 0.0)))
    asked: list[np.ndarray] = []

    def retimed(*arguments: Any) -> tuple[Allocation, Timing]:
        asked.append(arguments[-1])
        return second, Timing(Precision.INT8, 1)

    monkeypatch.setattr(module, "retimed", retimed)
    found = found_by(lambda candidate: seconds_of(made, candidate.plan) > 0.5 * made.program.seconds(made.groups.whole))
    (first,) = asked
    before = made.groups.plan(first).removed
    others = [plan.removed for plan in found.path.plans if not np.array_equal(plan.removed, before)]
    last = made.groups.groups[2].levels[-1]
    assert found.threads == 1 and len(others) > 2
    assert np.isin(np.concatenate(others), last).all() and not np.isin(before, last).all()


def test_of_two_tables_that_one_whose_choices_are_faster_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """To one of them a unit of any group is a unit; by the clock, only those of the first group take time."""
    of = groups()
    curves = measured_curves(of, together, lambda done, total: None)
    true = TimeTable({"k": KernelTime((Part((0,), ((0, 1.0),)),), (), 1)}, 0.5, 0.2)
    blind = TimeTable({str(n): KernelTime((Part((n,), ((0, 1.0),)),), (), 1) for n in range(3)}, 0.5, 0.1)
    allocation = Allocation(of, Program(of, blind), curves, together)

    def seconds(_: Timing, setup: Any, plans: Sequence[PruningPlan]) -> list[float]:
        gone = [np.isin(of.groups[0].levels[-1], plan.removed).sum() for plan in plans]
        return [float(0.5 + of.groups[0].size - count) for count in gone]

    monkeypatch.setattr(Timing, "seconds", seconds)
    ledger: Any = SimpleNamespace(once=lambda _, make: make(), timed=lambda _: nullcontext())
    timing = Timing(Precision.FP32, 0)
    for tables in ([blind, true], [true, blind], [blind]):
        found = module._with_fastest(cast(Any, None), ledger, allocation, tables, timing, "")
        assert found.program.error == (0.2 if true in tables else 0.1)


def test_lines_are_compared_where_both_have_points() -> None:
    """The second is faster at equal divergence, though slower from point to point."""
    first, second = [(0.1, 4.0), (1.0, 3.0), (10.0, 2.0)], [(0.01, 4.5), (0.1, 3.9), (1.0, 2.9)]
    assert module._fastest_at_equal_divergence([first, second]) == 1
    assert module._fastest_at_equal_divergence([second, first]) == 0
    for nothing in ([(0.0, 1.0)], [(np.inf, 1.0)], [(20.0, 0.1)], []):
        assert module._fastest_at_equal_divergence([first, nothing]) == 0


@pytest.mark.parametrize("limit", [-1.0, np.inf])
def test_nothing_or_everything_is_admitted(made: Allocation, limit: float) -> None:
    found = found_by(lambda candidate: not len(candidate.plan) or len(candidate.plan) <= limit)
    fastest = min(seconds_of(made, plan) for plan in found.path.plans)
    assert (len(found.path.plan(found.count)) == 0) == (limit < 0)
    why = found.ended
    assert ("the budget ended the search: the next faster plan" in why) == (limit < 0)
    assert ("the narrowest widths ended the search, not the budget: --min-width 0.1" in why) == (limit > 0)
    if limit > 0:
        assert seconds_of(made, found.path.plan(found.count)) == pytest.approx(fastest)


def test_faster_plans_that_are_no_faster_as_measured(made: Allocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timing, "fastest", lambda *_: 1)
    monkeypatch.setattr(Timing, "beside", lambda *_: Beside(9.5, 1.0))
    assert "the clock ended the search" in found_by(lambda candidate: True, measured=True).ended


def test_costs_of_units_are_what_each_adds() -> None:
    order = np.array([3, 1, 0])
    assert added_costs(np.array([5.0, 2.0, np.inf, 1.0]), order, cumulative=True).tolist() == [3, 1, 0, 1]
    assert added_costs(np.array([5.0, 2.0, np.inf, 1.0]), order, cumulative=False).tolist() == [5, 2, 0, 1]


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_optimize_by_measured_time(tmp_path: Any, target: str) -> None:
    onnx.save(small_model(), tmp_path / "small.onnx")
    np.savez(tmp_path / "data.npz", **small_data(60))
    data = str(tmp_path / "data.npz")
    options = Options(
        tmp_path / "small.onnx", data, data, tmp_path / "out", max_drop=0.3, target=target, precision="int8"
    )
    report = optimize(options)
    assert any(("predicted" if target == "onnxruntime" else "multiply-accumulates") in note for note in report.notes)
    assert {"times", "loss curves"} <= set(report.seconds)
    assert options.chosen_refit == "in-order"


def test_the_papers_settings_are_options() -> None:
    chosen = Options("m.onnx", "c.npz", "v.npz", "out", **PAPER)
    assert (chosen.search, chosen.saliency, chosen.chosen_refit, chosen.width_multiple) == (
        "linear",
        "fisher",
        "once",
        1,
    )
