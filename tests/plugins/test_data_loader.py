"""A written data-loader script gives Polygraphy, and hqp itself, the batches of DATA."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from PIL import Image
from polygraphy import mod
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator
from small_model import small_data, small_model

from hqp_onnx.data.sources import open_source


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(small_model(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_whole_batches_again_and_again(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "d.npz", **small_data(23))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "new" / "loader.py"
    assert hqp(monkeypatch, "data-loader", "d.npz", "--model", model, "--batch", 5, "--limit", 19, "-o", script) == 0
    monkeypatch.chdir(tmp_path.parent)
    feeds = mod.import_from_script(str(script), name="load_data")()
    assert len(feeds) == 3
    for _ in range(2):
        batches = [batch["input"] for batch in feeds]
        assert [len(batch) for batch in batches] == [5, 5, 5]
        assert np.array_equal(np.concatenate(batches), small_data(23)["input"][:15])
    assert np.array_equal(open_source(str(script)).rows(0, 15).feeds["input"], small_data(23)["input"][:15])
    results = Comparator.run([OnnxrtRunner(SessionFromOnnx(str(model)), name="r")], data_loader=feeds)
    assert [len(result["logits"]) for result in results["r"]] == [5, 5, 5]


def test_images_are_read_with_their_preprocessing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    (tmp_path / "images").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
    settings = tmp_path / "p.json"
    settings.write_text(json.dumps({"size": 8, "color": "L", "mean": [0], "std": [1]}))
    script = tmp_path / "loader.py"
    arguments = ("--model", model, "--preprocess", settings, "-o", script)
    assert hqp(monkeypatch, "data-loader", tmp_path / "images", *arguments) == 0
    batches = [batch["input"] for batch in mod.import_from_script(str(script), name="load_data")()]
    assert np.allclose(np.concatenate(batches)[:, 0] * 255, pixels, atol=1e-4)


def test_a_fixed_batch_is_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = small_model()
    for value in (fixed.graph.input[0], fixed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **small_data(10))
    arguments = ("data-loader", tmp_path / "d.npz", "--model", tmp_path / "m.onnx", "-o", tmp_path / "l.py")
    assert hqp(monkeypatch, *arguments) == 0
    feeds = mod.import_from_script(str(tmp_path / "l.py"), name="load_data")()
    assert [len(batch["input"]) for batch in feeds] == [4, 4]
    assert hqp(monkeypatch, *arguments, "--batch", 8) == 2


@pytest.mark.parametrize(
    ("arrays", "more", "part"),
    [
        ({"image": np.zeros((4, 1, 8, 8), np.float32)}, (), "no array for model input 'input'"),
        ({"input": np.zeros((4, 1, 8, 4), np.float32)}, (), "has shape"),
        ({"input": np.zeros((4, 1, 8, 8), np.float32)}, ("--batch", "5"), "fewer than one batch of 5"),
        ({"input": np.zeros((4, 1, 8, 8), np.float32)}, ("--batch", "0"), "at least 1"),
        ({"input": np.zeros((4, 1, 8, 8), np.float32)}, ("--limit", "0"), "at least 1"),
        ({"input": np.zeros((4, 1, 8, 8), np.float32)}, ("--model", "none.onnx"), "none.onnx: no such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arrays: dict[str, np.ndarray],
    more: tuple[str, ...],
    part: str,
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    script = tmp_path / "l.py"
    assert hqp(monkeypatch, "data-loader", tmp_path / "d.npz", "--model", model, "-o", script, *more) == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ") and part in error and "\n" not in error
    assert not script.exists()
