"""Joining and cutting: the operator is applied to the labels; sizes are restated from the labels that remain."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import along, varied
from hqp_onnx.channels.rules.lines import computed, constant_input, keep_open
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk


def operand(walk: Walk, tensor: gs.Tensor, axis: int) -> IntArray:
    """Labels at full size along ``axis``; a constant is labelled along that axis."""
    size = walk.sizes(tensor)
    labels = (
        along(walk.param(tensor, axis), axis, len(size)) if isinstance(tensor, gs.Constant) else walk.labels(tensor)
    )
    return np.broadcast_to(labels, [n if i == axis else labels.shape[i] for i, n in enumerate(size)])


@rule("Concat")
def _concat(walk: Walk, node: gs.Node) -> None:
    result = node.outputs[0]
    axis = node.attrs["axis"] % len(walk.sizes(result))
    axes = {i for tensor in node.inputs if not isinstance(tensor, gs.Constant) for i in varied(walk.labels(tensor))}
    if axes and axis not in axes:
        return _side_by_side(walk, node, axes)
    parts = [operand(walk, tensor, axis) for tensor in node.inputs]
    if all((part < 0).all() for part in parts):
        return None
    spread = np.max([part.shape for part in parts], axis=0)
    wide = [np.broadcast_to(part, [part.shape[i] if i == axis else n for i, n in enumerate(spread)]) for part in parts]
    residues = {0.0 if isinstance(tensor, gs.Constant) else walk.residue(tensor) for tensor in node.inputs}
    walk.set(result, np.concatenate(wide, axis), residues.pop() if len(residues) == 1 else None)
    return None


def _side_by_side(walk: Walk, node: gs.Node, axes: set[int]) -> None:
    """Tensors joined along an axis without labels are tied; a constant is labelled if one axis is."""
    result, axis = node.outputs[0], min(axes)
    rank = len(walk.sizes(result))
    labels, parts, residues = np.full((1,) * rank, -1), [], set()
    for tensor in node.inputs:
        if not isinstance(tensor, gs.Constant):
            parts.append(walk.labels(tensor))
            residues.add(walk.residue(tensor))
        else:
            parts.append(along(walk.param(tensor, axis), axis, rank) if len(axes) == 1 else np.array(-1))
        labels = np.where(labels >= 0, labels, parts[-1])
    for part in parts:
        walk.tie(part, labels, f"Concat '{node.name}' joins channels that stay")
    walk.set(result, labels, residues.pop() if len(residues) == 1 else None)


@rule("Split")
def _split(walk: Walk, node: gs.Node) -> None:
    axis = node.attrs.get("axis", 0) % len(walk.sizes(node.inputs[0]))
    keep_open(walk, node)
    if computed(walk, node):
        return
    labels = operand(walk, node.inputs[0], axis)
    ends = np.cumsum([walk.sizes(t)[axis] for t in node.outputs])
    for tensor, part in zip(node.outputs, np.split(labels, ends[:-1], axis), strict=True):
        walk.set(tensor, part, walk.residue(node.inputs[0]))


@rewrite("Split")
def _split_sizes(survivors: Survivors, node: gs.Node) -> None:
    axis = node.attrs.get("axis", 0)
    whole = survivors.mask(node.inputs[0], axis)
    if whole is None or whole.all():
        return
    stated = constant_input(node, 1)
    chunk = -(-len(whole) // len(node.outputs))
    ends = np.minimum(np.arange(1, len(node.outputs) + 1) * chunk, len(whole)) if stated is None else np.cumsum(stated)
    sizes = [part.sum() for part in np.split(whole, ends[:-1])]
    node.attrs.pop("num_outputs", None)
    node.inputs = [node.inputs[0], survivors.constant(f"{node.name}_split_pruned", np.asarray(sizes, np.int64))]


@rule("Slice")
def _slice(walk: Walk, node: gs.Node) -> None:
    keep_open(walk, node)
    if computed(walk, node):
        return
    labels = walk.labels(node.inputs[0])
    size = walk.sizes(node.inputs[0])
    for axis, start, stop, step in _ranges(node, size):
        if labels.shape[axis] > 1:
            if step != 1:
                walk.freeze(labels, f"Slice '{node.name}' takes channels with a step")
            labels = labels.take(range(size[axis])[start:stop:step], axis)
    walk.set(node.outputs[0], labels, walk.residue(node.inputs[0]))


def _ranges(node: gs.Node, size: tuple[int, ...]) -> list[tuple[int, int, int | None, int]]:
    """Axis, start, stop and step, as Python slices: a stop before the first element, going down, is None."""
    starts, stops = node.inputs[1].values, node.inputs[2].values
    axes, steps = constant_input(node, 3), constant_input(node, 4)
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    return [
        (int(axis) % len(size), int(start), None if step < 0 and stop < -size[axis] else int(stop), int(step))
        for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True)
    ]


@rewrite("Slice")
def _slice_bounds(survivors: Survivors, node: gs.Node) -> None:
    if not all(isinstance(t, gs.Constant) for t in node.inputs[1:] if t.name):
        return
    starts, stops = node.inputs[1].values.copy(), node.inputs[2].values.copy()
    axes = constant_input(node, 3)
    for row, axis in enumerate(range(len(starts)) if axes is None else axes):
        kept = survivors.mask(node.inputs[0], int(axis))
        if kept is not None and not kept.all():
            before = slice(int(starts[row]), int(stops[row])).indices(len(kept))
            starts[row], stops[row] = kept[: before[0]].sum(), kept[: before[1]].sum()
    survivors.replace_input(node, 1, starts)
    survivors.replace_input(node, 2, stops)


@rule("Pad")
def _pad(walk: Walk, node: gs.Node) -> None:
    """Padded channels are new channels; along any other axis padding belongs to the channel that it pads."""
    data, result = node.inputs[0], node.outputs[0]
    keep_open(walk, node)
    if computed(walk, node):
        return
    labels = walk.labels(data)
    begins, ends = _pads(node, labels.ndim)
    for axis in np.flatnonzero(np.asarray(labels.shape) > 1):
        if not begins[axis] and not ends[axis]:
            continue
        line = [-1 if i == axis else 1 for i in range(labels.ndim)]
        if node.attrs.get("mode", "constant") != "constant" or min(begins[axis], ends[axis]) < 0:
            walk.freeze(labels, f"Pad '{node.name}' pads channels other than with a constant")
        added = [np.full(n, -1) if n < 2 else walk.fresh(int(n)) for n in (max(begins[axis], 0), max(ends[axis], 0))]
        wide = [np.broadcast_to(x.reshape(line), _resized(labels, axis, len(x))) for x in added]
        labels = np.concatenate([wide[0], labels, wide[1]], axis)
        if labels.shape[axis] != walk.sizes(result)[axis]:
            walk.freeze(labels, f"Pad '{node.name}' crops channels")
            return
    walk.set(result, labels, 0.0 if walk.zero(data) and _pads_zeros(node) else None)


def _pads_zeros(node: gs.Node) -> bool:
    """Removed channels are zero after padding too: with copies of theirs, or with zeros."""
    if node.attrs.get("mode", "constant") != "constant" or len(node.inputs) < 3 or not node.inputs[2].name:
        return True
    return isinstance(node.inputs[2], gs.Constant) and not np.any(node.inputs[2].values)


def _resized(labels: IntArray, axis: np.intp, size: int) -> list[int]:
    return [size if i == axis else n for i, n in enumerate(labels.shape)]


def _pads(node: gs.Node, rank: int) -> tuple[IntArray, IntArray]:
    """Begin and end pads for every axis."""
    values = np.asarray(node.inputs[1].values)
    axes = constant_input(node, 3)
    axes = np.arange(rank) if axes is None else axes % rank
    begins, ends = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    begins[axes], ends[axes] = values[: len(axes)], values[len(axes) :]
    return begins, ends


@rewrite("Pad")
def _pad_counts(survivors: Survivors, node: gs.Node) -> None:
    values = constant_input(node, 1) if isinstance(node.inputs[1], gs.Constant) else None
    if values is None:
        return
    axes = constant_input(node, 3)
    count = len(values) // 2
    values = values.copy()
    for row, axis in enumerate(range(count) if axes is None else axes):
        kept = survivors.mask(node.outputs[0], int(axis))
        if kept is not None and (values[row] or values[count + row]):
            begin, end = values[row], values[count + row]
            values[row], values[count + row] = kept[:begin].sum(), kept[len(kept) - end :].sum()
    survivors.replace_input(node, 1, values)
