"""The main job by metrics that are no shares, by the default without targets, and what it suspects beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import small_data, small_model

from hqp_onnx import Options, optimize
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.job.results import Report
from hqp_onnx.report.reading import read_report
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(4)
X = {name: small_data(40 + number)["input"] for number, name in enumerate(("calib", "val"))}
X["val"] = X["val"] + RNG.standard_normal(X["val"].shape).astype(np.float32) / 4


def outputs(name: str) -> np.ndarray:
    return Session(small_model()).run({"input": X[name]})["logits"]


def job(folder: Path, targets: dict[str, Any], **options: Any) -> Report:
    data = {name: {"input": x, **{k: v(name) for k, v in targets.items()}} for name, x in X.items()}
    chosen: dict[str, Any] = {"saliency": "l2", "objective": "sparsity", "precision": "fp32", "multiple_of": 1}
    chosen |= {"compensate": False, "threads": 1, "step": 0.1, **options}
    return optimize(Options(small_model(), data["calib"], data["val"], folder / "out", **chosen))


def values(name: str) -> np.ndarray:
    return outputs(name) + 0.1 * np.sin(np.arange(outputs(name).size, dtype=np.float32)).reshape(outputs(name).shape)


@pytest.mark.parametrize("max_drop", [0.05, "40%"])
def test_a_rise_of_an_error_is_held_to_the_budget(tmp_path: Path, max_drop: float | str) -> None:
    report = job(tmp_path, {"labels": values}, metric="rmse", max_drop=max_drop)
    original = float(np.sqrt(np.mean((outputs("val") - values("val")) ** 2)))
    shipped = Session(Path(report.shipped)).run({"input": X["val"]})["logits"]
    error = float(np.sqrt(np.mean((shipped - values("val")) ** 2)))
    allowed = max_drop if isinstance(max_drop, float) else 0.4 * original
    row = report.rows[report.ships]
    assert report.baseline.metric == pytest.approx(original, rel=1e-5)
    assert (row.metric, row.drop) == (
        pytest.approx(error, rel=1e-4),
        pytest.approx(error - original, rel=1e-3, abs=1e-7),
    )
    assert row.drop <= allowed == pytest.approx(report.max_drop, rel=1e-5)
    assert any(not trial.accepted for trial in report.trials)
    assert all(trial.why.startswith("rise ") for trial in report.trials)
    assert row.drop_low <= row.drop <= row.drop_high
    page = (tmp_path / "out" / "report.html").read_text()
    assert "rmse, was" in page and "is worse in rmse by" in page
    assert read_report(tmp_path / "out") == report


def test_without_targets_outputs_are_held_to_the_originals(tmp_path: Path) -> None:
    report = job(tmp_path, {}, max_drop=0.2)
    assert (report.metric.name, report.baseline.metric) == ("fidelity", 1.0)
    y, y0 = Session(Path(report.shipped)).run({"input": X["val"]})["logits"], outputs("val")
    shares = np.clip(1 - np.square(y - y0).sum(1) / np.square(y0).sum(1), 0, 1)
    assert report.rows[report.ships].metric == pytest.approx(shares.mean(), abs=1e-5)


@pytest.mark.parametrize(("metric", "loss"), [("rmse", "mse"), ("fidelity", "mse"), ("agreement", "kl")])
def test_recovery_trains_towards_what_the_metric_judges(
    tmp_path: Path, metric: str, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        report = job(tmp_path, {"labels": values} if metric == "rmse" else {}, metric=metric, recover=2, max_drop=0.3)
    assert f"recovery: trained towards logits ({loss})" in caplog.messages
    assert report.recovered is not None
    assert report.recovered.macs <= report.hqp.macs


def test_an_output_and_a_class_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\nclass Error:\n    higher, unit = False, 'mm'\n"
        "    def __init__(self): self.total = self.count = 0\n"
        "    def update(self, outputs, targets, inputs):\n"
        "        assert list(outputs) == ['logits'] and list(inputs) == ['input']\n"
        "        self.total += np.abs(outputs['logits'] - targets['wanted']).sum()\n"
        "        self.count += len(outputs['logits'])\n"
        "    def value(self): return self.total / self.count\n"
    )
    chosen = {"metric": f"{file}:Error", "metric_output": "logits", "max_drop": 0.3}
    report = job(tmp_path, {"wanted": values}, **chosen)
    error = np.abs(outputs("val") - values("val")).sum(1).mean()
    assert report.baseline.metric == pytest.approx(error, rel=1e-5)
    assert (report.metric.unit, report.metric.higher) == ("mm", False)
    assert 0 < report.rows[report.ships].drop <= 0.3
    json.dumps(report.json(), allow_nan=False)


def tagged(name: str) -> np.ndarray:
    return (outputs(name) > 0).astype(np.int64)


def test_f1_of_tags(tmp_path: Path) -> None:
    report = job(tmp_path, {"labels": tagged}, metric="f1", max_drop=0.1, confidence=0.9)
    assert report.baseline.metric == 1.0 and report.rows[report.ships].val_drop <= 0.1
    assert all("budget 10 points" in trial.why for trial in report.trials)


@pytest.mark.parametrize(
    ("targets", "options", "error", "words"),
    [
        ({}, {"metric": "rmse"}, DataError, "no targets, and metric rmse needs them"),
        ({"labels": tagged}, {"metric": "top1"}, DataError, "the target 'labels' is int64"),
        ({"labels": values}, {"metric": "miou"}, DataError, "expected class numbers"),
        ({}, {"metric_output": "other"}, UsageError, "no such output, there are logits"),
        ({}, {"max_drop": 1.5}, UsageError, "expected a share in 0..1"),
        ({}, {"max_drop": "a lot"}, UsageError, "such as 5%"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, targets: dict[str, Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        job(tmp_path, targets, **options)
    assert not (tmp_path / "out").exists()


def test_equal_samples_and_few_of_them_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"input": X["val"][:5], "labels": np.arange(5) % 4}
    chosen: dict[str, Any] = {"precision": "fp32", "objective": "sparsity", "saliency": "l2", "compensate": False}
    report = optimize(Options(small_model(), data, data, tmp_path / "out", step=0.5, max_drop=0.5, **chosen))
    assert any(
        "5 samples of the validation data the data are also in the calibration data" in w for w in report.warnings
    )
    assert any(w.startswith("5 calibration samples are few: weight 'w4' reads 16 values") for w in report.warnings)
    assert any("warning: 5 samples of the validation data" in message for message in caplog.messages)


def test_agreement_of_what_has_no_classes_is_refused(tmp_path: Path) -> None:
    import onnx

    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,4] x) => (float[n,4] y) '
    weight = onnx.numpy_helper.from_array(RNG.standard_normal((4, 4)).astype(np.float32), "w")
    bodies = {
        "{ h = MatMul (x, w) y = Sigmoid (h) }": "ends in Sigmoid",
        "{ h = MatMul (x, w) y = LpNormalization <axis = 1, p = 2> (h) }": "an embedding has no classes",
    }
    for body, words in bodies.items():
        model = onnx.parser.parse_model(text + body)
        model.graph.initializer.append(weight)
        data = {"x": RNG.standard_normal((9, 4)).astype(np.float32)}
        with pytest.raises(ModelError, match=words):
            optimize(Options(model, data, data, tmp_path / "out", metric="agreement"))
