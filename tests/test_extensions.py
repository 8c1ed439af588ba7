"""Saliencies, metrics and gradient engines of a package from outside and of a user's file, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_model import small_data, small_model

from hqp_onnx.job.options import Options
from hqp_onnx.job.settings import settings_of
from hqp_onnx.job.setup import open_setup
from hqp_onnx.progress import silent

CODE = """
import numpy as np
from onnx import numpy_helper

from hqp_onnx.evaluation.metrics import Metric
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.ranking.saliencies import Saliency


def largest(model, data):
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    axes = filter_weights(model)
    return {name: np.abs(np.moveaxis(values[name], axis, 0)).reshape(values[name].shape[axis], -1).max(1)
            for name, axis in axes.items()}


class Counted(Saliency):
    needs_data = True

    def filters(self, model, data, scoring, execution):
        return {name: scores * len(data) for name, scores in largest(model, data).items()}


def half(outputs, labels):
    return np.full(len(labels), 0.5)


quarter = Metric("quarter", lambda outputs, labels: half(outputs, labels) / 2, "data")


class Twice(PerSample):
    def __call__(self, feeds, targets=None):
        return {name: 2 * values for name, values in super().__call__(feeds, targets).items()}
"""
POINTS = """
[hqp_onnx.saliencies]
acme-largest = acme:largest
acme-counted = acme:Counted
acme-broken = acme.nowhere:rank
[hqp_onnx.metrics]
acme-half = acme:half
acme-quarter = acme:quarter
[hqp_onnx.gradient_engines]
acme-twice = acme:Twice
"""
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, a file of extensions, and an installed package ``acme`` that holds the same."""
    made = tmp_path_factory.mktemp("extensions")
    (made / "model.onnx").write_bytes(small_model().SerializeToString())
    np.savez(made / "data.npz", **small_data())
    metadata = made / "site" / "acme-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(POINTS)
    for file in (made / "site" / "acme.py", made / "mine.py"):
        file.write_text(CODE)
    return made


def hqp(folder: Path, *arguments: str, code: int = 0) -> str:
    """What a command says, in a process of its own."""
    places = os.pathsep.join([str(folder / "site"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "hqp_onnx", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": places, "COLUMNS": "200"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def score(folder: Path, *options: str) -> dict[str, np.ndarray]:
    hqp(folder, "score", "model.onnx", "--data", "data.npz", "-o", "scores.npz", "--quiet", *options)
    with np.load(folder / "scores.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", ["acme-largest", "mine.py:largest", "acme-counted", "mine.py:Counted"])
def test_saliencies_rank_units(folder: Path, name: str) -> None:
    weights = {tensor.name: tensor for tensor in small_model().graph.initializer}
    want = np.abs(np.frombuffer(weights["w2"].raw_data, np.float32)).reshape(24, -1).max(1)
    np.testing.assert_allclose(score(folder, "--saliency", name)["filter/w2"], want * (24 if "ounted" in name else 1))
    options = ["--keep", "w1", "--sparsity", "0.5", "--ledger", "ledger.json", "-o", "pruned.onnx", "--quiet"]
    hqp(folder, "prune", "model.onnx", "--saliency", name, "--data", "data.npz", *options)
    removed = json.loads((folder / "ledger.json").read_text())["removed"]["w2"]["0"]
    assert sorted(removed) == sorted(np.argsort(want)[:12].tolist())


def test_what_a_saliency_needs_is_asked_for(folder: Path) -> None:
    prune = ["prune", "model.onnx", "--sparsity", "0.5", "-o", "pruned.onnx", "--quiet"]
    hqp(folder, *prune, "--saliency", "mine.py:largest")
    assert "--saliency mine.py:Counted needs --data" in hqp(folder, *prune, "--saliency", "mine.py:Counted", code=2)


@pytest.mark.parametrize(
    ("name", "value"), [("acme-half", 0.5), ("acme-quarter", 0.25), ("mine.py:half", 0.5), ("mine.py:quarter", 0.25)]
)
def test_metrics_measure(folder: Path, name: str, value: float) -> None:
    said = hqp(folder, "evaluate", "model.onnx", "--data", "data.npz", "--metric", name, "--json", "-", "--quiet")
    assert json.loads(said)["value"] == value


@pytest.mark.parametrize("name", ["acme-twice", "mine.py:Twice"])
def test_engines_differentiate(folder: Path, name: str) -> None:
    plain, twice = score(folder), score(folder, "--gradients", name)
    for key, values in plain.items():
        np.testing.assert_allclose(twice[key], 2 * values, rtol=1e-6)


def test_a_whole_optimization_takes_them(folder: Path) -> None:
    options = ["--calib", "data.npz", "--val", "data.npz", "--precision", "fp32", "--step", "0.2", "--quiet"]
    names = ["--saliency", "acme-largest", "--metric", "mine.py:half", "--gradients", "acme-twice"]
    hqp(folder, "optimize", "model.onnx", *options, *names, "-o", "out")
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["settings"]["saliency"] == "acme-largest"
    assert report["pruned"]["sparsity"] > 0
    assert report["baseline"]["metric"] == 0.5


def test_help_lists_names_without_importing_them(folder: Path) -> None:
    listed = hqp(folder, "optimize", "--help")
    for name in ("fisher|", "|acme-largest|acme-counted|acme-broken|FILE.py:NAME]", "acme-half", "|acme-twice|"):
        assert name in listed
    score = ["score", "model.onnx", "--data", "data.npz", "-o", "s.npz", "--saliency"]
    assert "saliency 'acme-broken' of acme cannot be imported" in hqp(folder, *score, "acme-broken", code=2)
    assert "expected one of fisher, taylor, obs, l1, l2, bn-gamma, random, acme-largest" in hqp(
        folder, *score, "acme", code=2
    )


def test_a_changed_file_is_another_job(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    digests = []
    for text in (CODE, CODE + "\n"):
        file.write_text(text)
        data = str(folder / "data.npz")
        options = Options(folder / "model.onnx", data, data, tmp_path / "out", saliency=f"{file}:largest")
        digests.append(settings_of(open_setup(options, silent))["saliency_file"])
    assert digests[0] != digests[1]
