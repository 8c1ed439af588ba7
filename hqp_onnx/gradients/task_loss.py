"""Losses of an output that is more than one row of logits, as its metric reads it (``evaluation.metrics.task``).

    classes     cross-entropy            L_i = mean over p of -log softmax(z_ip)[c_ip]
    decisions   binary-cross-entropy     L_i = mean over p of -log s_ip if t_ip, else -log(1 - s_ip);  s = sigmoid(z)
    values      squared-error            L_i = mean over p of (y_ip - t_ip)^2

over the positions p of sample i whose target is there: not negative and, in masks, not 255; of values, not NaN. A
Softmax or Sigmoid that the model ends in is left out, since z is what feeds it. The gradients, with weights
w_ip = 1 / number of positions that count:

    dL_i/dz_ip = (softmax(z_ip) - onehot(c_ip)) w_ip     (sigmoid(z_ip) - t_ip) w_ip     2 (y_ip - t_ip) w_ip

Targets enter the graph as float32 [samples, 2, positions]: t and w.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx

from hqp_onnx.arrays import Array, Float32Array
from hqp_onnx.errors import DataError, GradientError
from hqp_onnx.evaluation.metrics.outputs import IGNORED
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients.samples import moved_axis, place_of, samples_back, samples_first
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.graphs.nodes import attribute

NAMES: Mapping[str, Literal["cross-entropy", "binary-cross-entropy", "squared-error"]] = {
    "classes": "cross-entropy",
    "decisions": "binary-cross-entropy",
    "values": "squared-error",
}
"""Losses by kind of task."""


def encoded(target: Array, task: Task, classes: int) -> Float32Array:
    """Targets and weights of some samples, [samples, 2, positions].

    Raises:
        DataError: a label is no class.
    """
    t = target.reshape(len(target), -1).astype(np.float64)
    counted = ~np.isnan(t)
    if task.kind != "values":
        counted &= (t >= 0) & ~((t == IGNORED) & (classes <= IGNORED))
    if task.kind == "classes" and (wrong := t[counted & (t >= classes)]).size:
        raise DataError(f"label {wrong[0]:g} is not a class: expected 0 .. {classes - 1}")
    weights = counted / np.maximum(counted.sum(1, keepdims=True), 1)
    return np.stack([np.where(counted, t, 0), weights], 1).astype(np.float32)


def logits_of_task(t: Tape, task: Task) -> tuple[str, int | None]:
    """The tensor z of a task's output, or the output where it says values; and the axis of classes, if it has some."""
    if task.kind == "classes":
        axis = _class_axis(t, task)
        return _before(t, task.output, axis, ("Softmax", "LogSoftmax")), axis
    return _before(t, task.output, 0, ("Sigmoid",) if task.kind == "decisions" else ()), None


def task_seeds(t: Tape, task: Task, source: str) -> tuple[dict[str, str], int]:
    """dL/dz by tensor, and the number of classes, given the input ``source`` of encoded targets.

    Raises:
        GradientError: the output mixes its samples, or does not depend on them one by one.
    """
    z, axis = logits_of_task(t, task)
    place, rank = place_of(t, z), len(t.dims(z))
    if t.traced.rows.get(z) != 1 and place is None:
        raise GradientError(f"output '{task.output}' mixes its samples: per-sample gradients need one row a sample")
    wanted, weight = (t.op("Gather", source, t.const(np.array(part)), axis=1) for part in (0, 1))
    x, count = z if place is None else samples_first(t, z, t.dims(z), place), 0
    if axis is not None:
        count = t.dims(z)[axis] or 0
        if not count:
            raise GradientError(f"tensor '{z}' has no fixed number of classes along axis {axis}")
        if place is not None:
            axis, rank = moved_axis(axis, rank, place), rank + 2
        seed = _of_classes(t, x, z, [*(a for a in range(rank) if a != axis), axis], count, (wanted, weight))
    else:
        wanted, weight = (t.op("CastLike", t.op("Reshape", part, t.op("Shape", x)), z) for part in (wanted, weight))
        seed = t.mul(t.op("Sub", t.op("Sigmoid", x) if task.kind == "decisions" else x, wanted), weight)
        seed = seed if task.kind == "decisions" else t.mul(t.scalar(2, z), seed)
    return {z: seed if place is None else samples_back(t, seed, z)}, count


def _of_classes(t: Tape, x: str, z: str, order: list[int], count: int, targets: tuple[str, str]) -> str:
    """dL/dx of ``x``, which has the type of ``z``, and the classes along the last axis of ``order``."""
    wanted, weight = targets
    last = t.op("Transpose", x, perm=order)
    p = t.op("Softmax", t.reshape(last, -1, count), axis=1)
    labels = t.op("Cast", t.reshape(wanted, -1), to=onnx.TensorProto.INT64)
    onehot = t.onehot(labels, count, t.traced.types[z])
    seed = t.mul(t.op("Sub", p, onehot), t.op("CastLike", t.reshape(weight, -1, 1), z))
    back = [order.index(a) for a in range(len(order))]
    return t.op("Transpose", t.op("Reshape", seed, t.op("Shape", last)), perm=back)


def _class_axis(t: Tape, task: Task) -> int:
    """Where the task leaves it open, the axis that has more than one."""
    if task.axis is not None:
        return task.axis
    dims = t.dims(task.output)
    return next((axis for axis in range(1, len(dims)) if dims[axis] != 1), 1)


def _before(t: Tape, name: str, axis: int, ends: tuple[str, ...]) -> str:
    """What feeds the Softmax or Sigmoid that makes an output, if one does."""
    producers = {name: node for node in t.model.graph.node for name in node.output}
    node = producers.get(name)
    while node is not None and (node.op_type == "Identity" or (node.op_type in ends and _along(t, node, axis))):
        name = node.input[0]
        node = producers.get(name)
    return name


def _along(t: Tape, node: onnx.NodeProto, axis: int) -> bool:
    """Whether it is a Sigmoid, or a Softmax over the axis of classes."""
    given = attribute(node, "axis", -1)
    assert isinstance(given, int)
    return node.op_type == "Sigmoid" or given % len(t.dims(node.input[0])) == axis
