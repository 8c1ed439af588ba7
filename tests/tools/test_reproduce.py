"""tools/reproduce.py on a small model: its figures are those that onnxruntime and the files themselves give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import MODELS
from onnx import numpy_helper
from small_model import small_model

TOOLS = MODELS.parent / "tools"
PAPER = ("the paper", "ours / the paper's")


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        import reproduce

        yield reproduce


@pytest.fixture(scope="module")
def case(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    """Labels are the model's own answers, so it is right everywhere; its bias makes them balanced."""
    folder, model = tmp_path_factory.mktemp("case"), small_model()
    images = {part: images_of(seed) for seed, part in enumerate(("calib", "val", "test"))}
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "d4")
    values = numpy_helper.to_array(bias) - logits(model.SerializeToString(), images["calib"]).mean(0)
    bias.CopyFrom(numpy_helper.from_array(values, "d4"))
    onnx.save(model, folder / "model.onnx")
    for part, pixels in images.items():
        np.savez(folder / f"{part}.npz", input=pixels, labels=answers(folder / "model.onnx", pixels))
    parts = [folder / f"{part}.npz" for part in ("calib", "val", "test")]
    return tool.Case("small", "ResNet-18", folder / "model.onnx", *parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(scope="module")
def table(tool: ModuleType, case, folder: Path) -> dict[str, list[str]]:
    """Cells of Table II by the title of their row; the paper's rows follow HQP's."""
    rows = cells(tool.tables(case, ["onnxruntime"], folder, 0))
    names = [row[0] for row in rows]
    assert names[2:] == ["FP32", "Q8-only", *PAPER, "P50-only", "HQP", *PAPER]
    return {row[0]: row[1:] for row in rows}


def images_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((300, 1, 8, 8)).astype(np.float32)


def logits(model: str | bytes, pixels: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model).run(None, {"input": pixels})[0]


def answers(model: Path, pixels: np.ndarray) -> np.ndarray:
    return logits(str(model), pixels).argmax(1)


def lost(model: Path, case) -> float:
    """Points lost on the test data."""
    with np.load(case.test) as data:
        return 100 * float((answers(model, data["input"]) != data["labels"]).mean())


def cells(lines: list[str]) -> list[list[str]]:
    """Of the rows of tables."""
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]


def number(cell: str) -> float:
    return float(re.match(r"[-+]?[\d.]+", cell)[0])


def test_drops_are_those_of_the_files(table: dict[str, list[str]], case, folder: Path) -> None:
    out = folder / "small" / "onnxruntime"
    for title, path in (("HQP", out / "int8.onnx"), ("P50-only", out / "p50_only.onnx")):
        assert number(table[title][4]) == pytest.approx(lost(path, case), abs=0.006)
    assert number(table["P50-only"][4]) > 5  # else nothing was told apart
    assert table["FP32"][4] == "+0.00 (+0.00 to +0.00)"


def test_sizes_are_those_of_the_files(table: dict[str, list[str]], case, folder: Path) -> None:
    smaller = 1 - (folder / "small" / "onnxruntime" / "p50_only.onnx").stat().st_size / case.model.stat().st_size
    assert number(table["P50-only"][2]) == round(100 * smaller)


def test_rows_stand_beside_the_papers(table: dict[str, list[str]]) -> None:
    assert [number(cell) for cell in table["the paper"][1:5]] == [2.51, 40, 35, 1.3]
    ratios = table["ours / the paper's"]
    assert number(ratios[1]) == pytest.approx(
        number(table["HQP"][1]) / 2.51, abs=0.0075
    )  # both are rounded to hundredths
    assert number(ratios[3]) == pytest.approx(number(table["HQP"][3]) / 35, abs=0.02)


def test_energy_without_a_counter_is_that_of_latency(table: dict[str, list[str]]) -> None:
    if "mJ" in table["FP32"][5]:
        pytest.skip("this machine has a counter")
    for title in ("FP32", "Q8-only", "P50-only", "HQP"):
        assert table[title][5].endswith("of FP32's (P L)")
        assert number(table[title][5]) == pytest.approx(1 / number(table[title][1]), abs=0.02)


