"""What metrics read: the judged output, the target that belongs to it, logits, class numbers and decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import Array, BoolArray, IntArray
from hqp_onnx.errors import DataError, ModelError

Named = Mapping[str, Array]
IGNORED = 255  # in masks; numbers below 0 are ignored everywhere
_CLASSES = 1024  # of models that give class numbers, whose count is not known


def judged(outputs: Named) -> tuple[str, Array]:
    """Name and values of the first output.

    Raises:
        ModelError: it is no tensor.
    """
    name, values = next(iter(outputs.items()))
    if not isinstance(values, np.ndarray):
        raise ModelError(
            f"output '{name}' is no tensor: choose another by {{--metric_output}}, or give a metric of your own, "
            "FILE.py:function"
        )
    return name, values


def require_rows(outputs: Named, samples: int) -> None:
    """Raise ``ModelError`` where no output is a tensor with a row for each of ``samples``."""
    if any(isinstance(y, np.ndarray) and y.ndim and len(y) == samples for y in outputs.values()):
        return
    name, values = next(iter(outputs.items()))
    shape = f"has shape {list(values.shape)}" if isinstance(values, np.ndarray) else "is no tensor"
    raise ModelError(
        f"output '{name}' {shape}: expected a tensor with a row for each sample, of {samples}. Export the model with "
        "such outputs, or give a metric of your own, FILE.py:function"
    )


def target_of(targets: Named, output: str) -> tuple[str, Array]:
    """The target that an output is held to: of its name, ``labels``, or the only one.

    Raises:
        DataError: there is none, or several of other names.
    """
    for name in (output, "labels", *(targets if len(targets) == 1 else ())):
        if name in targets:
            return name, targets[name]
    if not targets:
        raise DataError("the data have no targets: add an array 'labels', or use {--metric} fidelity, which needs none")
    names = ", ".join(f"'{name}'" for name in targets)
    raise DataError(f"the data have targets {names}: name the one for output '{output}' as the output, or 'labels'")


def logits_of(outputs: Named) -> Array:
    """Logits or probabilities [samples, classes] of the first output.

    Raises:
        ModelError: it is something else.
    """
    name, values = next(iter(outputs.items()))
    needs = "top1, top5 and agreement need"
    if not isinstance(values, np.ndarray):
        raise ModelError(
            f"output '{name}' is no tensor, {needs} one of [samples, classes]: give a metric of your own, "
            "FILE.py:function, or choose another by {--metric_output}"
        )
    flat = values.reshape(len(values), -1) if values.ndim > 2 and values[0].size == max(values.shape[1:]) else values
    if flat.ndim != 2 or flat.shape[1] < 2:
        raise ModelError(
            f"output '{name}' has shape {list(values.shape)}, {needs} [samples, classes], two or more: use "
            f"{{--metric}} {fitting(values)}, or give a metric of your own, FILE.py:function"
        )
    return np.asarray(flat)


def fitting(values: Array) -> str:
    """Metrics that an output that is no row of logits may be judged by, in words."""
    if values.dtype.kind in "iub":
        return "exact-match, f1, token-accuracy or miou, which take class numbers"
    if values.ndim <= 2:
        return "rmse, mae or f1 where there are targets, else fidelity"
    return "miou, token-accuracy, rmse or map where there are targets, else fidelity"


@dataclass(frozen=True)
class Decisions:
    """Class numbers, int64 [samples, positions], and which positions count; ``classes`` is their number."""

    found: IntArray
    wanted: IntArray
    counted: BoolArray
    classes: int


def decisions(outputs: Named, targets: Named) -> Decisions:
    """The most probable class at every position beside the right one.

    The output holds class numbers, or has one axis more than the target, of classes.

    Raises:
        DataError: output and target do not fit together, or a label is no class.
    """
    (name, values), (kind, target) = judged(outputs), target_of(targets, next(iter(outputs)))
    where = f"output '{name}' {list(values.shape)} and target '{kind}' {list(target.shape)}"
    if target.dtype.kind not in "iub":
        raise DataError(f"target '{kind}' is {target.dtype}: expected class numbers. Of values, use {{--metric}} rmse")
    found, classes = class_numbers(values, target.shape, where)
    wanted = target.reshape(len(target), -1).astype(np.int64)
    mask = values.dtype.kind in "iub" and target.ndim > 2  # which holds numbers of an unknown count of classes
    counted = (wanted >= 0) & ~((wanted == IGNORED) & (classes <= IGNORED or mask))
    if (wrong := wanted[counted & (wanted >= classes)]).size:
        raise DataError(f"target '{kind}' holds {wrong[0]}, which is no class: expected 0 .. {classes - 1}")
    return Decisions(found, wanted, counted, classes)


def class_numbers(values: Array, shape: tuple[int, ...], where: str) -> tuple[IntArray, int]:
    """Class numbers [samples, positions] of an output for a target of ``shape``, and the number of classes."""
    if values.dtype.kind in "iub":
        if values.size != np.prod(shape):
            raise DataError(f"{where} have other positions: resize the targets to the output")
        found = values.reshape(len(values), -1).astype(np.int64)
        if found.size and not 0 <= found.min() <= found.max() < _CLASSES:
            raise DataError(f"{where}: class numbers {found.min()} .. {found.max()}, expected 0 .. {_CLASSES - 1}")
        return found, _CLASSES
    if values.size == np.prod(shape):
        return over_half(values).reshape(len(values), -1).astype(np.int64), 2
    axis = class_axis(values.shape, shape)
    if axis is None:
        raise DataError(
            f"{where} do not fit together: expected one axis more, of classes; resize the targets to the output"
        )
    return values.argmax(axis).reshape(len(values), -1), values.shape[axis]


def class_axis(values: tuple[int, ...], target: tuple[int, ...]) -> int | None:
    """The axis of an output that its target has not; of two that fit, the last in [N, L, C], else the first."""
    if len(target) == 1 and len(values) > 2 and max(values[1:]) == np.prod(values[1:]):
        return 1 + int(np.argmax(values[1:]))
    fitting = [a for a in range(1, len(values)) if values[:a] + values[a + 1 :] == target]
    if not fitting:
        return None
    return fitting[-1] if len(values) == 3 else fitting[0]


def over_half(values: Array) -> BoolArray:
    """Whether the probability of a yes is above one half; of logits, whether they are above 0."""
    return np.asarray(values > (0.5 if probable(values) else 0.0))


def probable(values: Array) -> bool:
    """Whether all values may be probabilities."""
    return not values.size or bool(values.min() >= 0 and values.max() <= 1)
