"""Step k of n: in order, each once, whatever is passed over."""

from __future__ import annotations

import logging

import pytest

from hqp_onnx import progress
from hqp_onnx.job.duration import duration
from hqp_onnx.job.options import Options
from hqp_onnx.job.steps import RESULTS, steps_of
from hqp_onnx.progress import Steps

ALL_DONE = "results, evaluated and timed as written"
ALL = [
    *(("checking calib", 9), ("checking val", 9), ("evaluation", 3), ("evaluation", 9), ("input moments", 9)),
    *(("obs saliency", 9), ("times", 9), ("loss curves", 9), ("evaluation", 9), ("evaluation", 4), ("times", 9)),
    *(("calibration", 9), ("evaluation", 9), ("recovery", 9), ("evaluation", 9), (RESULTS, 0), ("evaluation", 9)),
]


def said(options: Options, stages: list[tuple[str, int]], caplog: pytest.LogCaptureFixture) -> list[str]:
    seen: list[tuple[str, int, int]] = []
    steps = Steps(steps_of(options), lambda *report: seen.append(report), options.time_limit)
    with caplog.at_level(logging.INFO):
        for stage, done in stages:
            steps(stage, done, 9)
    assert seen == [(stage, done, 9) for stage, done in stages]
    return [record.getMessage().partition(": ")[0] for record in caplog.records]


def test_each_step_begins_once_and_in_order(caplog: pytest.LogCaptureFixture) -> None:
    assert said(Options("m.onnx", data="d.npz", output="out", recover=1), ALL, caplog) == [
        f"step {number} of 10" for number in range(1, 11)
    ]


def test_steps_that_a_resumed_job_needs_not_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    stages = [("checking calib", 9), ("evaluation", 9), ("calibration", 9), (RESULTS, 0)]
    found = said(Options("m.onnx", data="d.npz", output="out"), stages, caplog)
    assert found == ["step 1 of 9", "step 2 of 9", "step 8 of 9", "step 9 of 9"]


def test_a_limit_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    options = Options("m.onnx", data="d.npz", output="out", precision="fp32", saliency="l2", objective="macs")
    assert said(options, ALL, caplog)[-1] == "step 5 of 5"
    caplog.clear()
    said(Options("m.onnx", data="d.npz", output="out", time_limit=90), ALL[:1], caplog)
    assert caplog.records[0].getMessage() == "step 1 of 9: reading the data, about 90 s left of the limit"


def test_under_a_limit_int8_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    order = [*ALL[:4], ("calibration", 9), ("rounding", 9), *ALL[4:]]
    found = said(Options("m.onnx", data="d.npz", output="out", time_limit=90), order, caplog)
    assert found == [f"step {number} of 9" for number in range(1, 10)]


def test_an_estimate_says_what_is_left_and_is_corrected(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    options = Options("m.onnx", data="d.npz", output="out", precision="fp32", saliency="l2", objective="macs")
    steps = Steps(steps_of(options), progress.silent)
    said: list[str] = []
    monkeypatch.setattr(progress._LOG, "info", lambda line, *values: said.append(line % values))

    def step(stage: str, seconds: float) -> None:
        steps(stage, 1, 1)
        now[0] += seconds

    step("checking calib", 7)
    expected = {"reading the data": 10, "moments of what weights read": 40, "candidates": 50, ALL_DONE: 100}
    steps.expect(expected)
    step("evaluation", 0)  # the original
    step("input moments", 80)  # twice what was expected
    step("evaluation", 50)
    step(RESULTS, 1)
    # 200 s in all, of which a tenth counts as taken as expected: after 80 s in place of 40, the pace is 110 / 70
    assert said == [
        "step 1 of 5: reading the data",
        "step 2 of 5: the original, about 3 min left",
        "step 3 of 5: moments of what weights read, about 3 min left",
        f"step 4 of 5: candidates, about {150 * 110 / 70 / 60:.0f} min left",
        f"step 5 of 5: {ALL_DONE}, about {100 * 160 / 120 / 60:.0f} min left",
    ]


def test_each_step_has_a_duration_that_grows_with_the_data() -> None:
    options = Options("m.onnx", data="d.npz", output="out", recover=1)
    few, many = duration(options, 1.0), duration(options, 100.0)
    assert list(few) == [step.name for step in steps_of(options)]
    assert few["recovered candidates"] == many["recovered candidates"] == 0  # nobody knows
    assert all(few[name] < many[name] for name in ("the original", "saliency", "candidates", "INT8", ALL_DONE))
    lean = Options("m.onnx", data="d.npz", output="out", precision="fp32", saliency="l2", objective="macs")
    assert sum(duration(lean, 10.0).values()) < sum(duration(options, 10.0).values())
