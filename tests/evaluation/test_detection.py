"""Average precision against pycocotools, and the layouts that detectors give."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from metric_oracles import bootstrap, judged

from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics import Scores, load_metric
from hqp_onnx.evaluation.metrics.boxes import corners, overlaps, read_detections
from hqp_onnx.evaluation.metrics.detection import average_precision

RNG = np.random.default_rng(5)
IMAGES, CLASSES, SIDE = 24, 4, 64
INPUTS = {"x": np.zeros((IMAGES, 3, SIDE, SIDE), np.float32)}


def boxes(count: int) -> np.ndarray:
    low = RNG.uniform(0, SIDE - 20, (count, 2))
    return np.concatenate([low, low + RNG.uniform(4, 20, (count, 2))], 1)


def made(crowds: bool) -> tuple[dict[str, np.ndarray], list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Targets, and detections near them: moved, missing, invented, of a wrong class, with equal scores."""
    most = 6
    targets = {
        "boxes": np.zeros((IMAGES, most, 4), np.float32),
        "classes": np.full((IMAGES, most), -1),
        "crowd": np.zeros((IMAGES, most), np.int64),
    }
    found = []
    for image in range(IMAGES):
        count = int(RNG.integers(0, most + 1))
        targets["boxes"][image, :count] = boxes(count)
        targets["classes"][image, :count] = RNG.integers(0, CLASSES, count)
        targets["crowd"][image, :count] = RNG.random(count) < 0.2 if crowds else 0
        near = np.repeat(targets["boxes"][image, :count], 2, 0) + RNG.uniform(-1.9, 1.9, (2 * count, 4))
        mine = np.concatenate([near, boxes(3)])
        classes = np.concatenate([np.repeat(targets["classes"][image, :count], 2), RNG.integers(0, CLASSES, 3)])
        classes = np.where(RNG.random(len(classes)) < 0.1, RNG.integers(0, CLASSES, len(classes)), classes)
        found.append((mine, np.round(0.1 + 0.9 * RNG.random(len(mine)), 1), classes))
    return targets, found


