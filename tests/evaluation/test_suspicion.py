"""What looks wrong is said, and nothing where nothing is wrong: on a model that knows ten prototypes of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.evaluation.metrics import evaluate, load_metric, predictions
from hqp_onnx.evaluation.suspicion import _missing, changed, spread, suspicions
from hqp_onnx.runtimes.session import Session

RNG = np.random.default_rng(2)
PROTOTYPES = RNG.standard_normal((10, 3, 6, 6)).astype(np.float32)
LABELS = np.sort(RNG.integers(0, 10, 400))  # sorted, as folders are
PIXELS = np.clip(128 + 60 * PROTOTYPES[LABELS] + 20 * RNG.standard_normal((400, 3, 6, 6)), 0, 255).astype(np.float32)
MEAN, STD = ([[[c]] for c in values] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
GOOD = ((PIXELS / 255 - MEAN) / STD).astype(np.float32)


def session() -> Session:
    """Distances to prototypes as it was trained to see them: cut, in whole numbers, so other scales mean nothing."""
    centre = np.floor(np.clip((128 / 255 + 60 / 255 * PROTOTYPES - MEAN) / STD, -3, 3)).astype(np.float32)
    weight = centre.reshape(10, -1).T
    bias = -0.5 * np.square(weight).sum(0)
    graph = onnx.parser.parse_graph(
        "g (float[n,3,6,6] x) => (float[n,10] y) { l = Constant <value_float = -3.0> () "
        "h = Constant <value_float = 3.0> () c = Clip (x, l, h) "
        "r = Floor (c) f = Flatten (r) z = MatMul (f, w) y = Add (z, b) }"
    )
    graph.initializer.extend([numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")])
    return Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def found(x: np.ndarray, labels: np.ndarray, metric: str = "top1", name: str = "data") -> list[str]:
    model = session()
    data = Dataset(ArraySource(name, {"x": x}, {"labels": labels}), model.inputs, batch_size=32)
    if metric == "agreement":
        data = data.labeled_with(predictions(model, data))
    scores = evaluate(model, data, load_metric(metric))
    return list(suspicions(model, data, load_metric(metric), scores))


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert found(GOOD, LABELS) == []
    assert found(GOOD[::2], LABELS[::2], "agreement") == []
    few = LABELS < 9  # a model of ten classes, and nine
    assert len(found(GOOD[few], LABELS[few])) == 1


def test_shuffled_labels_are_chance() -> None:
    (line,) = found(GOOD, RNG.permutation(LABELS))
    assert (
        "the original is right on" in line and "chance on 10.0 %" in line and "labels belong to these samples" in line
    )


def test_one_answer_to_all_is_as_good() -> None:
    labels = np.where(RNG.random(400) < 0.7, 3, RNG.integers(0, 10, 400))
    assert any("one answer to all on 7" in line for line in found(GOOD, labels))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (PIXELS, "with ImageNet's mean and deviation"),
        ((PIXELS / 255), "with ImageNet's mean and deviation"),
        (GOOD[:, ::-1], "with channels in reverse order"),
    ],
)
def test_inputs_that_are_not_as_in_training(wrong: np.ndarray, words: str) -> None:
    lines = found(np.ascontiguousarray(wrong, np.float32), LABELS)
    (line,) = (line for line in lines if "not what the model expects" in line)
    assert words in line and "the original is right on 100 % of" in line


def test_missing_classes_and_answers_of_one_class() -> None:
    few = LABELS < 3
    (line,) = found(GOOD[few], LABELS[few])
    assert "7 of the model's 10 classes have no sample (3, 4, 5, 6, 7, ...)" in line
    same = np.repeat(GOOD[:1], 400, 0)
    assert any("100 % of the original's answers on data are class" in line for line in found(same, LABELS))
    (line,) = found(same, LABELS, "agreement")
    assert "Of an embedding, use --metric recall@1 or fidelity" in line


def test_folders_of_sets_are_no_classes(tmp_path: Path) -> None:
    for name in ("calib", "val", "cats"):
        (tmp_path / name).mkdir()
    (line,) = found(GOOD, LABELS, name=str(tmp_path))
    assert (
        f"the sub-folders calib, val are taken for classes. If they are sets of data, give one of them, as {tmp_path}"
        in line
    )


def test_a_few_samples_are_from_everywhere() -> None:
    data = Dataset(ArraySource("data", {"x": GOOD}, {"labels": LABELS}), session().inputs, batch_size=32)
    few = np.concatenate([batch.labels for batch in spread(data)])
    assert set(few.tolist()) == set(range(10)) and 100 <= len(few) <= 130


def test_changes_keep_layout_and_type() -> None:
    last = np.moveaxis(PIXELS, 1, 3)
    for change in ("imagenet", "reversed", "symmetric"):
        one, other = changed(PIXELS, change), changed(last, change)
        assert one.dtype == other.dtype == np.float32
        assert np.array_equal(np.moveaxis(one, 1, 3), other)
    assert changed(PIXELS, "imagenet") == pytest.approx(GOOD, abs=1e-5)


@pytest.mark.parametrize("metric", ["f1", "rmse", "recall@1", "mine"])
def test_targets_of_other_samples(metric: str) -> None:
    """What is near chance by any metric, a user's own included."""

    def mine(outputs: dict, targets: dict, inputs: dict) -> np.ndarray:
        return np.square(outputs["y"].argmax(1) - targets["labels"]) * 7.0

    mine.higher = False  # type: ignore[attr-defined]
    model, values = session(), np.eye(10, dtype=np.float32)[LABELS] * 40
    targets = values if metric == "rmse" else LABELS
    chosen = load_metric(mine if metric == "mine" else metric)

    def said(labels: np.ndarray) -> list[str]:
        data = Dataset(ArraySource("data", {"x": GOOD}, {"labels": labels}), model.inputs, batch_size=32)
        return list(suspicions(model, data, chosen, evaluate(model, data, chosen)))

    assert said(targets) == []
    (line,) = said(RNG.permutation(targets))
    assert "with the targets of other samples, so it is not surely better with its own" in line
    assert said(np.repeat(targets[:1], 400, 0)) == []  # nothing to tell apart


def test_a_class_without_a_folder_shifts_the_others(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
    (line,) = _missing(np.repeat([0, 1], 50), 3, str(tmp_path))
    assert "has no sample (2)" in line and "Sub-folders are classes 0 to 1 in the order of their names" in line
    (line,) = _missing(np.repeat([0, 1], 50), 3, "data.npz")
    assert "Sub-folders" not in line
