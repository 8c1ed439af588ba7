"""What --dry-run says, against a command whose time is known and a clock that only it moves; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.sampled import capped, sampled, taken, whole
from hqp_onnx.model import open_data, open_model
from hqp_onnx.progress import Progress
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.schedule import epochs_for
from hqp_onnx.steps import forecast as module
from hqp_onnx.steps import forecast_optimize
from hqp_onnx.steps.forecast import REST, Forecast, Foretold, Stage, forecast, line


class Work:
    """A command: 2 s whatever the data, 0.5 s a sample twice, 3 s behind. A second of work takes two by the clock."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.now = data, 0.0
        self.taken: list[int] = []

    def __call__(self, folder: Path, progress: Progress) -> None:
        assert folder.is_dir()
        data = taken(self.data)
        self.taken.append(len(data))
        self.now += 2
        progress("looking", 1, 1)
        for _ in range(2):
            for done in range(len(data)):
                self.now += 0.5
                progress("reading", done + 1, len(data))
        self.now += 3


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    model = open_model(small_model())
    made = Work(open_data(model, small_data(600)).in_batches(20))
    monkeypatch.setattr(module, "process_time", lambda: made.now)
    monkeypatch.setattr(module, "perf_counter", lambda: 2 * made.now)
    return made


def test_stages_are_read_at_all_samples(work: Work) -> None:
    found = forecast(work)
    stages = {stage.name: stage for stage in found.stages}
    assert work.taken == [20, 60]
    assert (stages["reading"].passes, stages["reading"].count) == (2, 600)
    assert stages["reading"].work == pytest.approx(600) and stages["looking"].work == pytest.approx(2)
    assert stages[REST].work == pytest.approx(3)
    assert found.work == pytest.approx(605) and found.seconds == pytest.approx(2 * 605)
    assert found.samples == {"data": 600} and found.bytes > 10**7


def test_what_comes_once_at_the_end_of_a_pass_is_no_part_of_its_pace(work: Work) -> None:
    def command(_: Path, progress: Progress) -> None:
        total = len(taken(work.data))
        for done in range(20, total + 1, 20):
            work.now += 1 + 4 * (done == 20) + 7 * (done == total)
            progress("reading", done, total)

    reading = next(stage for stage in forecast(command).stages if stage.name == "reading")
    assert reading.work == pytest.approx(600 / 20 + 4 + 7)


def test_later_candidates_take_what_the_second_takes() -> None:
    first, later = forecast_optimize.REFIT, forecast_optimize._LATER[forecast_optimize.REFIT]
    stages = [Stage(first, 1, 1, 9.0, 3.0), Stage("baseline", 1, 5, 2.0, 1.0), Stage(later, 1, 1, 0.5, 0.25)]
    merged = forecast_optimize._merged(forecast_optimize._often(s, 6 if s.name == later else 1) for s in stages)
    assert merged == [Stage(first, 7, 1, 12.0, 4.5), stages[1]]
    assert forecast_optimize._merged([Stage("groups", 1, 1, 0.0)]) == []


def test_a_stage_takes_no_more_samples_than_it_may(work: Work) -> None:
    stages = {stage.name: stage for stage in forecast(work, {"reading": 100}).stages}
    assert stages["reading"].work == pytest.approx(100) and stages["reading"].count == 100


def test_a_time_limit_ends_the_search() -> None:
    stages = [Stage("moments", 1, 10, 4.0), Stage("candidates", 8, 10, 16.0), Stage("refinement", 1, 0, 5.0)]
    last = Stage("latency of the result", 1, 0, 2.0)
    cut = forecast_optimize._limited([*stages, last], 14.0)
    assert cut == [stages[0], Stage("candidates", 4, 10, 8.0), last]
    assert forecast_optimize._limited([*stages, last], 27.0) == [*stages, last]


def test_lines_neither_fall_nor_begin_below_nothing() -> None:
    assert line([10, 30], [1.0, 3.0], 100) == pytest.approx(10.0)
    assert line([10, 30], [2.0, 3.0], 100) == pytest.approx(6.5)
    assert line([10, 30], [4.0, 3.0], 100) == 3.0
    assert line([10, 30], [0.1, 3.0], 100) == pytest.approx(10.0)
    assert line([10, 10], [1.0, 3.0], 10) == 3.0


def test_data_are_whole_again_afterwards() -> None:
    model = open_model(small_model())
    with sampled(1) as sampling:
        assert len(open_data(model, small_data(250))) == 100
    assert sampling.whole == {"data": 250} and sampling.taken == {"data": 100}
    assert len(open_data(model, small_data(250))) == 250


def test_what_takes_no_more_samples_is_forecast_so() -> None:
    model = open_model(small_model())
    capped("data", 3)  # nothing, outside
    with sampled(1) as sampling:
        data = open_data(model, small_data(250))
        assert (len(data), whole(data)) == (100, 250)
        capped("data", 120)
        assert whole(data) == 120
    assert sampling.whole == {"data": 120} and whole(data) == 100


