"""The form that every other part of hqp_onnx expects, computing the same function.

- opset 13 or newer, and every node has a name of its own, as has every tensor in the graphs inside nodes;
- optional inputs and outputs at the end of a node's list that are stated as absent are not stated;
- fused operators written out, and Einsum as MatMul (``expand_fused``), whose bias is added before heads are split
  (``move_biases``);
- no Constant nodes: every constant is an initializer; nodes over constants alone are folded where that does not make
  the file larger (``fold_constants``), and of an If with a constant condition the branch is in its place;
- explicit ``pads`` instead of ``auto_pad`` wherever the spatial sizes are static, but for dilated poolings;
- a weight that is an output, too, is two tensors: what changes the one that nodes read leaves the output as it is;
- shape arithmetic folded: a tensor of integers that is proven to be the same for all sizes of the inputs becomes a
  constant. In a Reshape target the other entries become 0 (copied) or -1 (inferred) where that says the same;
- no Expand before an operator that broadcasts its inputs to the same shape anyway, and no copies of a head that all
  heads of a product share (``share_heads``);
- zeros around an image are padding of the convolution that reads it (``fold_pads``);
- the mean over all positions is a GlobalAveragePool (``pool_spatial_means``);
- initial states of LSTM, GRU and RNN that are zero are absent (``drop_zero_states``), and of last states, what computes
  reads other copies than what hands them on (``part_states``);
- a layer normalization that was taken apart is one operator (``join_layer_norms``), which needs opset 17.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.bodies import name_apart
from hqp_onnx.graphs.model_io import name_nodes
from hqp_onnx.graphs.shapes import Shapes, probe
from hqp_onnx.graphs.symbolic.demands import BROADCASTING
from hqp_onnx.graphs.symbolic.expressions import Expression, integer
from hqp_onnx.graphs.symbolic.known import Dims
from hqp_onnx.graphs.symbolic.shape_rules import broadcast
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.drop_zero_states import drop_zero_states
from hqp_onnx.passes.expand_fused import expand_fused
from hqp_onnx.passes.fold_constants import computed_from_constants, fold_constants
from hqp_onnx.passes.fold_pads import fold_pads
from hqp_onnx.passes.join_layer_norms import OPSET as LAYER_NORM_OPSET
from hqp_onnx.passes.join_layer_norms import join_layer_norms, layer_norms
from hqp_onnx.passes.move_biases import move_biases
from hqp_onnx.passes.part_states import part_states
from hqp_onnx.passes.pool_spatial_means import pool_spatial_means
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.passes.share_heads import share_heads
from hqp_onnx.passes.take_branches import take_branches

__all__ = ["canonicalize", "canonicalize_with_shapes"]

MINIMUM_OPSET = 13  # QuantizeLinear and DequantizeLinear per channel
G_LOGGER.severity = G_LOGGER.ERROR  # it prints to stdout
_FLOAT = 1  # onnx.TensorProto.FLOAT


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
    name_nodes(raised.graph)
    name_apart(raised.graph)
    _drop_absent(raised.graph)
    _keep_outputs(raised.graph)
    expanded = expand_fused(raised.graph.toposort())
    graph, shapes = _without_shape_arithmetic(part_states(move_biases(expanded.graph).graph).graph)
    if (shared := share_heads(graph, shapes.known.dims)).modified:
        graph, shapes = _without_shape_arithmetic(shared.graph)
    graph = drop_zero_states(graph).graph
    _explicit_pads(graph, shapes)
    _drop_expansions(graph, shapes)
    graph.cleanup().toposort()
    known = shapes.known
    dims = {name: sizes for name, sizes in known.dims.items() if known.types.get(name) == _FLOAT}
    graph = pool_spatial_means(fold_pads(graph).graph, {name: len(sizes) for name, sizes in dims.items()}).graph
    shapes, notes = _with_pooled(shapes, graph), (*raised.notes, *expanded.notes)
    if any(layer_norms(graph, dims)):
        if graph.opset < LAYER_NORM_OPSET and (newer := _raised(graph)) is not None:
            again, shapes = canonicalize_with_shapes(newer)
            return PassResult(again.graph, True, (*notes, *again.notes)), shapes
        graph = join_layer_norms(graph, dims).graph
    return PassResult(graph, _signature(graph) != before, notes), shapes


def _raised(graph: gs.Graph) -> gs.Graph | None:
    """``graph`` in the opset that has LayerNormalization; None where onnx cannot convert it."""
    try:
        return raise_opset(graph, LAYER_NORM_OPSET).graph
    except ModelError:
        return None


def _drop_absent(graph: gs.Graph) -> None:
    for node in graph.nodes:
        for tensors in (node.inputs, node.outputs):
            while node.domain in (None, "", "ai.onnx") and tensors and tensors[-1].is_empty():
                tensors.pop()


def _keep_outputs(graph: gs.Graph) -> None:
    """Let nodes read a copy of the floating-point constants that are outputs."""
    names = UniqueNames(graph)
    for tensor in list({id(tensor): tensor for tensor in graph.outputs}.values()):
        if isinstance(tensor, gs.Constant) and tensor.outputs and np.issubdtype(tensor.dtype, np.floating):
            copy = gs.Constant(names.tensor(f"{tensor.name}/read"), tensor.values)
            for node in list(tensor.outputs):
                node.inputs = [copy if each is tensor else each for each in node.inputs]


def _without_shape_arithmetic(graph: gs.Graph) -> tuple[gs.Graph, Shapes]:
    """Fold what is constant until nothing is: a branch that is taken brings nodes of its own."""
    while True:
        graph = fold_constants(graph).graph
        shapes = probe(graph)
        _fold_shape_arithmetic(graph, shapes)
        taken = take_branches(fold_constants(graph).graph)
        graph = taken.graph
        if not taken.modified:
            return graph, shapes


def _with_pooled(shapes: Shapes, graph: gs.Graph) -> Shapes:
    """Shapes of poolings that were none when ``shapes`` were found."""
    sizes, dims = {}, {}
    for node in graph.nodes:
        name = node.inputs[0].name if node.op == "GlobalAveragePool" else ""
        if name in shapes.known.dims and name in shapes.sizes:
            own = node.outputs[0].name
            rank = len(shapes.sizes[name]) - 2
            sizes[own] = (*shapes.sizes[name][:2], *[1] * rank)
            dims[own] = (*shapes.known.dims[name][:2], *[integer(1)] * rank)
    return shapes.including(sizes, dims)


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


def _explicit_pads(graph: gs.Graph, shapes: Shapes) -> None:
    for node in graph.nodes:
        mode = node.attrs.get("auto_pad", "NOTSET")
        if node.op not in ("Conv", "MaxPool", "AveragePool", "LpPool") or mode == "NOTSET":
            continue
        if node.op != "Conv" and mode != "VALID" and {*node.attrs.get("dilations", ())} - {1}:
            continue  # onnxruntime's pooling pads for a kernel without dilations, against the specification
        size = shapes.sizes.get(node.inputs[0].name)
        if size is None or (mode != "VALID" and any(shapes.varying(node.inputs[0].name)[2:])):
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
    names = UniqueNames(graph)
    judged = computed_from_constants(graph)
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) or tensor.name in judged:
                continue
            if (value := shapes.constant(tensor.name)) is not None:
                wish = f"{tensor.name}_folded_{node.name}_{index}"
                node.inputs[index] = gs.Constant(names.tensor(wish), value)
        if node.op == "Reshape" and isinstance(node.inputs[1], gs.Variable) and not node.attrs.get("allowzero", 0):
            data, target = node.inputs
            sizes, entries = shapes.known.dims.get(data.name), shapes.known.values.get(target.name)
            relative = None if sizes is None or entries is None else _relative_target(sizes, list(entries.flat))
            if relative is not None:
                node.inputs[1] = gs.Constant(names.tensor(f"{target.name}_folded_{node.name}"), relative)


def _drop_expansions(graph: gs.Graph, shapes: Shapes) -> None:
    for node in graph.nodes:
        if node.op not in BROADCASTING:
            continue
        for index, tensor in enumerate(node.inputs):
            if not tensor.inputs or tensor.inputs[0].op != "Expand":
                continue
            narrow = [*node.inputs[:index], tensor.inputs[0].inputs[0], *node.inputs[index + 1 :]]
            sizes = _broadcast(narrow, shapes)
            if sizes is not None and sizes == shapes.known.dims.get(node.outputs[0].name):
                node.inputs[index] = narrow[index]


def _broadcast(tensors: Sequence[gs.Tensor], shapes: Shapes) -> Dims | None:
    """Shape that ``tensors`` broadcast to; None if it is not known for all sizes."""
    shape: Sequence[Expression | None] = ()
    for tensor in tensors:
        constant = isinstance(tensor, gs.Constant)
        dims = tuple(map(integer, tensor.shape)) if constant else shapes.known.dims.get(tensor.name)
        if dims is None or None in shape:
            return None
        shape = broadcast(tuple(size for size in shape if size is not None), dims)
    return None if None in shape else tuple(size for size in shape if size is not None)


def _relative_target(sizes: Dims, target: Sequence[Expression]) -> Array | None:
    """A Reshape target that is right for all sizes: entries that are open copied (0) or, at most one, inferred (-1)."""
    if any(entry.value == 0 for entry in target):
        return None
    relative = [0 if entry.value is None else entry.value for entry in target]
    open_ends = [axis for axis, entry in enumerate(target) if entry.value is None]
    inferred = [axis for axis in open_ends if axis >= len(sizes) or target[axis] != sizes[axis]]
    if len(inferred) > 1 or (inferred and -1 in relative):
        return None
    for axis in inferred:
        relative[axis] = -1
    return np.array(relative, np.int64)
