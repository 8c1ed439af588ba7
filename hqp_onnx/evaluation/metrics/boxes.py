"""Detections of every image, read from what detectors give.

    rows after suppression      one output [n, D, 6]: x1, y1, x2, y2, score, class; a score of 0 is padding;
                                or rows [D, 7] of all images: image, x1, y1, x2, y2, class, score
    outputs of their own        boxes [n, D, 4], scores [n, D], classes [n, D], in any order; for batches of one also
                                without the first axis; a further output [n] or [n, 1] counts the boxes that hold
    queries                     boxes [n, Q, 4] as centre and size, shares of the image, and logits [n, Q, C + 1]
    before suppression          one output [n, 4 + C, A]: centre, size and the probability of each class;
                                or [n, A, 5 + C], the fifth being that of any object

Boxes that nowhere exceed 2 are shares of the image, and are brought to pixels of the model's input. What comes before
suppression is suppressed here: of boxes of one class that overlap by more than 0.7, the most probable stays, of 300.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.errors import DataError

Detections = Sequence[tuple[Array, Array, Array]]
"""Of every image: boxes [d, 4] as x1, y1, x2, y2 in pixels of the model's input, scores [d], classes [d]."""
Reader = Callable[[Mapping[str, Array], Mapping[str, Array]], Detections]
"""(outputs, inputs) of a batch -> detections."""

LEAST_SCORE, LARGEST_OVERLAP, MOST = 0.001, 0.7, 300
_SHARE = 2.0  # what boxes in shares of the image do not exceed


def read_detections(outputs: Mapping[str, Array], inputs: Mapping[str, Array]) -> Detections:
    """By the layout of the outputs, see above.

    Raises:
        DataError: it is another.
    """
    arrays = {name: np.asarray(x) for name, x in outputs.items() if isinstance(x, np.ndarray) and x.ndim}
    height, width, count = _image(inputs)
    size = np.array([width, height, width, height], np.float64)
    found = _of_one(arrays, count) if len(arrays) == 1 else _of_several(arrays, count)
    if found is None:
        shapes = ", ".join(f"'{name}' {list(values.shape)}" for name, values in arrays.items())
        raise DataError(
            f"outputs {shapes} are not a layout of detections that is known: make a metric of a reader of your own, "
            "average_precision(reader), and give it as {--metric} FILE.py:name (see docs/metrics.md)"
        )
    largest = max((np.abs(boxes).max(initial=0) for boxes, _, _ in found), default=0)
    factor = size if largest <= _SHARE else np.ones(4)
    return [(boxes * factor, scores, classes) for boxes, scores, classes in found]


def _image(inputs: Mapping[str, Array]) -> tuple[int, int, int]:
    """Height and width of the model's input, and the number of images."""
    images = [x for x in inputs.values() if x.ndim == 4]
    if not images:
        raise DataError("map: no input of the model is an image [samples, channels, height, width]")
    shape = images[0].shape
    return (*(shape[1:3] if shape[3] in (1, 3) and shape[1] not in (1, 3) else shape[2:]), shape[0])


def _of_one(arrays: Mapping[str, Array], count: int) -> Detections | None:
    values = next(iter(arrays.values())).astype(np.float64)
    if values.ndim == 2 and values.shape[1] == 7:
        of_images = [values[values[:, 0] == image] for image in range(count)]
        return [(mine[:, 1:5], mine[:, 6], mine[:, 5].astype(int)) for mine in of_images]
    if values.ndim != 3 or len(values) != count:
        return None
    if values.shape[2] == 6 and (values[..., 5] % 1 == 0).all():
        kept = [rows[rows[:, 4] > 0] for rows in values]
        return [(rows[:, :4], rows[:, 4], rows[:, 5].astype(int)) for rows in kept]
    if 5 <= values.shape[1] < values.shape[2]:
        rows = values.swapaxes(1, 2)
        return [suppressed(corners(x[:, :4]), x[:, 4:]) for x in rows]
    if 6 <= values.shape[2] < values.shape[1]:
        return [suppressed(corners(x[:, :4]), x[:, 4:5] * x[:, 5:]) for x in values]
    return None


def _of_several(arrays: Mapping[str, Array], count: int) -> Detections | None:
    if count == 1:
        arrays = {name: x[None] if x.shape[0] != 1 or x.ndim == 1 else x for name, x in arrays.items()}
    boxes = next((x for x in arrays.values() if x.ndim == 3 and x.shape[2] == 4 and len(x) == count), None)
    if boxes is None:
        return None
    rows = boxes.shape[:2]
    numbers = {name: x for name, x in arrays.items() if x.shape == rows}
    if len(numbers) == 2:
        scores, classes = _scores_and_classes(numbers)
        held = [x for x in arrays.values() if x.size == count and x.shape != rows and x.dtype.kind in "iuf"]
        ends = held[0].reshape(-1).astype(int) if held else np.full(count, rows[1])
        return [
            (b[:end].astype(np.float64), s[:end].astype(np.float64), c[:end].astype(int))
            for b, s, c, end in zip(boxes, scores, classes, ends, strict=True)
        ]
    logits = [x for x in arrays.values() if x.ndim == 3 and x.shape[:2] == rows and x is not boxes and x.shape[2] > 1]
    return [_of_queries(b, x) for b, x in zip(boxes, logits[0], strict=True)] if len(logits) == 1 else None


def _scores_and_classes(numbers: Mapping[str, Array]) -> tuple[Array, Array]:
    """Classes are integers, or whole numbers by another name than scores."""
    (first, x), (_, y) = numbers.items()
    if (x.dtype.kind in "iu") != (y.dtype.kind in "iu"):
        return (y, x) if x.dtype.kind in "iu" else (x, y)
    classes_first = any(word in first.lower() for word in ("class", "label")) or bool(
        (x % 1 == 0).all() and x.max() > 1
    )
    return (y, x) if classes_first else (x, y)


def _of_queries(boxes: Array, logits: Array) -> tuple[Array, Array, Array]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares = (shifted / shifted.sum(1, keepdims=True))[:, :-1]
    return corners(boxes.astype(np.float64)), shares.max(1), shares.argmax(1)


def corners(boxes: FloatArray) -> FloatArray:
    """x1, y1, x2, y2 from centre and size."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def suppressed(boxes: FloatArray, shares: FloatArray) -> tuple[Array, Array, Array]:
    """The most probable class of each box; of boxes of one class that overlap, the most probable."""
    classes, scores = shares.argmax(1), shares.max(1)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > LEAST_SCORE]
    kept: list[int] = []
    while len(order) and len(kept) < MOST:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        overlap = overlaps(boxes[first : first + 1], boxes[rest])[0]
        order = rest[(overlap <= LARGEST_OVERLAP) | (classes[rest] != classes[first])]
    return boxes[kept], scores[kept], classes[kept]


def overlaps(a: FloatArray, b: FloatArray, crowd: Array | None = None) -> FloatArray:
    """Intersection over union [a, b]; over the area of a where b is a ``crowd``."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), 2)
    of_a, of_b = np.prod(a[:, 2:] - a[:, :2], 1)[:, None], np.prod(b[:, 2:] - b[:, :2], 1)[None]
    union = of_a + of_b - both if crowd is None else np.where(crowd[None], of_a, of_a + of_b - both)
    return np.asarray(np.where(union > 0, both / np.where(union > 0, union, 1), 0.0))
