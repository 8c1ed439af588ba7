"""Reading and writing models, external data included."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import BUNDLED, MODELS
from oracle import run
from small_model import small_model

from hqp_onnx.errors import FileError, ModelError
from hqp_onnx.graphs import model_io
from hqp_onnx.model import open_model, open_session

IMAGES = {"input": np.load(MODELS / "fashion_mnist_test.npz")["input"][:2].astype(np.float32)}


@pytest.mark.parametrize("name", [b"w1", b"input", b"half"])
def test_names_that_are_no_text_are_one_line(name: bytes, tmp_path: Path) -> None:
    content = small_model().SerializeToString().replace(name, b"\xff" * len(name))
    (tmp_path / "m.onnx").write_bytes(content)
    for opens in (open_model, open_session):
        with pytest.raises(ModelError, match=r"m\.onnx: .*(not UTF-8|cannot parse)"):
            opens(tmp_path / "m.onnx")
    assert model_io.parts(tmp_path / "m.onnx") == [tmp_path / "m.onnx"]


@pytest.mark.parametrize("name", BUNDLED)
def test_round_trip_computes_the_same(name: str, tmp_path: Path) -> None:
    original = model_io.load(MODELS / f"{name}.onnx")
    model_io.save(model_io.to_graph(original), tmp_path / "copy.onnx")
    copy = model_io.load(tmp_path / "copy.onnx")
    assert np.array_equal(run(original, IMAGES)[0], run(copy, IMAGES)[0])
    assert not list(tmp_path.glob(".*"))


def test_external_data_are_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(MODELS / "resnet18.onnx")
    want = run(model, IMAGES)[0]
    external = tmp_path / "in" / "model.onnx"
    external.parent.mkdir()
    onnx.save_model(model, external, save_as_external_data=True, location="weights.bin")
    loaded = model_io.load(external)
    assert model_io.stored_bytes(external) > 6_000_000
    monkeypatch.setattr(model_io, "_EXTERNAL_FROM", 1)
    target = tmp_path / "out" / "copy.onnx"
    before = loaded.SerializeToString(deterministic=True)
    model_io.save(loaded, target)
    assert loaded.SerializeToString(deterministic=True) == before
    assert sorted(path.name for path in target.parent.iterdir()) == ["copy.onnx", "copy.onnx.data"]
    assert target.stat().st_size < 100_000
    assert np.array_equal(run(model_io.load(target), IMAGES)[0], want)
    model_io.save(model_io.load(target), target)  # over itself
    assert sorted(path.name for path in target.parent.iterdir()) == ["copy.onnx", "copy.onnx.1.data"]
    assert np.array_equal(run(model_io.load(target), IMAGES)[0], want)
    model_io.save(model_io.load(target), target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["copy.onnx", "copy.onnx.data"]
    tensors = onnx.load(target, load_external_data=False).graph.initializer
    offsets = [int(e.value) for t in tensors for e in t.external_data if e.key == "offset"]
    assert len(offsets) > 10 and not any(offset % 4096 for offset in offsets)
    monkeypatch.undo()
    model_io.save(model_io.load(target), target)  # small enough for one file
    assert [path.name for path in target.parent.iterdir()] == ["copy.onnx"]
    assert np.array_equal(run(model_io.load(target), IMAGES)[0], want)


def test_data_files_of_others_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(MODELS / "resnet18.onnx")
    target, shared = tmp_path / "copy.onnx", tmp_path / "shared.bin"
    onnx.save_model(onnx.load(MODELS / "resnet18.onnx"), target, save_as_external_data=True, location=shared.name)
    (tmp_path / "copy.onnx.data").write_text("of somebody")
    model_io.save(model, target)
    monkeypatch.setattr(model_io, "_EXTERNAL_FROM", 1)
    model_io.save(model, target)
    found = {"copy.onnx", "copy.onnx.data", "copy.onnx.1.data", "shared.bin"}
    assert {path.name for path in tmp_path.iterdir()} == found
    assert (tmp_path / "copy.onnx.data").read_text() == "of somebody"


@pytest.mark.parametrize("step", range(5))
def test_external_data_and_model_are_replaced_together(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the program, at each call to the system in turn, the file that is there computes as one of both."""
    monkeypatch.setattr(model_io, "_EXTERNAL_FROM", 1)
    target, model = tmp_path / "model.onnx", onnx.load(MODELS / "resnet18.onnx")
    model_io.save(onnx.load(MODELS / "resnet18.onnx"), target)
    want = run(model, IMAGES)[0]
    for tensor in model.graph.initializer:
        if tensor.name == model.graph.node[-1].input[1]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    other = run(model, IMAGES)[0]
    calls = []

    def ends(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            calls.append(name)
            if len(calls) == step + 1:
                raise KeyboardInterrupt
            return real(*given)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", ends("fsync", os.fsync))
        patched.setattr(Path, "replace", ends("replace", Path.replace))
        with pytest.raises(KeyboardInterrupt):
            model_io.save(model, target)
    assert calls == ["fsync", "fsync", "replace", "fsync", "replace"][: step + 1]
    assert np.array_equal(run(model_io.load(target), IMAGES)[0], want)
    assert [path for path in sorted(tmp_path.iterdir()) if path not in model_io.parts(target)] == []
    model_io.save(model_io.load(target), target)
    assert not np.array_equal(want, other)


def test_any_cut_of_a_model_is_a_model_error(tmp_path: Path) -> None:
    content = (MODELS / "resnet18.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for cut in [1, 2, 10, 100, 1000, *range(10_000, len(content), 400_000), len(content) - 1]:
        path.write_bytes(content[:cut])
        with pytest.raises(ModelError, match=r"cut\.onnx"):
            model_io.load(path)


def test_random_bytes_are_a_model_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.onnx"
    for size in [1, 2, 3, 5, 8, 50, 500] * 10:
        path.write_bytes(rng.bytes(size))
        with pytest.raises(ModelError, match=r"noise\.onnx"):
            model_io.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load(MODELS / "resnet18.onnx")
    model_io.save(model, path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"model\.onnx: cannot be written: No space left on device"):
        model_io.save(model, path)
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_weight_of_another_size_than_its_shape_is_one_line(tmp_path: Path) -> None:
    model = small_model()
    del model.graph.initializer[0].dims[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx: (weight '.*' of shape \[\] holds|not a valid ONNX model)"):
        model_io.load(tmp_path / "m.onnx")


def test_models_in_a_blocked_layout_are_refused(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "blocked.onnx")
    ort.InferenceSession(small_model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    if all(node.domain != "com.microsoft.nchwc" for node in onnx.load(tmp_path / "blocked.onnx").graph.node):
        pytest.skip("onnxruntime has no blocked layout on this machine")
    with pytest.raises(ModelError, match="onnxruntime optimized it for one machine"):
        model_io.load(tmp_path / "blocked.onnx")


def test_nodes_without_names_of_their_own_get_some_that_are_free() -> None:
    text = "g (float[n] x) => (float[n] y) { [Neg_1] a = Neg(x) b = Neg(a) [Neg_1] c = Neg(b) [Neg_2] y = Neg(c) }"
    graph = model_io.to_graph(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    assert [node.name for node in graph.nodes] == ["Neg_1", "Neg_1_1", "Neg_2_1", "Neg_2"]


UNSTATED = "g (float[n,3] x) => (float[n,3] y) <float[3] b = {1, 2, 3}> { a = Relu(x) y = OP(a, b) }"


def unstated(part: str, op: str = "Add") -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(header + UNSTATED.replace("OP", op))
    kind = model.graph.output[0].type
    kind.ClearField("value") if part == "type" else kind.tensor_type.ClearField(part)
    return model


@pytest.mark.parametrize("part", ["type", "shape"])
def test_outputs_that_state_no_type_get_theirs(part: str, tmp_path: Path) -> None:
    onnx.save(unstated(part), tmp_path / "m.onnx")
    opened = open_model(tmp_path / "m.onnx")
    assert opened.interface.outputs == {"y": "float[n, 3]"}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (unstated("elem_type"), "output 'y' states no element type"),
        (unstated("shape", "com.microsoft.BiasGelu"), "output 'y' states no type or shape, and inference finds none"),
    ],
)
def test_outputs_whose_type_is_not_known_are_named(model: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=rf"m\.onnx: {words}"):
        model_io.load(tmp_path / "m.onnx")
