"""External data that are links: those of a cache of downloads are read, those that lead elsewhere are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_model import small_data, small_model

from hqp_onnx.errors import ModelError
from hqp_onnx.graphs import model_io
from hqp_onnx.model import open_model, open_session


def stored(folder: Path, location: str = "model.onnx_data") -> tuple[Path, Path]:
    """A model and its data in ``folder/blobs``, under the names of a cache."""
    blobs = folder / "blobs"
    blobs.mkdir(parents=True)
    onnx.save_model(small_model(), blobs / "m.onnx", save_as_external_data=True, location="d", size_threshold=0)
    model = onnx.load(blobs / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    (blobs / "m.onnx").write_bytes(model.SerializeToString())
    return (blobs / "m.onnx").rename(blobs / "aaa"), (blobs / "d").rename(blobs / "bbb")


def link(path: Path, target: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def test_a_cache_of_downloads_is_read(tmp_path: Path) -> None:
    model, data = stored(tmp_path, "part/model.onnx_data")
    named = link(tmp_path / "snapshots" / "1" / "model.onnx", Path("../../blobs") / model.name)
    link(named.parent / "part" / "model.onnx_data", Path("../../../blobs") / data.name)
    feeds, want = {"input": small_data(4)["input"]}, open_session(small_model())
    assert [t.raw_data for t in model_io.load(named).graph.initializer] == [
        t.raw_data for t in small_model().graph.initializer
    ]
    for session in (open_model(named).session, open_session(named)):
        np.testing.assert_array_equal(session.run(feeds)["logits"], want.run(feeds)["logits"])


@pytest.mark.parametrize("kind", ["elsewhere", "model is no link", "through a second link", "above", "absolute"])
def test_a_link_to_anywhere_else_is_refused(kind: str, tmp_path: Path) -> None:
    location = {"above": "../m/model.onnx_data", "absolute": str(tmp_path / "m" / "model.onnx_data")}
    model, data = stored(tmp_path, location.get(kind, "model.onnx_data"))
    (tmp_path / "secret").write_bytes(data.read_bytes())
    named = tmp_path / "m" / "model.onnx"
    if kind == "model is no link":
        named.parent.mkdir()
        named.write_bytes(model.read_bytes())
    else:
        link(named, model)
    target = data
    if kind == "elsewhere":
        target = tmp_path / "secret"
    if kind == "through a second link":
        data.unlink()
        target = link(data, tmp_path / "secret")
    link(named.parent / "model.onnx_data", target)
    with pytest.raises(ModelError, match="external data cannot be read"):
        model_io.load(named)


def test_a_large_model_behind_links_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_io, "_EXTERNAL_FROM", 1)
    model, data = stored(tmp_path)
    named, _ = link(tmp_path / "m" / "model.onnx", model), link(tmp_path / "m" / "model.onnx_data", data)
    assert model_io.load(named).graph.node
    broken = onnx.load(model, load_external_data=False)
    broken.graph.node[1].op_type = "Nothing"
    model.write_bytes(broken.SerializeToString())
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        model_io.load(named)
