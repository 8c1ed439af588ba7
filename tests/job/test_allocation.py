"""The path of an allocation, on a made-up model whose times and losses are functions."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from allocation.test_program import Clock, all_choices, groups, table
from scipy.special import softmax
from small_model import small_data, small_model

from hqp_onnx.allocation.curves import measured_curves
from hqp_onnx.allocation.program import Program
from hqp_onnx.allocation.search import Allocation
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job import allocation as module
from hqp_onnx.job.allocation import Choosing, added_costs, allocated_path, divergence_of
from hqp_onnx.job.candidate import Candidate, Precision
from hqp_onnx.job.evidence import gather
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.options import PAPER, Options
from hqp_onnx.job.settings import owner, settings_of
from hqp_onnx.job.setup import open_setup
from hqp_onnx.job.timing import Beside, Timing
from hqp_onnx.out_folder import OutFolder
from hqp_onnx.progress import silent
from hqp_onnx.statistics.moment_halves import half_ranges
from hqp_onnx.steps.optimize import optimize
from hqp_onnx.timing.table import KernelTime, Part, TimeTable


def together(choice: np.ndarray) -> float:
    """What groups lose adds up to less than its sum: that of the worst."""
    return float(np.max([1.0, 3.0, 0.5] * np.square(choice)))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Allocation:
    of = groups()
    curves = measured_curves(of, together, lambda done, total: None)
    allocation = Allocation(of, [Program(of, table())], curves, together, together)
    chosen = Choosing(allocation, Clock(blind=False), Timing(Precision.FP32, 0))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "choosing", lambda *_: chosen)
    monkeypatch.setattr(module, "retimed", lambda *_: None)
    return allocation


def found_by(admits: Any, measured: bool = False) -> Any:
    setup = SimpleNamespace(
        options=SimpleNamespace(search="bisect", min_width=0.1, width_multiple=1),
        target=SimpleNamespace(stand_in="" if measured else "not here"),
        channels=SimpleNamespace(frozen={}),
        progress=lambda stage, done, total: None,
    )
    trials: dict[str, Any] = {}
    ledger = SimpleNamespace(once=lambda _, make: make(), timed=lambda _: nullcontext(), trials=trials, seconds={})

    def judged(candidate: Any) -> bool:
        assert len(candidate.plan)
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
    """The judge takes the path up to some plan, and some of what the refinement finds beyond it."""
    admitted: list[float] = []
    path = {tuple(made.groups.plan(choice).removed) for choice in made.path()}

    def admits(candidate: Any) -> bool:
        time, base = seconds_of(made, candidate.plan), tuple(candidate.plan.removed) in path
        inside = time > (0.6 if base else 0.45) * made.program.seconds(made.groups.whole)
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


def test_training_goes_on_with_what_the_refinement_found(made: Allocation) -> None:
    """Plans that the budget ended at lose less for their time than those of the path."""
    path = made.path()
    base = {tuple(made.groups.plan(choice).removed) for choice in path}
    whole = made.program.seconds(made.groups.whole)

    def admits(candidate: Any) -> bool:
        return tuple(candidate.plan.removed) in base and seconds_of(made, candidate.plan) > 0.9 * whole

    found = found_by(admits)
    beyond = [found.path.plan(number) for number in found.path.beyond(found.count)][1:]
    times = [seconds_of(made, plan) / whole for plan in beyond]
    assert times == sorted(times, reverse=True)
    assert tuple(beyond[0].removed) not in base and len(times) > 3
    assert times[-1] == pytest.approx(made.program.seconds(made.groups.least) / whole)
    lost = {tuple(made.groups.plan(choice).removed): together(choice) for choice in all_choices(made.groups)}
    for choice in path[2:5]:
        faster = [plan for plan in beyond if seconds_of(made, plan) <= 1.01 * made.program.seconds(choice)]
        assert min(lost[tuple(plan.removed)] for plan in faster) <= together(choice)


def test_where_a_plan_is_fastest_in_another_way_the_path_goes_by_its_times(
    made: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In INT8 only the last group takes time, so only that is narrower, but in the plan that was found before."""
    kernels = {"k": KernelTime((Part((2,), ((0, 1.0),)),), (), 1)}
    times = TimeTable(kernels, 0.5, 0.0)
    second = replace(made, programs=[Program(made.groups, times)])
    clock: Any = SimpleNamespace(seconds=lambda c: times.seconds(made.groups.widths(c)), tables=lambda: [times])
    asked: list[np.ndarray] = []

    def retimed(*arguments: Any) -> Choosing:
        asked.append(arguments[-1])
        return Choosing(second, clock, Timing(Precision.INT8, 1))

    monkeypatch.setattr(module, "retimed", retimed)
    found = found_by(lambda candidate: seconds_of(made, candidate.plan) > 0.5 * made.program.seconds(made.groups.whole))
    (first,) = asked
    before = made.groups.plan(first).removed
    others = [plan.removed for plan in found.path.plans if not np.array_equal(plan.removed, before)]
    last = made.groups.groups[2].levels[-1]
    assert found.threads == 1 and len(others) > 2
    assert np.isin(np.concatenate(others), last).all() and not np.isin(before, last).all()


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


def test_divergence_is_measured_as_plans_ship_on_samples_that_no_refit_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divergence is the KL of what onnxruntime makes of the candidate, nearly: that one is refitted on more samples."""
    onnx.save(small_model(), tmp_path / "small.onnx")
    np.savez(tmp_path / "data.npz", **(data := small_data(400)))
    file = str(tmp_path / "data.npz")
    options = Options(tmp_path / "small.onnx", file, file, tmp_path / "out", threads=1)
    setup, out = open_setup(options, silent), OutFolder(options.folder, *owner(options.model), (), False)
    read: list[tuple[int, int]] = []
    rows = Dataset.rows

    def spy(given: Dataset, start: int, stop: int) -> Batch:
        read.append((start, stop))
        return rows(given, start, stop)

    with out.opened():
        ledger = Ledger(out, settings_of(setup), False)
        evidence = gather(setup, ledger)
        plan = PruningPlan(evidence.order[: 2 * len(evidence.order) // 3])
        monkeypatch.setattr(Dataset, "rows", spy)
        once, closely = (divergence_of(setup, ledger, evidence, closely)(plan) for closely in (False, True))
        monkeypatch.undo()
        shipped = to_proto(CandidateModels(setup, evidence.refit, ledger.cache).graph(Candidate(plan)))
    held_out = {n for part in half_ranges(setup.data["calib"])[1] for n in part}
    parts = [range(*part) for part in read if part != (0, 1)]  # an example
    assert sum(len(part) for part in parts if held_out.isdisjoint(part)) == 32
    assert sum(map(len, parts)) == 32 + 2 * len(held_out)
    p, q = (
        softmax(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": data["input"]})[0], axis=1)
        for model in (small_model(), shipped)
    )
    kl = np.sum(p * np.log(p / q), axis=1)[sorted(held_out)].mean()
    assert 0.5 * kl < closely < min(once, 2 * kl)


@pytest.mark.parametrize(("admitted", "last"), [({5}, 5), ({6}, 6), ({5, 6}, 6), ({7}, 3), ((), 3)])
def test_a_refusal_by_chance_does_not_end_a_search(admitted: set[int], last: int) -> None:
    """The third is the last before one that was refused, the fourth."""
    asked: list[int] = []
    judge: Any = SimpleNamespace(admits=lambda number: asked.append(number) or number in admitted)
    candidates: Any = range(8)
    assert module._beyond_refused(judge, candidates, 3) == last
    assert asked == [5, 6] and module._beyond_refused(judge, candidates, 7) == 7


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
