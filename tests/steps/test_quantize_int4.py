"""INT4 weights under a budget: as many as it allows, found by trying every number; and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import PIL.Image
import pytest
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import UsageError
from hqp_onnx.passes import store_weights
from hqp_onnx.progress import silent
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.quantize import quantize_file

WEIGHTS = 4  # three of Conv, one of Gemm


@pytest.fixture(autouse=True)
def _all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, small weights are worth 4 bits, too."""
    monkeypatch.setattr(store_weights, "_SMALLEST", 1)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    onnx.save(small_model(), model)
    np.savez(data, input=small_data(64)["input"])
    return model, data


def quantized(files: tuple[Path, Path], max_drop: float) -> tuple[onnx.ModelProto, str]:
    """The model, and the first note."""
    model, data = files
    output = model.with_name("int4.onnx")
    options = {"int4_weights": "auto", "int4_convs": True, "val": str(data), "max_drop": max_drop, "in_order": False}
    written = quantize_file(model, output, str(data), "onnxruntime", "entropy", None, silent, **options)
    return onnx.load(output), written.notes[0]


def integers(model: onnx.ModelProto) -> tuple[int, int]:
    """Weights in INT4 and in INT8."""
    kinds = [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1]
    return kinds.count(onnx.TensorProto.INT4), kinds.count(onnx.TensorProto.INT8)


def test_a_budget_takes_as_many_as_it_allows(files: tuple[Path, Path]) -> None:
    x = np.load(files[1])["input"]
    want = next(iter(Session(files[0]).run({"input": x}).values()))
    lost = {}
    for budget in (1.0, 1e-4, 1e-5, 5e-6, 2e-6):
        made, words = quantized(files, budget)
        four, eight = integers(made)
        assert (four + eight, words.split()[0]) == (WEIGHTS, str(four)) and bool(eight) == ("in INT8" in words)
        have = next(iter(Session(made).run({"input": x}).values()))
        lost[four] = np.mean(np.sum((have - want) ** 2, 1) / np.sum(want**2, 1))  # 1 - fidelity, by its definition
        assert lost[four] <= budget * (1 + 1e-4)
        assert all(loss > budget for count, loss in lost.items() if count > four), (budget, lost)
    assert len(lost) > 2 and WEIGHTS in lost  # budgets that make a difference
    assert "INT8: fidelity drop" in words


def test_a_file_without_int4_does_not_say_int4(files: tuple[Path, Path]) -> None:
    model = onnx.load(files[0])
    model.metadata_props.add(key="hqp.version", value="0")  # what says nothing of ours is left alone
    onnx.save(model, files[0])
    made, words = quantized(files, 2e-7)
    assert integers(made) == (0, WEIGHTS) and words.startswith("0 of 4 weights in INT4, the others in INT8")
    assert {entry.key: entry.value for entry in made.metadata_props}["hqp.precision"] == "mixed"


def test_weights_that_are_not_worth_storing_are_not_said_to_be_in_int8(files: tuple[Path, Path]) -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 21]> g (float[n,1,8,8] input) => (float[n,2] y) {
      mean = ReduceMean<keepdims=0>(input, axes) y = MatMul(mean, w)
    }
    """)
    values = {"axes": np.array([1, 2]), "w": np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    model.metadata_props.add(key="hqp.version", value="0")  # what says nothing of ours is left alone
    onnx.save(model, files[0])
    made, words = quantized(files, 1e-7)
    assert words.startswith("0 of 1 weight in INT4, none in INT8") and integers(made) == (0, 0)
    assert {entry.key: entry.value for entry in made.metadata_props}["hqp.precision"] == "fp32"


def test_images_of_val_alone_are_preprocessed(files: tuple[Path, Path]) -> None:
    folder = files[0].with_name("images")
    folder.mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)):
        PIL.Image.fromarray(image).save(folder / f"{number}.png")
    options = {"int4_weights": "auto", "val": str(folder), "metric": "agreement", "in_order": False}
    output = files[0].with_name("int4.onnx")
    preprocess = '{"mean": [0.5], "std": [0.5], "scale": 0.00392}'
    written = quantize_file(files[0], output, None, "onnxruntime", "entropy", preprocess, silent, **options)
    assert "agreement" in " ".join(written.notes) and output.exists()


def test_what_no_budget_allows_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"0 of 4 weights in INT4, the others in INT8.*Give a larger max_drop"):
        quantized(files, 0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"int4_weights": "auto"}, "add {--val} DATA"),
        ({"int4_weights": 0.5, "val": "x.npz"}, "leave {--val} out"),
        ({"max_drop": 0.1}, "leave them out"),
        ({"metric": "top1", "int4_weights": 1.0}, "leave them out"),
        ({"int4_weights": 1.5}, "expected a share"),
        ({"int4_weights": 0.5, "precision": "mixed"}, "leave one out"),
        ({"int4_weights": "auto", "val": "x.npz", "precision": "int8"}, "leave one out"),
    ],
)
def test_options_that_do_not_go_together(files: tuple[Path, Path], options: dict, words: str) -> None:
    with pytest.raises(UsageError) as error:
        quantize_file(
            files[0], files[0].with_name("o.onnx"), str(files[1]), "onnxruntime", "entropy", None, silent, **options
        )
    assert words in error.value.template


def test_python_has_what_the_command_line_has(files: tuple[Path, Path]) -> None:
    model, data = files
    budget = {"int4_weights": "auto", "int4_convs": True, "val": str(data), "max_drop": 1e-4, "in_order": False}
    made = hqp_onnx.quantize(model, str(data), **budget)  # type: ignore[arg-type]
    assert integers(made) == integers(quantized(files, 1e-4)[0])
    assert integers(hqp_onnx.quantize(model, str(data), int4_weights="100%", int4_convs=True)) == (WEIGHTS, 0)
    with pytest.raises(UsageError, match="int4_weights auto is judged on validation data: add val"):
        hqp_onnx.quantize(model, str(data), int4_weights="auto")
    with pytest.raises(UsageError, match="int4_weights: 'many' is no share"):
        hqp_onnx.quantize(model, str(data), int4_weights="many")
