"""What a verdict was given on is what is chosen, refreshed, tried again in INT8 and written."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from small_model import small_data, small_model
from steady import steady

from hqp_onnx import Options, optimize
from hqp_onnx.errors import BudgetError, ModelError
from hqp_onnx.evaluation import latency
from hqp_onnx.job import evidence, models, timing
from hqp_onnx.passes.quantize import Prepared
from hqp_onnx.runtimes import bench
from hqp_onnx.runtimes.session import Session

SAMPLES = 60
METRIC = """
import numpy as np

seen = 0

def varies(outputs, labels):
    return np.full(len(labels), float(np.ptp(outputs["logits"], axis=0).max() > 1e-6))

def near(outputs, labels):
    error = np.square(outputs["logits"] - np.load({wanted!r})[labels]).mean(1)
    return np.maximum(0, 0.9 - error / 4 - 0.04 * ("flat" in outputs and len(np.unique(outputs["flat"])) <= 256))

def tires(outputs, labels):
    global seen
    seen += len(labels)
    return np.full(len(labels), float(seen <= {patience}))
"""


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A small model without compensation: a candidate differs from it only in what is removed."""
    onnx.save(small_model(), tmp_path / "small.onnx")
    data = small_data(SAMPLES)
    np.savez(tmp_path / "calib.npz", **data)
    np.savez(tmp_path / "val.npz", input=data["input"], labels=np.arange(SAMPLES))
    chosen: dict[str, Any] = {"saliency": "l2", "compensate": False, "branches": False, "multiple_of": 1, "step": 0.1}
    calib, val = str(tmp_path / "calib.npz"), str(tmp_path / "val.npz")
    return Options(
        tmp_path / "small.onnx",
        calib,
        val,
        tmp_path / "out",
        search="linear",
        objective="sparsity",
        threads=1,
        **chosen,
    )


def metric(folder: Path, function: str, patience: int = 10**9) -> str:
    """A user's metric; ``wanted`` are the original's answers, and labels the numbers of samples."""
    wanted = folder / "wanted.npy"
    np.save(wanted, Session(small_model()).run({"input": small_data(SAMPLES)["input"]})["logits"])
    file = folder / f"{function}.py"
    file.write_text(METRIC.format(wanted=str(wanted), patience=patience))
    return f"{file}:{function}"


@pytest.mark.parametrize("refresh", [1, 2])
def test_a_refreshed_order_begins_with_what_was_removed(options: Options, tmp_path: Path, refresh: int) -> None:
    """INT8 is ruined by one sample beyond all others, so the search goes back through what it admitted in FP32."""
    data = small_data(SAMPLES)
    data["input"][0] *= 1e6
    np.savez(options.calib, **data)
    ruined = replace(options, metric=metric(tmp_path, "varies"), calibration="minmax", precision="int8")
    found = optimize(replace(ruined, refresh=refresh, max_drop=0.5))
    assert not found.budget_met
    full = {trial.removed: trial for trial in found.trials if trial.precision == "fp32"}
    again = [trial for trial in found.trials if trial.precision == "int8" and trial.removed]
    assert len(full) == 9 and all(trial.accepted for trial in full.values())
    assert all(larger.macs > smaller.macs for larger, smaller in itertools.pairwise(full.values()))
    assert len(again) >= 3 and not any(trial.accepted for trial in again)
    for trial in again:
        assert (trial.macs, trial.params) == (full[trial.removed].macs, full[trial.removed].params)


class Clock:
    """Stands for ``time`` where latency is measured; runs of models move it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    process_time = perf_counter

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A run takes 10 ms, and the parameter more for each pair of Q and DQ."""
    now, load, run = Clock(), Session.__init__, Session.run

    def loaded(self: Any, model: Any, *given: Any, **named: Any) -> None:
        proto = onnx.load(model) if isinstance(model, Path) else model
        pairs = sum(node.op_type == "QuantizeLinear" for node in proto.graph.node)
        self.seconds = 0.01 + request.param * pairs
        load(self, model, *given, **named)

    def timed(self: Any, feeds: Any) -> Any:
        now.now += self.seconds
        return run(self, feeds)

    for module in (latency, bench):
        monkeypatch.setattr(module, "time", now)
    monkeypatch.setattr(Session, "__init__", loaded)
    monkeypatch.setattr(Session, "run", timed)


