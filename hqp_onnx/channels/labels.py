"""Arrays of labels: along which axes they vary, and how they lie along those of a tensor."""

from __future__ import annotations

from hqp_onnx.arrays import IntArray


def varied(labels: IntArray) -> list[int]:
    """Axes along which labels vary."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def compress(labels: IntArray) -> IntArray:
    """``labels`` with size 1 on every axis along which they do not vary."""
    for axis, size in enumerate(labels.shape):
        if size > 1 and (labels == labels.take([0], axis)).all():
            labels = labels.take([0], axis)
    return labels


def along(labels: IntArray, axis: int, rank: int) -> IntArray:
    """A line of labels laid along one axis of a tensor of ``rank``."""
    return labels.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def aligned(labels: IntArray, rank: int) -> IntArray:
    """``labels`` with leading axes of size 1, as broadcasting aligns them."""
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)
