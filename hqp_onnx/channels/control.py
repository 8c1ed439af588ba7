"""If, Loop and Scan: labels flow into the graphs inside a node, through their nodes, and out again.

    If      a result is that of either branch, so what they give for it has one set of channels
    Loop    what the body makes of a state is the state of the next pass: channels go round
    Scan    the same; of what is taken apart or stacked, channels lie along the axes that stay

A state that starts as a constant is a parameter. A channel that counts as zero must count as zero again after each
pass, so the value that it holds is looked for until it stays the same (``_settle``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import along, varied
from hqp_onnx.channels.walk_state import Walk
from hqp_onnx.graphs.bodies import bodies
from hqp_onnx.graphs.body_shapes import scan_axes, sliced
from hqp_onnx.graphs.nodes import numbers

Visit = Callable[[gs.Graph], None]


def enter(walk: Walk, node: gs.Node, visit: Visit) -> None:
    """Label what is inside an If, Loop or Scan, and what it gives; ``visit`` walks one graph."""
    where = f"{node.op} '{node.name}'"
    made = [tensor for body in bodies(node) for tensor in body.outputs]
    needed = made if node.op == "If" else [*(t for t in node.inputs if t.name), *made]
    unknown = [tensor.name for tensor in needed if walk.shape(tensor) is None]
    if len(unknown) >= (len(made) if node.op == "If" else 1):
        return walk.refuse(node, f"unknown shape of '{unknown[0]}' in {where}")
    first = 0 if node.op == "Scan" else 2 if node.op == "Loop" else len(node.inputs)
    for tensor in node.inputs[:first]:
        walk.freeze(walk.labels(tensor), f"{where} decides by it")
    return _branches(walk, node, visit, where) if node.op == "If" else _passes(walk, node, visit, where, first)


def _branches(walk: Walk, node: gs.Node, visit: Visit, where: str) -> None:
    for branch in bodies(node):
        if all(walk.shape(tensor) is not None for tensor in branch.outputs):
            visit(branch)
        else:
            walk.refuse_graph(branch, f"a branch of {where} does not run on what the other takes")
    for result, *made in zip(node.outputs, *[branch.outputs for branch in bodies(node)], strict=True):
        _join(walk, result, made, f"the branches of {where} give it")


def _join(walk: Walk, result: gs.Tensor, made: Sequence[gs.Tensor], reason: str) -> None:
    """Label a result of an If by what its branches make."""
    labels = [walk.labels(tensor) for tensor in made]
    axes = {axis for own in labels for axis in varied(own)}
    shapes = {_sizes_along(walk.shape(tensor), axes) for tensor in (result, *made)}
    if len(shapes) > 1:
        for own in labels:
            walk.freeze(own, f"{reason} in several shapes")
        return
    walk.tie(labels[0], labels[1], f"{reason}, and one has no such channels")
    residues = {walk.residue(tensor) for tensor in made}
    joined = np.maximum(*np.broadcast_arrays(*labels))
    walk.set(result, joined, residues.pop() if len(residues) == 1 else None)


def _sizes_along(shape: tuple[int, ...] | None, axes: Collection[int]) -> tuple[int, ...] | None:
    """The number of axes, and the sizes of some of them."""
    if shape is None or max(axes, default=-1) >= len(shape):
        return None
    return (len(shape), *(shape[axis] for axis in sorted(axes)))


def _passes(walk: Walk, node: gs.Node, visit: Visit, where: str, first: int) -> None:
    body, last = bodies(node)[0], len(node.inputs) - sliced(node)
    leaving = body.outputs[1 if node.op == "Loop" else 0 :]
    initial, states = node.inputs[first:last], body.inputs[first:last]
    for whole, slices, axis in zip(node.inputs[last:], body.inputs[last:], _scanned(node), strict=True):
        _take_apart(walk, whole, slices, axis, where)
    lines = [_initial_labels(walk, tensor) for tensor in initial]
    residues = [0.0 if isinstance(t, gs.Constant) else walk.residue(t) for t in initial]
    _settle(walk, states, lines, residues, lambda: visit(body), leaving)
    for state, made in zip(states, leaving, strict=False):
        reason = f"it is a state of {where}, which starts or ends with channels that stay"
        if walk.shape(state) == walk.shape(made):
            walk.tie(walk.labels(state), walk.labels(made), reason)
        else:
            walk.freeze(walk.labels(state), f"it is a state of {where}, which changes its size")
            walk.freeze(walk.labels(made), f"it is a state of {where}, which changes its size")
    axes = numbers(node, "scan_output_axes", [0] * len(leaving))
    for number, (result, made) in enumerate(zip(node.outputs, leaving, strict=True)):
        if not result.name or walk.shape(result) is None:
            walk.freeze(walk.labels(made), f"unknown shape of '{result.name}' at {where}")
        elif number < len(states):
            walk.set(result, walk.labels(states[number]), residues[number])
        else:
            axis = axes[number - len(states)]
            walk.set(result, np.expand_dims(walk.labels(made), axis), walk.residue(made))
    for tensor in initial:  # claimed once more: the nodes inside claim what they read
        _initial_labels(walk, tensor)


def _scanned(node: gs.Node) -> list[int]:
    return scan_axes(node) if node.op == "Scan" else []


def _take_apart(walk: Walk, whole: gs.Tensor, slices: gs.Tensor, axis: int, where: str) -> None:
    labels = walk.labels(whole)
    if labels.shape[axis] > 1:
        walk.freeze(labels, f"{where} takes it apart along its channels")
    else:
        walk.set(slices, labels.squeeze(axis), walk.residue(whole))


def _initial_labels(walk: Walk, tensor: gs.Tensor) -> IntArray:
    """Labels of a state before the first pass; those of a constant lie where channels do."""
    if not isinstance(tensor, gs.Constant) or not tensor.shape:
        return walk.labels(tensor)
    rank = len(tensor.shape)
    axis = 1 if rank in (2, 4, 5) else rank - 1
    return along(walk.param(tensor, axis), axis, rank)


def _settle(
    walk: Walk,
    states: Sequence[gs.Tensor],
    lines: Sequence[IntArray],
    residues: list[float | None],
    visit: Callable[[], None],
    leaving: Sequence[gs.Tensor],
) -> None:
    """Visit a body until no state holds another value after a pass than before it; ``residues``, in place."""
    while True:
        for state, labels, residue in zip(states, lines, residues, strict=True):
            walk.set(state, labels, residue)
        visit()
        after = [walk.residue(tensor) for tensor in leaving[: len(states)]]
        settled = [a if a == b else None for a, b in zip(residues, after, strict=True)]
        if settled == residues:
            return
        residues[:] = settled
