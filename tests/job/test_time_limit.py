"""A time limit that is over at any report of progress: something inside the budget ships, and a resumed run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import hqp
from small_model import small_data, small_model
from steady import steady

from hqp_onnx.errors import UsageError
from hqp_onnx.job import allocation, time_limit
from hqp_onnx.job.options import Options
from hqp_onnx.job.results import Report
from hqp_onnx.steps.optimize import optimize


class Clock:
    """Jumps past any limit at the report of that number; ``stages`` are those that asked."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 1e9


def run(out: Path, monkeypatch: pytest.MonkeyPatch, last: int | None, **more: object) -> Report:
    steady(monkeypatch)
    clock = Clock(10**9 if last is None else last)
    monkeypatch.setattr(time_limit, "perf_counter", clock)
    monkeypatch.setattr("hqp_onnx.steps.optimize.perf_counter", lambda: 0.0)
    monkeypatch.setattr(time_limit, "fastest", lambda sessions, *_: len(sessions) - 1)
    limit = None if last is None else 100.0
    chosen = {"precision": "int8", "max_drop": 0.4, "objective": "macs", "search": "linear", "step": 0.2, **more}
    return optimize(Options(small_model(), small_data(), small_data(), out, time_limit=limit, build=False, **chosen))  # type: ignore[arg-type]


def test_whenever_time_is_over_a_model_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", monkeypatch, None)
    seen = []
    for last in (0, 3, 8, 16, 40):
        report = run(tmp_path / str(last), monkeypatch, last)
        ended = [note for note in report.notes if "time limit of 100 s ended the search at '" in note]
        assert (tmp_path / str(last) / report.files[report.ships]).is_file()
        assert report.rows[report.ships].val_drop <= report.max_drop + 1e-12
        seen.append((bool(ended), len(report.trials)))
    assert seen[0] == (True, 1) and seen[-1] == (False, len(whole.trials))
    counts = [count for _, count in seen]
    assert counts == sorted(counts) and len(set(counts)) >= 2


@pytest.mark.parametrize(("tight", "said"), [(4, False), (10, True)])
def test_a_limit_that_leaves_little_to_the_search_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tight: int, said: bool
) -> None:
    monkeypatch.setattr(time_limit, "_TIGHT", tight)
    report = run(tmp_path / "out", monkeypatch, 3)
    (note,) = (note for note in report.notes if "time limit of 100 s" in note)
    assert ("14 s and more are kept for judging" in note) == said


def test_what_was_admitted_before_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search ends after some admitted candidates: the furthest of them, by MACs, is the one that is written."""
    for last in range(4, 30):
        report = run(tmp_path / str(last), monkeypatch, last)
        admitted = [trial for trial in report.trials if trial.accepted and trial.precision == "fp32"]
        if len(admitted) >= 2:
            break
    assert report.pruned.macs == min(trial.macs for trial in admitted)
    assert report.trials[-1].precision == "int8" and report.trials[-1].macs == report.pruned.macs


def test_a_resumed_run_finds_what_an_unlimited_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", monkeypatch, None)
    run(tmp_path / "cut", monkeypatch, 9)
    resumed = run(tmp_path / "cut", monkeypatch, None, resume=True)
    assert [trial.key for trial in resumed.trials] == [trial.key for trial in whole.trials]
    for name in ("pruned.onnx", "ledger.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("last", [3, 30, 60])
def test_allocations_end_in_time_too(last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "REFINEMENT_SECONDS", 0.0)
    report = run(tmp_path, monkeypatch, last, objective="latency", precision="fp32", search="bisect")
    assert report.budget_met and report.rows[report.ships].val_drop <= report.max_drop


def test_trained_candidates_end_in_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", monkeypatch, None, precision="fp32", recover=1)
    assert any(trial.trained for trial in whole.trials)
    report = run(tmp_path / "cut", monkeypatch, 20, precision="fp32", recover=1)
    assert report.rows[report.ships].val_drop <= report.max_drop


def test_limits_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = small_data()
    with pytest.raises(UsageError, match="time_limit is for a budget: leave out speedup"):
        Options(small_model(), data, data, tmp_path, speedup=2.0, time_limit=60.0)
    assert Options(small_model(), data, data, tmp_path, time_limit="1.5m").time_limit == 90
    for limit in (-1, "10 x", True, float("inf")):
        with pytest.raises(UsageError, match=f"time_limit {limit}: expected a time above 0, as 90s, 10m or 2h"):
            Options(small_model(), data, data, tmp_path, time_limit=limit)
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", **data)
    assert hqp(monkeypatch, "optimize", "m.onnx", "--data", "data.npz", "--time-limit", "10 minutes", "-o", "out") == 2
    assert "expected a time above 0, as 90s, 10m or 2h" in capfd.readouterr().err
