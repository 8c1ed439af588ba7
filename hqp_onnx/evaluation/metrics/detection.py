"""Mean average precision of detections, as COCO defines it (AP at IoU .50:.05:.95, all areas, 100 boxes a class).

Within an image, the boxes of a class are matched to objects in the order of their scores, each with the free object
that it overlaps most, at ten thresholds. Boxes matched to crowds do not count. Over all images, in the order of scores,

    precision_k = matched among the first k / k,  made monotonic;  AP = mean of it at recalls 0, 0.01, ..., 1

and the metric is the mean over thresholds and classes that have objects. A row is what was matched in one image, so
that images can be drawn anew for an interval without matching again.

Targets: ``boxes`` [n, most, 4] as x1, y1, x2, y2 in pixels of the model's input, ``classes`` [n, most], negative for
padding, and optionally ``crowd`` of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hqp_onnx.arrays import Array, BoolArray, FloatArray
from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics.boxes import Reader, overlaps, read_detections
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric
from hqp_onnx.evaluation.metrics.quantity import POINTS
from hqp_onnx.evaluation.metrics.scale import Resampled

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_BOXES = 100  # of a class in one image
_EDGE = 1e-10


@dataclass(frozen=True)
class Matched:
    """One class in one image: scores [d], descending; whether each box is right, and counts, [thresholds, d]."""

    scores: FloatArray
    right: BoolArray
    counts: BoolArray
    objects: int


Row = Mapping[int, Matched]


def match(
    detected: tuple[FloatArray, FloatArray], objects: FloatArray, crowd: BoolArray, thresholds: FloatArray = THRESHOLDS
) -> Matched:
    """Match the boxes of one class in one image.

    Args:
        detected: boxes [d, 4] and scores [d].
        objects: boxes [g, 4].
        crowd: which of these are crowds, [g].
        thresholds: of the overlap.
    """
    boxes, scores = detected
    order = np.argsort(-scores, kind="mergesort")[:_BOXES]
    boxes, scores = boxes[order], scores[order]
    first = np.argsort(crowd, kind="mergesort")  # crowds last
    objects, crowd = objects[first], crowd[first]
    overlap = overlaps(boxes, objects, crowd)
    right, counts = np.zeros((2, len(thresholds), len(boxes)), bool)
    counts[:] = True
    for level, threshold in enumerate(thresholds):
        taken = np.zeros(len(objects), bool)
        for number in range(len(boxes)):
            chosen = _best(overlap[number], crowd, taken, min(threshold, 1 - _EDGE))
            if chosen is None:
                continue
            taken[chosen] = True
            right[level, number], counts[level, number] = not crowd[chosen], not crowd[chosen]
    return Matched(scores, right, counts, int((~crowd).sum()))


def _best(overlap: FloatArray, crowd: BoolArray, taken: BoolArray, threshold: float) -> int | None:
    """The free object of largest overlap, the last of equals; a crowd, which is never taken, only if there is none."""
    for kind in (~crowd & ~taken, crowd):
        places = np.flatnonzero(kind & (overlap >= threshold))
        if len(places):
            return int(places[::-1][np.argmax(overlap[places[::-1]])])
    return None


@dataclass(frozen=True)
class AveragePrecision(Resampled):
    """From rows of matches, object [samples]; ``thresholds`` are places in ``THRESHOLDS``."""

    thresholds: tuple[int, ...] = tuple(range(10))
    unit: str = POINTS
    higher: bool = True
    draws: ClassVar[int] = 200

    def total(self, rows: Any) -> Any:
        """Nothing: it is no sum."""
        return 0.0

    def value(self, rows: Array, samples: int) -> float:
        """Of the images seen."""
        return float(self.resampled(rows, np.ones((1, len(rows)), np.int64))[0])

    def resampled(self, rows: Array, weights: Array) -> FloatArray:
        """AP of each draw."""
        known = [row if isinstance(row, Mapping) else {} for row in rows]
        per_class = [self._of_class(known, weights, c) for c in sorted({c for row in known for c in row})]
        of_classes = np.array(per_class).reshape(len(per_class), len(weights))
        there = ~np.isnan(of_classes)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(there, of_classes, 0).sum(0) / there.sum(0))

    def _of_class(self, rows: list[Row], weights: Array, number: int) -> FloatArray:
        """AP of one class in each draw; NaN where none of its objects was drawn."""
        mine = [(image, row[number]) for image, row in enumerate(rows) if number in row]
        chosen, levels = weights[:, [image for image, _ in mine]], list(self.thresholds)
        objects = chosen @ np.array([m.objects for _, m in mine])
        scores = np.concatenate([m.scores for _, m in mine])
        order = np.argsort(-scores, kind="mergesort")
        right = np.concatenate([m.right[levels] for _, m in mine], 1)[:, order]
        counts = np.concatenate([m.counts[levels] for _, m in mine], 1)[:, order]
        place = np.repeat(np.arange(len(mine)), [len(m.scores) for _, m in mine])[order]
        values = [_average_precision(w[place], right, counts, n) for w, n in zip(chosen, objects, strict=True)]
        return np.array(values)


def _average_precision(weights: Array, right: BoolArray, counts: BoolArray, objects: int) -> float:
    if not objects:
        return np.nan
    drawn = weights > 0
    weights, right, counts = weights[drawn], right[:, drawn], counts[:, drawn]
    hits, all_of_them = np.cumsum(weights * right, 1), np.cumsum(weights * counts, 1)
    precision = hits / np.maximum(all_of_them, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = hits / objects
    found = []
    for r, p in zip(recall, precision, strict=True):
        places = np.searchsorted(r, _RECALLS, side="left")
        found.append(np.append(p, 0.0)[np.minimum(places, len(p))].mean())
    return float(np.mean(found))


@dataclass(frozen=True)
class Matches:
    """Rows of a batch, by a reader of detections."""

    read: Reader = read_detections

    def __call__(
        self, outputs: Mapping[str, Array], targets: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> Array:
        """Rows, object [samples]."""
        if not {"boxes", "classes"} <= targets.keys():
            names = ", ".join(f"'{name}'" for name in targets) or "none"
            raise DataError(f"map needs targets 'boxes' [n, most, 4] and 'classes' [n, most], found {names}")
        detected = self.read(outputs, inputs)
        rows = np.empty(len(targets["boxes"]), object)
        if len(detected) != len(rows):
            raise DataError(f"map: detections of {len(detected)} images were read, of {len(rows)}")
        for image, (boxes, scores, classes) in enumerate(detected):
            wanted = targets["classes"][image]
            there = wanted >= 0
            crowd = targets["crowd"][image][there].astype(bool) if "crowd" in targets else np.zeros(there.sum(), bool)
            objects, wanted = targets["boxes"][image][there].astype(np.float64), wanted[there]
            rows[image] = {
                int(c): match(
                    (np.asarray(boxes, np.float64)[classes == c], np.asarray(scores, np.float64)[classes == c]),
                    objects[wanted == c],
                    crowd[wanted == c],
                )
                for c in np.unique(np.concatenate([classes, wanted]))
            }
        return rows


def average_precision(
    read: Reader = read_detections, at: tuple[int, ...] = tuple(range(10)), name: str = "map"
) -> Metric:
    """The metric, of detections that ``read`` takes from a model's outputs; ``at`` are places in ``THRESHOLDS``."""
    return Metric(name, Matches(read), "targets", AveragePrecision(at), whole=True)


METRICS.register("map")(average_precision())
METRICS.register("map50")(average_precision(at=(0,), name="map50"))