@pytest.mark.parametrize("count", [120, 15_000])
def test_a_training_of_auto_is_forecast_for_all_samples_within_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], count: int
) -> None:
    """Of few samples, all are tried, for an epoch as well."""
    train, epochs = round(0.9 * count), epochs_for(Recovery("auto"), round(0.9 * count))
    limit = 1.0 if count > 1000 else 0.01
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "model.onnx")
    np.savez("data.npz", input=small_data(30)["input"].repeat(count // 30, 0))
    assert hqp(monkeypatch, "prune", "model.onnx", "--sparsity", "0.3", "-o", "pruned.onnx", "--quiet") == 0
    command = [*COMMANDS["recover"], "--epochs", "auto", "--dry-run", "--json", "-"]
    seconds = []
    for more in ([], ["--time-limit", f"{limit}s"]):
        capfd.readouterr()
        assert hqp(monkeypatch, *command, *more) == 0
        (stage,) = (s for s in json.loads(capfd.readouterr().out)["stages"] if s["name"] == "recovery")
        seconds.append(stage["seconds"])
        if not more:
            assert stage["count"] == pytest.approx(epochs * train, rel=0.15)
    assert seconds[0] > limit and seconds[1] == pytest.approx(limit)


COMMANDS = {
    "score": ("score", "model.onnx", "--data", "data.npz", "-o", "out.npz"),
    "prune": ("prune", "model.onnx", "--sparsity", "0.3", "--data", "data.npz", "-o", "out.onnx"),
    "quantize": ("quantize", "model.onnx", "--data", "data.npz", "-o", "out.onnx"),
    "recover": ("recover", "pruned.onnx", "--teacher", "model.onnx", "--data", "data.npz", "-o", "out.onnx"),
    "optimize": ("optimize", "model.onnx", "--calib", "data.npz", "--val", "data.npz", "-o", "out"),
    "paper": ("optimize", "model.onnx", "--calib", "data.npz", "--val", "data.npz", "--paper", "-o", "out"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "model.onnx")
    onnx.save(small_model(), "pruned.onnx")
    np.savez("data.npz", **small_data(500))
    before = sorted(tmp_path.rglob("*"))
    assert hqp(monkeypatch, *COMMANDS[name], "--dry-run", "--json", "-") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["seconds"] > 0 and found["stages"] and set(found["samples"].values()) == {500}
    counts = {stage["name"]: stage["count"] for stage in found["stages"]}
    read = {"score": "fisher saliency", "prune": "fisher saliency", "quantize": "calibration"}
    if name in read:
        assert counts[read[name]] > 100
    assert hqp(monkeypatch, *COMMANDS[name], "--dry-run") == 0
    assert "Nothing was done" in capfd.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("batch", "seconds", "says"), [(5.0, 300.0, True), (5.0, 3.0, False), (0.5, 300.0, False)])
def test_a_long_command_says_first_what_it_will_take(
    batch: float, seconds: float, says: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An estimate may take a tenth of 38 batches, the rest of the first stage: it is worth that if these are slow."""
    stages = Stage("looking", 1, 1, seconds / 10), Stage("reading", 2, 600, seconds), Stage(REST, 1, 0, 0.3)
    seen: list[tuple[str, int, int]] = []
    foreseen: list[tuple[object, float]] = []
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])

    def command(folder: Path, progress: Progress) -> None:
        raise AssertionError("only an estimate runs it")

    def foresee(command: object, seconds: float) -> Forecast:
        foreseen.append((command, seconds))
        return Forecast(stages, 5 * 10**8, {"data": 600})

    reports = [("looking", 1, 1), *(("reading", done, 600) for done in (15, 30, 45)), ("reading", 15, 600)]
    told = Foretold(command, lambda *report: seen.append(report), foresee)
    with caplog.at_level("INFO"):
        for report in reports:
            now[0] += batch
            told(*report)
    assert seen == reports and foreseen == [(command, pytest.approx(19.0))] * (batch > 1)
    assert [record.getMessage() for record in caplog.records] == says * [
        "about 6 min and 500 MB of memory, by a few samples: looking (1 times 30 s), reading (2 times 2 min)",
        "step 2 of 2: reading, about 5 min left",
    ]


def test_what_cannot_be_estimated_is_done_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(module, "WORTH_SECONDS", 0.0)

    def command(folder: Path, progress: Progress) -> None:
        raise ValueError("too few samples")

    told = Foretold(command, lambda stage, *_: seen.append(stage))
    with caplog.at_level("INFO"):
        told("reading", 1, 100)
        told("reading", 2, 100)
    assert seen == ["reading", "reading"]
    assert [r.getMessage() for r in caplog.records] == ["how long it will take cannot be estimated: too few samples"]


def test_an_estimate_ends_with_its_time(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    """The first samples take 50 s by the clock, so 25 are too few."""
    with pytest.raises(TimeoutError):
        forecast(work, seconds=25.0)
    assert work.taken == [20]
    assert forecast(work, seconds=1000.0).samples == {"data": 600}


def test_optimize_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "m.onnx")
    np.savez("data.npz", **small_data(60))
    monkeypatch.setattr("hqp_onnx.steps.optimize.LONG_SECONDS", 0.0)
    options = (
        "--calib",
        "data.npz",
        "--val",
        "data.npz",
        "--precision",
        "fp32",
        "--objective",
        "macs",
        "--no-build",
        "--threads",
        "1",
    )
    assert hqp(monkeypatch, "optimize", "m.onnx", *options, "--max-drop", "30%", "-o", "out") == 0
    said = capsys.readouterr().err
    assert "as the original takes 1 s for all samples; '--dry-run' says" in said
    assert "step 2 of 6: the original, about " in said
    assert hqp(monkeypatch, "optimize", "m.onnx", *options, "--max-drop", "30%", "-o", "two", "--quiet") == 0
    assert "for all samples" not in capsys.readouterr().err
    assert Path("out/pruned.onnx").read_bytes() == Path("two/pruned.onnx").read_bytes()
