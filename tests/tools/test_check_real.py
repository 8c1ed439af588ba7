"""What check_real.py finds of a model, and how its page says it."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools"))
import check_real  # noqa: E402
import real_inputs  # noqa: E402
import real_packages  # noqa: E402
import real_report  # noqa: E402

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,d] x, int64[n,k] ids) => (float[n,4] y) {
  a = MatMul(x, w)  e = Gather(E, ids)  m = ReduceMean<axes=[1], keepdims=0>(e)
  b = Add(a, m)  r = Relu(b)  y = MatMul(r, v)
}"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in {"w": (18, 64), "E": (50, 64), "v": (64, 4)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_inputs_follow_the_model(path: Path) -> None:
    """Features as many as the weight reads, tokens within the table."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = real_inputs.Drawer(onnx.load(path), lambda feeds: session.run(None, feeds))(5)
    assert feeds["x"].shape == (5, 18) and len(feeds["ids"]) == 5
    assert 2 < feeds["ids"].max() < 50


def test_a_file_is_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_real, "TARGETS", ("onnxruntime",))
    monkeypatch.setattr(check_real, "PLAIN_SECONDS", 0.001)
    monkeypatch.setattr(check_real, "SECONDS", 0.01)
    found: dict[str, object] = {"status": "right"}
    check_real.check(path, lambda **values: found.update(values))
    assert found["plans"] == 6 and found["canonical"] == 0 and found["error"] < 1e-5
    assert found["prunable"] == pytest.approx(64 / 68) and 0.2 < found["largest"] < 1
    assert found["onnxruntime"]["sqnr"] > 20 and found["fisher"] > 0 and found["moments"] > 0
    page = real_report.page({"p/m.onnx": found, "p/q.onnx": {"status": "refused", "reason": "no"}}, "a machine")
    assert "**2 files of 1 packages: 1 right, 1 refused; 0 larger than the input" in page
    assert "| p/q.onnx | refused | no |" in page and "graph output" in page


def test_a_wrong_result_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pruned model that forgets to cut one weight's channels alike."""
    real = check_real.prune_channels

    def wrong(graph: object, channels: object, plan: object) -> object:
        result = real(graph, channels, plan)
        weight = result.graph.tensors()["v"]
        weight.values = np.flip(weight.values, 0).copy()
        return result

    monkeypatch.setattr(check_real, "prune_channels", wrong)
    with pytest.raises(check_real.WrongResultError):
        check_real.check(path, lambda **values: None)


def test_packages_are_unpacked_without_installing(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(requirement: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name, version = requirement.replace("-", "_").split("==")
        if name == "one_a":
            with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
                archive.write(path, "one/models/m.onnx")
                archive.write(path, "one/models/other.onnx")
        else:
            with tarfile.open(folder / f"{name}-{version}.tar.gz", "w") as archive:
                archive.add(path, "two/m.onnx")

    monkeypatch.setattr(real_packages, "_download", download)
    monkeypatch.setattr(real_packages, "PACKAGES", {"one-a==1.0": ("*/m.onnx",), "two-b==2.0": ("*.onnx",)})
    real_packages.fetch(tmp_path / "f")
    assert sorted(str(p.relative_to(tmp_path / "f")) for p in (tmp_path / "f").rglob("*.onnx")) == [
        "one-a/m.onnx",
        "two-b/m.onnx",
    ]
