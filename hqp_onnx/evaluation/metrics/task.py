"""What an output says, as its metric reads it: classes at each position, decisions of their own, or values.

It decides how far two models are apart (``allocation.divergence``) and which loss is differentiated
(``gradients.loss``):

    classes     one of several at each position; ``axis`` of the output holds them
    decisions   yes or no, each for itself
    values      numbers that are compared by their differences
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import class_numbers
from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics.metric import Metric
from hqp_onnx.evaluation.metrics.outputs import class_axis, target_of

_OF_CLASSES = ("miou", "f1", "precision", "recall", "token-accuracy", "exact-match")
_OF_VALUES = ("rmse", "mae", "r2", "cosine")


@dataclass(frozen=True)
class Task:
    """What an output says.

    Attributes:
        kind: see above; ``any`` where that is not known.
        output: which one; "" for the first, of values for all.
        axis: of classes; None for rows [samples, classes], whatever axes of size 1 they have.
        target: what it is held to; "" if that is the original.
    """

    kind: Literal["classes", "decisions", "values", "any"]
    output: str = ""
    axis: int | None = None
    target: str = ""


ANY, ROWS = Task("any"), Task("classes")


def task_of(metric: Metric, outputs: Mapping[str, Array], targets: Mapping[str, Array]) -> Task:
    """By the metric, and the outputs and targets of a batch."""
    if metric.labels in ("data", "original"):
        return Task("classes", metric.output)
    if metric.labels != "targets" or metric.name not in (*_OF_CLASSES, *_OF_VALUES):
        return Task("any", metric.output)
    found = task_of_targets(metric.ordered(outputs), targets)
    fits = found.kind == "values" if metric.name in _OF_VALUES else found.kind != "values"
    if metric.name in _OF_VALUES and found.kind == "decisions":  # values that happen to be 0 and 1
        return Task("values", found.output, None, found.target)
    return found if fits else Task("any", metric.output)


def task_of_targets(outputs: Mapping[str, Array], targets: Mapping[str, Array]) -> Task:
    """By the first output and the target that belongs to it."""
    name, values = next(iter(outputs.items()))
    try:
        kind, target = target_of(targets, name)
    except DataError:
        return ANY
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or target.dtype.kind not in "iubf":
        return ANY
    if values.size == target.size:
        known = target[target == target]
        decided = bool(known.size) and bool(np.isin(known, (0, 1, -1, 255)).all())
        return Task("decisions" if decided else "values", name, None, kind)
    if target.dtype.kind == "f":
        return ANY
    if values.ndim == 2 and class_numbers(targets) is not None and kind == "labels":
        return Task("classes", name, None, kind)
    axis = class_axis(values.shape, target.shape)
    return ANY if axis is None else Task("classes", name, axis, kind)
