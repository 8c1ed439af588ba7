"""`hqp optimize` of models without labels or classes: the loss that ranks units is the user's choice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from scored import scored

from hqp_onnx.cli import cli
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import UsageError
from hqp_onnx.job.options import Options
from hqp_onnx.runtimes.session import Session

METRIC = """import numpy as np
def alive(outputs, labels):
    y = outputs["y"]
    return np.isfinite(y).all((1, 2, 3)).astype(float)
"""
BODY = "a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu (a) y = Conv (r, v)"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A network that gives a map of 2 channels, and samples of its input alone."""
    rng = np.random.default_rng(0)
    header = '<ir_version: 8, opset_import: ["": 17]>'
    model = onnx.parser.parse_model(f"{header} net (float[N, 3, 6, 6] x) => (float[N, 2, 6, 6] y) {{ {BODY} }}")
    for name, shape in (("w", (16, 3, 3, 3)), ("v", (2, 16, 1, 1))):
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((40, 3, 6, 6)).astype(np.float32))
    (tmp_path / "metric.py").write_text(METRIC)
    body = "l = ReduceSumSquare <axes = [1, 2, 3], keepdims = 0> (y)"
    loss = onnx.parser.parse_model(f"{header} loss (float[N, 2, 6, 6] y) => (float[N] l) {{ {body} }}")
    onnx.save(loss, tmp_path / "loss.onnx")
    return tmp_path


def optimized(files: Path, *chosen: str) -> Path:
    data, out = str(files / "data.npz"), files / "out"
    arguments = ["optimize", str(files / "net.onnx"), "--calib", data, "--val", data, "-o", str(out), "--quiet"]
    arguments += ["--metric", f"{files / 'metric.py'}:alive", "--precision", "fp32", "--multiple-of", "1"]
    arguments += ["--objective", "sparsity", "--saliency", "fisher", *chosen]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize(
    ("chosen", "name", "draws"),
    [(("--draws", "3"), None, 3), (("--loss", "gauss-newton"), "gauss-newton", 1), (("--loss", "FILE"), "FILE", 1)],
)
def test_the_ranking_is_that_of_the_chosen_loss(
    files: Path, chosen: tuple[str, ...], name: str | None, draws: int
) -> None:
    file = str(files / "loss.onnx")
    out = optimized(files, *(file if word == "FILE" else word for word in chosen))
    model = onnx.load(files / "net.onnx")
    data = open_dataset(str(files / "data.npz"), Session(files / "net.onnx").inputs)
    loss = onnx.load(file) if name == "FILE" else name
    want = scored(model, data, loss=loss, draws=draws)
    with np.load(out / ".cache" / "scores.npz") as scores:
        np.testing.assert_allclose(scores["filter/w"], want["w"], rtol=1e-6)
    assert json.loads((out / "report.json").read_text())["pruned"]["sparsity"] > 0


@pytest.mark.parametrize(
    ("chosen", "message"),
    [({"draws": 0}, "draws 0"), ({"engine": "jax"}, "unknown gradient engine 'jax'")],
)
def test_bad_options_are_refused(tmp_path: Path, chosen: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(tmp_path / "m.onnx", "a", "b", tmp_path / "out", **chosen)  # type: ignore[arg-type]


def test_an_unknown_loss_is_refused_before_anything_is_written(files: Path) -> None:
    data = str(files / "data.npz")
    arguments = ["optimize", str(files / "net.onnx"), "--calib", data, "--val", data, "-o", str(files / "out")]
    result = CliRunner().invoke(cli, [*arguments, "--loss", "hinge"])
    assert isinstance(result.exception, UsageError)
    assert "loss hinge" in str(result.exception)
    assert not (files / "out").exists()
