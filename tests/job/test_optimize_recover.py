"""hqp optimize --recover and hqp recover on a small model."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from small_model import small_data, small_model
from steady import steady

from hqp_onnx.cli import cli
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.options import Options
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.recover import recover
from hqp_onnx.ranking.rank import filter_scores
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.points import kept_positions
from hqp_onnx.recovery.trainer import Trainer
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.optimize import optimize
from hqp_onnx.steps.prune import Pruning, prune_model


def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every look at it takes a twentieth of a second: trainings do not depend on the machine."""
    now = count(1.0, 0.05)
    for module in ("passes.recover", "recovery.trainer"):
        monkeypatch.setattr(f"hqp_onnx.{module}.perf_counter", lambda: next(now))
    monkeypatch.setattr("hqp_onnx.job.judge.time", SimpleNamespace(perf_counter=lambda: next(now)))


class Killed(KeyboardInterrupt):
    """Stands for SIGKILL: nothing handles it."""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("job")
    images = small_data(400)["input"]
    onnx.save(balanced(small_model(), images), folder / "model.onnx")
    np.savez(folder / "calib.npz", input=images[:240])
    np.savez(folder / "val.npz", input=images[240:])
    calib, val = str(folder / "calib.npz"), str(folder / "val.npz")
    common: dict[str, Any] = {"metric": "agreement", "precision": "int8", "max_drop": 0.1, "step": 0.1, "threads": 1}
    common |= {"compensate": False, "multiple_of": 1, "recover": 6, "objective": "sparsity", "saliency": "fisher"}
    return Options(folder / "model.onnx", calib, val, folder / "out", **common)


@pytest.fixture(scope="module")
def report(options: Options) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        steady(patch)
        optimize(options)
    found: dict[str, Any] = json.loads((options.output / "report.json").read_text())
    return found


def balanced(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """The last bias moved so that every class is answered."""
    logits = Session(model).run({"input": images})["logits"]
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "d4")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) - logits.mean(0), "d4"))
    return model


def agreement(options: Options, model: Path) -> float:
    with np.load(options.val) as data:
        feeds = {"input": data["input"]}
    answers = [Session(path).run(feeds)["logits"].argmax(1) for path in (options.model, model)]
    return float((answers[0] == answers[1]).mean())


def test_recovery_buys_sparsity(options: Options, report: dict[str, Any]) -> None:
    assert report["recovered"]["sparsity"] > report["hqp"]["sparsity"]
    assert report["recovered"]["macs"] < report["hqp"]["macs"]
    shipped = options.output / "recovered" / "int8.onnx"
    assert report["shipped"] == str(shipped)
    assert agreement(options, shipped) >= 1 - options.max_drop - 1e-9
    assert report["recovered"]["val_metric"] == pytest.approx(agreement(options, shipped))


def test_the_paper_s_model_is_that_of_a_run_without_recovery(options: Options, report: dict[str, Any]) -> None:
    plain = replace(options, recover=0, output=options.output.with_name("plain"))
    optimize(plain)
    for name in ("int8.onnx", "pruned.onnx", "ledger.json"):
        assert (plain.output / name).read_bytes() == (options.output / name).read_bytes()
    assert not (plain.output / "recovered").exists()
    assert "recovered" not in json.loads((plain.output / "report.json").read_text())
    assert report["hqp"]["metric"] <= 1


def test_the_ledger_beside_it_is_its_own(options: Options, report: dict[str, Any]) -> None:
    own, papers = (
        json.loads((options.output / n).read_text())["removed"] for n in ("recovered/ledger.json", "ledger.json")
    )
    counts = [sum(len(gone) for axes in removed.values() for gone in axes.values()) for removed in (own, papers)]
    assert counts[0] > counts[1]
    assert report["recovered"]["params"] < report["hqp"]["params"]


def test_the_cost_of_its_trials_is_reported(report: dict[str, Any]) -> None:
    trained = [trial for trial in report["trials"] if trial["trained"]]
    cost = report["cost_model"]
    assert cost["c_recover"] == pytest.approx(sum(trial["seconds"] for trial in trained))
    assert cost["t_recover"] == len(trained) > 0
    assert cost["t_prune"] == len(report["trials"]) - len(trained)
    assert cost["recovery_ratio"] == pytest.approx(cost["c_recover"] / cost["c_qat"])


def test_widths_are_trained_once(options: Options) -> None:
    coarse = replace(options, multiple_of=4, recover=1, step=0.01, output=options.output.with_name("coarse"))
    trials = optimize(coarse).trials
    for precision in ("fp32", "int8"):
        trained = [trial.macs for trial in trials if trial.precision == precision and trial.trained]
        assert len(set(trained)) == len(trained) > 0