def test_energy_with_a_counter(tool: ModuleType, case, folder: Path, table: object, monkeypatch) -> None:
    """Every row has a file that runs; Q8-only is made again."""
    monkeypatch.setattr(tool, "joules_per_run", lambda run, on_gpu: float(run()["logits"].shape[1]) + on_gpu)
    report = tool.optimized(case, "onnxruntime", folder, 0)
    assert tool.joules(case, report, "onnxruntime") == dict.fromkeys(("FP32", "P50-only", "HQP", "Q8-only"), 4.0)
    operators = {node.op_type for node in onnx.load(folder / "small" / "onnxruntime" / "q8_only.onnx").graph.node}
    assert "QuantizeLinear" in operators


def test_layers_are_those_of_the_pruned_file(tool: ModuleType, case, folder: Path, table: object) -> None:
    report = tool.optimized(case, "onnxruntime", folder, 0)
    rows = cells(tool.layers(case, report))[2:]
    whole = report.ships in ("baseline", "q8_only")  # as the clock had it
    pruned = onnx.load(case.model if whole else folder / "small" / "onnxruntime" / "pruned.onnx").graph
    left = {tensor.name: tensor.dims[0] for tensor in pruned.initializer if tensor.dims}
    assert [row[0] for row in rows] == ["w1", "w2", "w3", "w4"]
    assert [row[1] for row in rows] == ["convolution"] * 3 + ["linear"]
    for name, _, width, share in rows:
        kept = left.get(name, next(size for tensor, size in left.items() if tensor.startswith(name)))
        assert number(share) == round(100 * (1 - kept / int(width)))


def test_costs_add_up(tool: ModuleType, case, folder: Path) -> None:
    lines = tool.costs(tool.optimized(case, "onnxruntime", folder, 0), case.calib)
    rows = [[number(cell) for cell in row[1:]] for row in cells(lines)[2:]]
    for column in range(2):
        gradients, trials, whole, training, ratio = (row[column] for row in rows)
        assert whole == pytest.approx(gradients + trials, abs=0.16)
        assert training > whole
        assert training / (whole + 0.05) - 1 < ratio  # of one decimal
        assert whole <= 0.05 or ratio < training / (whole - 0.05) + 1


@pytest.fixture(scope="module")
def found(tool: ModuleType, case):
    return tool.Curves(case, 0)


def test_ranges_are_those_of_the_weights(tool: ModuleType, found, case) -> None:
    """At θ = 0 nothing is narrower; at θ = 60 % what remains is the original's."""
    whole = tool.ranges(found, 0.0)
    assert all("narrower in 0% of them, wider in 0%" in line for line in whole[2:])
    order = found.order("fisher")
    pruned = found.pruned(order, 0.6, compensated=False).tensors()
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(case.model).graph.initializer}
    for name in ("w3", "w4"):
        assert pruned[name].values.size < original[name].size
        assert np.isin(pruned[name].values, original[name]).all()


def test_curves(tool: ModuleType, found, folder: Path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    import reproduce_curves

    monkeypatch.setattr(reproduce_curves, "THETAS", (0.0, 0.5))
    lines, rows = reproduce_curves.curves(found)
    names = [
        name
        for kind in ("Fisher (S)", "Taylor", "magnitude", "BN-γ", "random")
        for name in (kind, f"{kind}, compensated")
    ]
    assert [name for name in rows if not name.endswith("INT8")] == ["FP32", *names]
    assert lines[0].startswith("FP32 100.00 %")
    for name in names:
        assert rows[name][0] == 1.0
        assert rows[name][1] < 1.0
    reproduce_curves.draw(rows, "small", folder / "curves.svg")
    assert (folder / "curves.svg").read_text().count('id="line2d_') > 2 * len(names)
