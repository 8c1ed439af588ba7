"""The form that every other part of hqp_onnx expects, computing the same function.

- opset 13 or newer, and every node has a name of its own;
- no Constant nodes: every constant is an initializer; nodes over constants alone are folded;
- explicit ``pads`` instead of ``auto_pad`` wherever the spatial sizes are static;
- shape arithmetic folded: a tensor that depends only on input shapes, and is the same for all assignments of the
  symbolic dimensions that were tried (``shapes``), becomes a constant. In a Reshape target the entries that differ
  become 0 (copied) or -1 (inferred) where that says the same;
- no Expand before an operator that broadcasts its inputs to the same shape anyway;
- zeros around an image are padding of the convolution that reads it (``fold_pads``);
- the mean over all positions is a GlobalAveragePool (``pool_spatial_means``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.model_io import name_nodes
from hqp_onnx.graphs.shapes import Shapes, probe
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.fold_pads import fold_pads
from hqp_onnx.passes.pool_spatial_means import pool_spatial_means
from hqp_onnx.passes.raise_opset import raise_opset

__all__ = ["canonicalize", "canonicalize_with_shapes"]

MINIMUM_OPSET = 13  # QuantizeLinear and DequantizeLinear per channel
G_LOGGER.severity = G_LOGGER.ERROR  # it prints to stdout
_BROADCASTING = frozenset(
    ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "And", "Or", "Equal", "Greater", "Less"]
)
_FOLD_BYTES = 1 << 26  # a constant that a fold may create


def canonicalize(graph: gs.Graph) -> PassResult:
    """``graph`` in canonical form, as a copy.

    Raises:
        ModelError: the model is older than opset 13 and onnx cannot convert it.
    """
    return canonicalize_with_shapes(graph)[0]


def canonicalize_with_shapes(graph: gs.Graph) -> tuple[PassResult, Shapes]:
    """``canonicalize``, and the shapes of the result, found by running the model."""
    before = _signature(graph)
    raised = raise_opset(graph, MINIMUM_OPSET)
    graph = raised.graph
    name_nodes(graph)
    _type_constants(graph)
    graph.fold_constants(
        fold_shapes=False, size_threshold=_FOLD_BYTES, should_exclude_node=lambda node: node.op.startswith("Random")
    ).cleanup().toposort()
    shapes = probe(graph)
    _explicit_pads(graph, shapes)
    _fold_shape_arithmetic(graph, shapes)
    _drop_expansions(graph, shapes)
    graph.cleanup().toposort()
    graph = pool_spatial_means(fold_pads(graph).graph, {name: len(size) for name, size in shapes.sizes.items()}).graph
    return PassResult(graph, _signature(graph) != before, raised.notes), shapes.including(_pooled(graph, shapes))


def _pooled(graph: gs.Graph, shapes: Shapes) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Shapes of poolings that were none when ``shapes`` were found."""
    pools = [node for node in graph.nodes if node.op == "GlobalAveragePool" and node.inputs[0].name in shapes.runs]
    return {
        node.outputs[0].name: tuple((*size[:2], *[1] * len(size[2:])) for size in shapes.runs[node.inputs[0].name])
        for node in pools
    }


def _signature(graph: gs.Graph) -> list[object]:
    """What identifies the structure; values of initializers never change here."""
    names = [
        (node.op, node.name, [t.name for t in node.inputs], [t.name for t in node.outputs]) for node in graph.nodes
    ]
    return [
        graph.opset,
        names,
        [sorted((key, str(value)) for key, value in node.attrs.items()) for node in graph.nodes],
    ]


def _type_constants(graph: gs.Graph) -> None:
    """State every Constant as a tensor: onnx-graphsurgeon would take ``value_float`` for a double."""
    types = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for node in graph.nodes:
        name = next(iter(node.attrs), "")
        if node.op == "Constant" and name in types:
            values = np.asarray(node.attrs.pop(name), types[name])
            node.attrs["value"] = gs.Constant(f"{node.outputs[0].name}_value", values)


def _explicit_pads(graph: gs.Graph, shapes: Shapes) -> None:
    for node in graph.nodes:
        mode = node.attrs.get("auto_pad", "NOTSET")
        if node.op not in ("Conv", "MaxPool", "AveragePool", "LpPool") or mode == "NOTSET":
            continue
        size, dynamic = shapes.sizes.get(node.inputs[0].name), shapes.varying.get(node.inputs[0].name)
        if size is None or dynamic is None or (mode != "VALID" and any(dynamic[2:])):
            continue
        kernel = node.attrs.get("kernel_shape") or list(node.inputs[1].shape[2:])
        rank = len(kernel)
        strides, dilations = (node.attrs.get(name) or [1] * rank for name in ("strides", "dilations"))
        total = [0] * rank
        if mode != "VALID":
            extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
            total = [max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in zip(size[2:], strides, extents, strict=True)]
        small = [n // 2 for n in total]
        large = [n - half for n, half in zip(total, small, strict=True)]
        node.attrs["pads"] = small + large if mode != "SAME_LOWER" else large + small
        del node.attrs["auto_pad"]


def _fold_shape_arithmetic(graph: gs.Graph, shapes: Shapes) -> None:
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if tensor.name in shapes.constants:
                node.inputs[index] = gs.Constant(
                    f"{tensor.name}_folded_{node.name}_{index}", shapes.constants[tensor.name]
                )
        if node.op == "Reshape" and node.inputs[1].name in shapes.targets and not node.attrs.get("allowzero", 0):
            data, target = node.inputs
            relative = _relative_target(shapes.runs.get(data.name, ()), shapes.targets[target.name])
            if relative is not None:
                node.inputs[1] = gs.Constant(f"{target.name}_folded_{node.name}", relative)


def _drop_expansions(graph: gs.Graph, shapes: Shapes) -> None:
    for node in graph.nodes:
        if node.op not in _BROADCASTING:
            continue
        for index, tensor in enumerate(node.inputs):
            if not tensor.inputs or tensor.inputs[0].op != "Expand":
                continue
            narrow = [*node.inputs[:index], tensor.inputs[0].inputs[0], *node.inputs[index + 1 :]]
            if _broadcast(narrow, shapes) == shapes.runs.get(node.outputs[0].name):
                node.inputs[index] = narrow[index]


def _broadcast(tensors: Sequence[gs.Tensor], shapes: Shapes) -> tuple[tuple[int, ...], ...] | None:
    """Shape that ``tensors`` broadcast to, in every run; None if one is unknown."""
    known = [shapes.runs.get(t.name) for t in tensors if isinstance(t, gs.Variable)]
    fixed = [tuple(t.shape) for t in tensors if isinstance(t, gs.Constant)]
    if not all(known):
        return None
    return tuple(np.broadcast_shapes(*sizes, *fixed) for sizes in zip(*(run for run in known if run), strict=True))


def _relative_target(sizes: Sequence[tuple[int, ...]], targets: Sequence[Array]) -> Array | None:
    """A Reshape target that is right in all runs: entries that differ copied (0) or, at most one, inferred (-1)."""
    if not sizes or any((target == 0).any() for target in targets):
        return None
    relative = targets[0].copy()
    inferred = []
    for axis, entries in enumerate(zip(*targets, strict=True)):
        if len(set(entries)) == 1:
            continue
        if axis < len(sizes[0]) and entries == tuple(size[axis] for size in sizes):
            relative[axis] = 0
        else:
            inferred.append(axis)
    if len(inferred) > 1 or (inferred and (relative == -1).any()):
        return None
    relative[inferred] = -1
    return relative