def test_auto_trains_on_all_samples_in_its_time_and_measures_on_some(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients, moments and scales need a few thousand samples at most; what is trained takes what there is."""
    trained, measured = [], []

    def teach(student: Any, teacher: Any, data: Any, settings: Recovery, **given: Any) -> Any:
        if not given["final"]:  # what was judged ships as it was
            trained.append(len(data))
        return recover(student, teacher, data, settings, **given)

    def score(model: Any, scoring: Any, data: Any, execution: Any) -> Any:
        answers = Session(options.model).run({"input": np.concatenate([batch.feeds["input"] for batch in data])})
        measured.append((len(data), np.array_equal(data.labels, answers["logits"].argmax(1))))
        return filter_scores(model, scoring, data, execution)

    monkeypatch.setattr("hqp_onnx.job.setup.MOST_CALIBRATION", 100)
    monkeypatch.setattr("hqp_onnx.job.models.recover", teach)
    monkeypatch.setattr("hqp_onnx.job.evidence.filter_scores", score)
    ticking(monkeypatch)
    given = {"recover": "auto", "recover_time": 6.0, "precision": "fp32"}
    found = optimize(replace(options, **given, output=options.output.with_name("auto")))
    assert measured == [(100, True)]  # under the original's answers
    assert set(trained) == {240}
    assert sum(trial.seconds for trial in found.trials if trial.trained) < 9
    (note,) = (note for note in found.notes if "up to 120 epochs of 216 samples" in note)
    assert "augmentation: " in note and note.endswith("; 6 s for all trainings together")
    assert found.recovered is not None
    assert found.recovered.sparsity > found.hqp.sparsity


def test_a_killed_job_resumes_to_the_same_models(
    options: Options, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    again, epochs = replace(options, output=options.output.with_name("again")), 0

    def epoch(self: Trainer, *given: Any, run: Any = Trainer._round) -> None:
        nonlocal epochs
        if epochs == 8:
            raise Killed
        epochs += 1
        run(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_round", epoch)
        with pytest.raises(Killed):
            optimize(again)
    optimize(replace(again, resume=True))
    for name in ("int8.onnx", "recovered/int8.onnx", "recovered/ledger.json"):
        assert (again.output / name).read_bytes() == (options.output / name).read_bytes()
    assert epochs == 8


def test_a_killed_search_in_a_time_goes_on_to_a_model_that_was_judged(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts are not paid for twice, a plan is trained on under one file, and what ships is what was judged."""
    again, rounds = replace(options, recover="auto", recover_time=8.0, output=options.output.with_name("timed")), 0

    def round_(self: Trainer, *given: Any, run: Any = Trainer._round) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 5:
            raise Killed
        run(self, *given)

    steady(monkeypatch)
    ticking(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_round", round_)
        with pytest.raises(Killed):
            optimize(again)
    before = len((again.output / "ledger.jsonl").read_text().splitlines())
    found = optimize(replace(again, resume=True))
    lines = [json.loads(line) for line in (again.output / "ledger.jsonl").read_text().splitlines()]
    keys = [line["trial"]["key"] for line in lines if "trial" in line]
    assert len(lines) > before
    assert len(set(keys)) == len(keys)
    assert any("-trained-" in key for key in keys)
    assert found.recovered is not None
    shipped = [trial for trial in found.trials if trial.trained and trial.precision == "int8" and trial.accepted]
    assert found.recovered.val_metric == pytest.approx(shipped[-1].metric)


def test_a_search_that_is_given_more_time_goes_on(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict is paid for again, and nothing admitted before is lost; less time than before is refused."""
    steady(monkeypatch)
    ticking(monkeypatch)
    first = replace(
        options, recover="auto", recover_time=8.0, precision="fp32", output=options.output.with_name("more")
    )
    before = optimize(first)
    file = first.output / "ledger.jsonl"
    known = file.read_text().splitlines()[1:]
    after = optimize(replace(first, recover_time=24.0, resume=True))
    assert before.settings["recover_time"] == 8.0 and after.settings["recover_time"] == 24.0
    lines = file.read_text().splitlines()[1:]
    assert set(known) <= set(lines)
    keys = [json.loads(line)["trial"]["key"] for line in lines if "trial" in json.loads(line)]
    assert len(set(keys)) == len(keys)
    spent = [sum(trial.seconds for trial in report.trials if trial.trained) for report in (before, after)]
    assert spent[0] < 12 and spent[0] + 8 < spent[1] < 30
    assert before.recovered is not None and after.recovered is not None
    assert after.recovered.sparsity >= before.recovered.sparsity
    with pytest.raises(UsageError, match=r"recover-time\} was 24 s and is now 4 s. Give as much or more"):
        optimize(replace(first, recover_time=4.0, resume=True))


def test_recover_as_a_command(options: Options, report: dict[str, Any]) -> None:
    """The paper's model trained a little more; the ledger beside it is found."""
    target = options.output.with_name("more.onnx")
    source = options.output / "int8.onnx"
    given = ["recover", str(source), "--teacher", str(options.model), "--data", options.calib, "--quiet"]
    ended = CliRunner().invoke(cli, [*given, "--epochs", "2", "-o", str(target)], catch_exceptions=False)
    assert ended.exit_code == 0
    assert "held-out loss" in ended.output
    assert "features matched: n1" in ended.output
    before, after = (onnx.load(path).graph for path in (source, target))
    assert [node.op_type for node in before.node] == [node.op_type for node in after.node]
    assert before.initializer != after.initializer
    assert report["hqp"]["bytes"] == source.stat().st_size


@pytest.mark.slow
def test_a_bundled_model_recovers_what_compensation_cannot() -> None:
    model = open_model(MODELS / "mobilenet_v3_small.onnx", threads=1)
    calib, val = (open_data(model, MODELS / f"fashion_mnist_{part}.npz").first(400) for part in ("calib", "val"))
    pruned = prune_model(model, Pruning(0.75, "l2", branches=False, multiple_of=8), calib)
    kept = kept_positions(pruned.channels, pruned.channels.removed(pruned.plan))
    found = recover(pruned.graph, model.graph, calib, Recovery(2), kept=kept, threads=1)
    answers = [
        np.concatenate([next(iter(session.run(batch.feeds).values())).argmax(1) for batch in val])
        for session in (Session(to_proto(graph)) for graph in (model.graph, pruned.graph, found.graph))
    ]
    compensated, recovered = ((answers[0] == other).mean() for other in answers[1:])
    assert compensated < 0.8
    assert recovered > compensated + 0.1
