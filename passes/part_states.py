"""The last state of a recurrent node that is handed on, and read by what computes with it, is two tensors.

    Y_h -> Squeeze -> h1 (output), MatMul    becomes    Y_h -> Identity -> Squeeze -> h1,   Y_h -> Squeeze -> MatMul

What is handed on, as the state of the next run, keeps its size; what computes reads the hidden units that remain
(``channels.rules.recurrent``). Nothing changes where no state is fed, or none is an output.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.recurrent import CARRIED, MOVING, given, is_handed_on
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["part_states"]


def part_states(graph: gs.Graph) -> PassResult:
    """A copy of ``graph`` in this form."""
    changed, modified = graph.copy(), False
    inputs, outputs = ({t.name for t in ends} for ends in (changed.inputs, changed.outputs))
    names = UniqueNames(graph)
    for node in list(changed.nodes):
        state = given(node, CARRIED[node.op]) if operator(node) in CARRIED else None
        if state is None or not _is_fed(state, inputs):
            continue
        for index, whole in list(enumerate(node.outputs))[1:]:
            if whole.name and _is_shared(whole, outputs):
                node.outputs[index] = read = gs.Variable(names.tensor(f"{whole.name}/read"), whole.dtype, whole.shape)
                changed.nodes.append(gs.Node("Identity", names.node(f"{whole.name}/whole"), {}, [read], [whole]))
                _move(changed, whole, read, outputs, names)
                modified = True
    return PassResult(changed.toposort() if modified else graph, modified)


def _is_fed(tensor: gs.Tensor, inputs: set[str]) -> bool:
    """Whether a tensor is an input of the graph, as it is or moved."""
    if tensor.name in inputs:
        return True
    return any(maker.op in MOVING and any(_is_fed(t, inputs) for t in maker.inputs) for maker in tensor.inputs)


def _is_shared(tensor: gs.Tensor, outputs: set[str]) -> bool:
    """Whether what leads to outputs is also what is computed with; not where an Identity begins what leads there."""
    if is_handed_on(tensor):
        return False
    others = [reader for reader in tensor.outputs if reader.op != "Identity" or not is_handed_on(reader.outputs[0])]
    found = (_leaves(t, outputs) for reader in others if reader.op in MOVING for t in reader.outputs)
    return tensor.name in outputs or any(found)


def _leaves(tensor: gs.Tensor, outputs: set[str]) -> bool:
    """Whether a tensor is an output, as it is or moved."""
    if tensor.name in outputs:
        return True
    return any(reader.op in MOVING and any(_leaves(t, outputs) for t in reader.outputs) for reader in tensor.outputs)


def _move(graph: gs.Graph, whole: gs.Tensor, read: gs.Tensor, outputs: set[str], names: UniqueNames) -> None:
    """Let what computes read ``read`` in place of ``whole``; what moves it for both is done twice."""
    for node in list(whole.outputs):
        if node.op in MOVING and all(map(is_handed_on, node.outputs)):
            continue
        inputs = [read if t is whole else t for t in node.inputs]
        if node.op not in MOVING or not any(_leaves(t, outputs) for t in node.outputs):
            node.inputs = inputs
            continue
        moved = [gs.Variable(names.tensor(f"{t.name}/read"), t.dtype, t.shape) for t in node.outputs]
        graph.nodes.append(gs.Node(node.op, names.node(f"{node.name}/read"), dict(node.attrs), inputs, moved))
        for old, new in zip(list(node.outputs), moved, strict=True):
            _move(graph, old, new, outputs, names)