@pytest.mark.parametrize(("clock", "fewer_units"), [(0.001, False), (-0.001, True)], indirect=["clock"])
def test_the_faster_way_back_into_the_budget_is_chosen(
    options: Options, tmp_path: Path, clock: None, fewer_units: bool
) -> None:
    """INT8 of the FP32 candidate is outside: fewer units in INT8, or as many with a node in float; the clock decides.

    The metric sees what reads INT8, and 18 of 24 units cost 0.105, 16 of them 0.05.
    """
    model = small_model()
    model.graph.output.append(onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, ["n", 16]))
    onnx.save(model, options.model)
    judged = replace(options, metric=metric(tmp_path, "near"), precision="mixed", target="tensorrt", max_drop=0.11)
    found = optimize(judged)
    verdicts = {(trial.precision, trial.removed): trial.accepted for trial in found.trials if not trial.floats}
    assert verdicts["fp32", 18] and not verdicts["int8", 18] and verdicts["int8", 16]
    spared = [trial for trial in found.trials if trial.accepted and trial.floats]
    assert spared and bool(found.floats) is not fewer_units
    assert found.ships == ("hqp" if fewer_units else "pruned")
    assert found.rows["hqp"].sparsity == pytest.approx((16 if fewer_units else 18) / 24)


def test_a_written_model_that_does_not_repeat_its_trial_is_refused(options: Options, tmp_path: Path) -> None:
    """By a metric that gives every sample a 1, and after all trials of such a search a 0."""
    steady = optimize(replace(options, metric=metric(tmp_path, "tires"), precision="fp32"))
    assert (options.output / "ledger.json").is_file()
    patience = SAMPLES * (1 + len(steady.trials))  # the original, and every candidate
    tiring = replace(options, metric=metric(tmp_path, "tires", patience), precision="fp32", output=tmp_path / "tired")
    with pytest.raises(BudgetError, match=r"pruned\.onnx: 0\.0000 on .* does not repeat its trial"):
        optimize(tiring)
    assert not any((tiring.output / name).exists() for name in ("ledger.json", "report.json", "report.html"))


def test_recovery_without_room_keeps_what_was_found(options: Options, tmp_path: Path) -> None:
    """No drop at all is allowed: nothing beyond the pruned candidate is admitted, and training leaves that as it is."""
    found = optimize(replace(options, metric=metric(tmp_path, "near"), precision="fp32", max_drop=0.0, recover=1))
    trained = [trial for trial in found.trials if trial.trained]
    assert [trial.accepted for trial in trained] == [trial.removed == 0 for trial in trained]
    assert len(trained) > 1 and found.rows["recovered"].sparsity == found.rows["pruned"].sparsity == 0


def test_a_candidate_that_overflows_in_calibration_is_rejected_and_the_run_goes_on(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = models.prepare

    def overflowing(graph: gs.Graph, *given: Any, **more: Any) -> Prepared:
        broken = graph.copy()
        for name in ("w2", "w3"):
            weight = broken.tensors()[name]
            weight.values = weight.values * np.float32(1e30)
        return honest(broken, *given, **more)

    monkeypatch.setattr(models, "prepare", overflowing)
    found = optimize(replace(options, precision="int8", max_drop=0.5, metric="agreement"))
    tried = [trial for trial in found.trials if trial.precision == "int8"]
    assert tried and not any(trial.accepted for trial in tried) and not found.budget_met
    assert all("60 of 60 samples have NaN or infinities in output 'logits'" in trial.why for trial in tried)


@pytest.mark.parametrize("objective", ["sparsity", "latency"])
def test_mixed_precision_goes_on_in_float_where_int8_does_not_run(
    objective: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> gs.Graph:
        raise ModelError("the runtime cannot run it")

    steady(monkeypatch)
    for module in (models, timing):
        monkeypatch.setattr(module, "quantize_prepared", refused)
    wanted = replace(options, precision="mixed", max_drop=0.5, metric="agreement", objective=objective)
    found = optimize(wanted)
    assert found.budget_met and found.rows[found.ships].sparsity > 0
    assert "what ships is in float32, since int8 fails: the runtime cannot run it" in found.notes
    limited = optimize(replace(wanted, output=options.folder / "limited", time_limit=1e-3))
    assert any("since int8 fails: the runtime cannot run it" in note for note in limited.notes)
    if objective == "latency":
        fast = optimize(replace(wanted, output=options.folder / "fast", max_drop=None, speedup=1.01))
        assert "what ships is in float32, since int8 fails: the runtime cannot run it" in fast.notes
    with pytest.raises(ModelError, match="the runtime cannot run it"):
        optimize(replace(wanted, output=options.folder / "int8", precision="int8"))


def test_a_model_without_prunable_units_needs_no_ranking(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def ranked(*_: Any, **__: Any) -> None:
        raise AssertionError("ranked")

    monkeypatch.setattr(evidence, "filter_scores", ranked)
    wanted = replace(options, saliency="obs", compensate=True, max_drop=0.5, metric="agreement")
    kept = replace(wanted, keep=("*",), precision="fp32")
    for objective in ("sparsity", "latency"):
        found = optimize(replace(kept, objective=objective, output=options.folder / objective))
        assert found.units.prunable == 0 and found.budget_met
    asked = replace(kept, objective="latency", max_drop=None, target_latency=1e3, output=options.folder / "asked")
    assert optimize(asked).budget_met
