"""A bias that is added to heads, behind the Reshape that splits them, is added to the product itself.

    x W [.., 32] -> Reshape [.., 4, 8] -> + b [4, 8]     is     x W + b [32] -> Reshape [.., 4, 8]

That is a product with a bias as everything else knows it: runtimes and integers take both in one, refits move it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["move_biases"]


def move_biases(graph: gs.Graph) -> PassResult:
    """A copy of ``graph`` in this form; biases are flattened by nodes, for constant folding."""
    graph = graph.copy()
    names, moved = UniqueNames(graph), 0
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in list(graph.nodes):
        place = _bias(node, outputs)
        if place is None:
            continue
        bias, reshape = node.inputs[place], node.inputs[1 - place].inputs[0]
        flat, whole = (gs.Variable(names.tensor(f"{node.name}/{kind}"), bias.dtype) for kind in ("bias", "sum"))
        line = gs.Constant(names.tensor(f"{node.name}/line"), np.array([-1]))
        product, result = reshape.inputs[0], node.outputs[0]
        reshape.outputs.clear()
        node.outputs.clear()
        node.inputs[place], node.inputs[1 - place], node.outputs = flat, product, [whole]
        reshape.inputs[0], reshape.outputs = whole, [result]
        graph.nodes.append(gs.Node("Reshape", names.node(f"{node.name}/flatten"), {}, [bias, line], [flat]))
        moved += 1
    return PassResult(graph.toposort(), bool(moved), (f"{moved} biases moved to their products",) if moved else ())


def _bias(node: gs.Node, outputs: set[int]) -> int | None:
    """Which input of an Add is such a bias; None for any other node."""
    if node.op != "Add":
        return None
    for place, (bias, split) in enumerate((node.inputs, node.inputs[::-1])):
        if not isinstance(bias, gs.Constant) or not split.inputs or split.inputs[0].op != "Reshape":
            continue
        product, target = split.inputs[0].inputs
        maker = product.inputs[0] if product.inputs else None
        alone = all(len(t.outputs) == 1 and id(t) not in outputs for t in (split, product))
        if not alone or maker is None or maker.op != "MatMul" or not isinstance(target, gs.Constant):
            continue
        weight, sizes = maker.inputs[1], list(bias.shape)
        while sizes and sizes[0] == 1:
            sizes.pop(0)
        splits = 1 < len(sizes) < len(target.values) and target.values[-len(sizes) :].tolist() == sizes
        if splits and isinstance(weight, gs.Constant) and len(weight.shape) > 1 and weight.shape[-1] == np.prod(sizes):
            return place
    return None