def coco(targets: dict[str, np.ndarray], found: list[Any]) -> tuple[float, float]:
    """AP and AP50 by pycocotools."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def row(image: int, box: np.ndarray, label: int) -> dict[str, Any]:
        x1, y1, x2, y2 = map(float, box)
        size = [x2 - x1, y2 - y1]
        return {"image_id": image, "category_id": label, "bbox": [x1, y1, *size], "area": size[0] * size[1]}

    wanted = [
        {**row(i, targets["boxes"][i, j], int(c)), "id": 1 + i * 100 + j, "iscrowd": int(targets["crowd"][i, j])}
        for i in range(IMAGES)
        for j, c in enumerate(targets["classes"][i])
        if c >= 0
    ]
    detected = [
        {**row(i, box, int(c)), "score": float(s), "id": 1 + i * 1000 + j, "iscrowd": 0}
        for i, image in enumerate(found)
        for j, (box, s, c) in enumerate(zip(*image, strict=True))
    ]
    categories = [{"id": c} for c in range(CLASSES)]
    images = [{"id": i} for i in range(IMAGES)]
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for annotations in (wanted, detected):
            loaded = COCO()
            loaded.dataset = {"images": images, "annotations": annotations, "categories": categories}
            loaded.createIndex()
            sets.append(loaded)
        judge = COCOeval(*sets, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


def rows_of(found: list[Any]) -> np.ndarray:
    most = max(len(scores) for _, scores, _ in found)
    rows = np.zeros((IMAGES, most, 6))
    for image, (box, scores, classes) in enumerate(found):
        rows[image, : len(box)] = np.concatenate([box, scores[:, None], classes[:, None]], 1)
    return rows


@pytest.mark.parametrize("crowds", [False, True])
def test_average_precision_is_that_of_coco(crowds: bool) -> None:
    for _ in range(4):
        targets, found = made(crowds)
        metrics = [average_precision(lambda outputs, inputs: outputs["y"], at) for at in (tuple(range(10)), (0,))]
        values = []
        for metric in metrics:
            rows = metric.function({"y": found}, targets, INPUTS)
            values.append(metric.scale.value(rows, IMAGES))
        assert values == pytest.approx(coco(targets, found), abs=1e-9)
        assert 0 < values[0] < values[1] < 1


def test_weights_are_repetitions() -> None:
    """An image that was drawn twice counts as two images."""
    targets, found = made(False)
    found = [(box, RNG.random(len(box)), classes) for box, _, classes in found]
    metric = average_precision(lambda outputs, inputs: outputs["y"])
    rows = metric.function({"y": found}, targets, INPUTS)
    drawn = RNG.integers(0, IMAGES, IMAGES)
    weights = np.bincount(drawn, minlength=IMAGES)[None]
    assert metric.scale.resampled(rows, weights)[0] == pytest.approx(metric.scale.value(rows[np.sort(drawn)], IMAGES))


def in_layout(layout: str, found: list[Any]) -> dict[str, np.ndarray]:
    rows = rows_of(found)
    box, score, label = rows[..., :4], rows[..., 4], rows[..., 5]
    size = np.concatenate([(box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]], 2)
    shares = np.zeros((*score.shape, CLASSES))
    np.put_along_axis(shares, label[..., None].astype(int), score[..., None], 2)
    return {
        "rows": {"y": rows.astype(np.float32)},
        "rows in shares": {"y": np.concatenate([box / SIDE, rows[..., 4:]], 2)},
        "rows of all images": {
            "y": np.array([[i, *b, c, s] for i, x in enumerate(found) for b, s, c in zip(*x, strict=True)])
        },
        "outputs of their own": {"labels": label.astype(np.int64), "scores": score, "boxes": box},
        "float classes": {"detection_scores": score, "detection_classes": label, "boxes": box},
        "counted": {
            "num": np.array([len(s) for _, s, _ in found])[:, None],
            "boxes": box,
            "scores": score,
            "labels": label.astype(np.int64),
        },
        "before suppression": {"y": np.concatenate([size, shares], 2).swapaxes(1, 2)},
        "with objectness": {"y": np.concatenate([size, np.ones_like(score)[..., None], shares], 2)},
    }[layout]


@pytest.mark.parametrize(
    "layout", ["rows", "rows in shares", "rows of all images", "outputs of their own", "float classes", "counted"]
)
def test_layouts_after_suppression(layout: str) -> None:
    _, found = made(False)
    read = read_detections(in_layout(layout, found), INPUTS)
    for (box, score, label), (boxes_found, scores_found, classes_found) in zip(found, read, strict=True):
        kept = scores_found > 0  # padding
        assert sorted(map(tuple, np.round(boxes_found[kept], 3))) == sorted(map(tuple, np.round(box[score > 0], 3)))
        assert sorted(zip(np.round(scores_found[kept], 5), classes_found[kept], strict=True)) == sorted(
            zip(score[score > 0], label[score > 0], strict=True)
        )


@pytest.mark.parametrize("layout", ["before suppression", "with objectness"])
def test_layouts_before_suppression_keep_what_does_not_overlap(layout: str) -> None:
    _, found = made(False)
    for (box, score, label), (kept, scores, classes) in zip(
        found, read_detections(in_layout(layout, found), INPUTS), strict=True
    ):
        expected: list[int] = []
        for j in sorted(range(len(score)), key=lambda j: -score[j]):
            rivals = [k for k in expected if label[k] == label[j]]
            if score[j] > 0.001 and not any(overlaps(box[k : k + 1], box[j : j + 1])[0, 0] > 0.7 for k in rivals):
                expected.append(j)
        assert kept == pytest.approx(box[expected], abs=1e-9)
        assert scores.tolist() == score[expected].tolist() and classes.tolist() == label[expected].tolist()


def test_queries_of_a_transformer() -> None:
    centre, logits = RNG.random((IMAGES, 7, 4)), RNG.standard_normal((IMAGES, 7, CLASSES + 1))
    read = read_detections({"logits": logits, "pred_boxes": centre}, INPUTS)
    shares = np.exp(logits[3]) / np.exp(logits[3]).sum(1, keepdims=True)
    assert read[3][0] == pytest.approx(corners(centre[3]) * SIDE)
    assert read[3][1] == pytest.approx(shares[:, :-1].max(1)) and (read[3][2] == shares[:, :-1].argmax(1)).all()


def test_the_metric_by_name_and_what_it_lacks() -> None:
    targets, found = made(False)
    outputs = {"y": rows_of(found)}
    metric = load_metric("map")
    rows = metric.function(outputs, targets, INPUTS)
    assert metric.scale.value(rows, IMAGES) == pytest.approx(coco(targets, found)[0], abs=1e-9)
    with pytest.raises(DataError, match="needs targets 'boxes'"):
        judged("map", outputs, targets["classes"])
    with pytest.raises(DataError, match="no input of the model is an image"):
        judged("map", outputs, targets)
    with pytest.raises(DataError, match="not a layout of detections that is known"):
        metric.function({"a": np.zeros((IMAGES, 3))}, targets, INPUTS)


def test_the_interval_of_map_is_that_of_a_brute_force_bootstrap() -> None:
    targets, found = made(False)
    found = [(box, RNG.random(len(box)), classes) for box, _, classes in found]
    worse = [(box + RNG.normal(0, 0.7, box.shape), score, classes) for box, score, classes in found]
    metric = average_precision(lambda outputs, inputs: outputs["y"])
    base, other = (
        Scores(metric.function({"y": y}, targets, INPUTS), IMAGES, scale=metric.scale) for y in (found, worse)
    )

    def value(scores: Scores) -> Callable[[np.ndarray], float]:
        return lambda drawn: metric.scale.value(scores.values[drawn], IMAGES)

    drops = bootstrap(value(base), value(other), IMAGES, 400, 1.0)
    interval, spread = base.drop_to(other), drops.std()
    assert interval.drop == pytest.approx(coco(targets, found)[0] - coco(targets, worse)[0], abs=1e-9)
    low, high = np.quantile(drops, (0.025, 0.975))
    assert interval.low == pytest.approx(low, abs=0.5 * spread)  # of 200 draws here, and 400 there
    assert interval.high == pytest.approx(high, abs=0.5 * spread)
