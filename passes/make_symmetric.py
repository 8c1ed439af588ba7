"""Restate Q/DQ in the form that TensorRT takes, symmetric int8 with float biases, where that is exact.

    bias        DQ(b, s), b int32           =>  the float constant s b
    unsigned    q in 0..255, zero 128       =>  q - 128 in -128..127, zero 0: Q, the DQ that read it, stored integers
    weight      DQ(q, s, z), another zero   =>  the float constant s (q - z)
    no zero     DQ(q, s), q int8 or float8  =>  a zero of its type

Every node computes what it did before, bit for bit. Activations around other zero-points have no such form, and are
left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.runtimes.targets import FLOAT8

__all__ = ["make_symmetric"]

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


def make_symmetric(graph: gs.Graph) -> PassResult:
    """``graph`` with as many symmetric pairs and float biases as there is an exact form for."""
    graph = graph.copy()
    names = UniqueNames(graph)
    unsigned = [tensor for tensor in _quantized(graph) if _is_shifted(tensor, graph)]
    for tensor in unsigned:
        _shift(tensor, names)
    biases = [node for node in _constants(graph) if _type(node.inputs[0]) == np.int32]
    weights = [node for node in _constants(graph) if _is_asymmetric(node)]
    for node in (*biases, *weights):
        _replace_by_constant(node, _dequantized(node), names)
    bare = [
        node
        for node in graph.nodes
        if node.op == _DQ and _type(node.inputs[0]) in (np.int8, FLOAT8) and not _has_zero(node)
    ]
    for node in bare:
        _set_zero(node, names, _type(node.inputs[0]))
    graph.cleanup().toposort()
    counts = (
        (biases, "int32 biases as float"),
        (unsigned, "uint8 tensors of zero-point 128 as int8"),
        (weights, "weights around other zero-points as float"),
    )
    notes = tuple(f"{len(found)} {words}" for found, words in counts if found)
    return PassResult(graph, bool(biases or unsigned or weights or bare), notes)


def _constants(graph: gs.Graph) -> Iterator[gs.Node]:
    """Every DequantizeLinear of constants alone, not in blocks."""
    for node in graph.nodes:
        stated = node.op == _DQ and all(isinstance(t, gs.Constant) for t in node.inputs if not t.is_empty())
        if stated and node.inputs[1].values.ndim < 2 and node.outputs[0] not in graph.outputs:
            yield node


def _is_asymmetric(node: gs.Node) -> bool:
    return _type(node.inputs[0]) in (np.int8, np.uint8) and _has_zero(node) and bool(node.inputs[2].values.any())


def _dequantized(node: gs.Node) -> NDArray[Any]:
    """What a DequantizeLinear of constants gives, rounded as it rounds."""
    stored, scale = node.inputs[0].values, node.inputs[1].values
    zero = node.inputs[2].values if _has_zero(node) else np.zeros((), stored.dtype)
    axis = node.attrs.get("axis", 1) % max(stored.ndim, 1)
    line = [-1 if i == axis else 1 for i in range(stored.ndim)]
    scale, zero = (part.reshape(line) if part.size > 1 else part.reshape(()) for part in (scale, zero))
    steps = (stored.astype(np.int64) - zero.astype(np.int64)).astype(np.float32)
    values: NDArray[Any] = (steps * scale.astype(np.float32)).astype(scale.dtype)
    return values


def _replace_by_constant(node: gs.Node, values: NDArray[Any], names: UniqueNames) -> None:
    output, constant = node.outputs[0], gs.Constant(names.tensor(f"{node.outputs[0].name}/float"), values)
    for reader in list(output.outputs):
        for i, tensor in enumerate(reader.inputs):
            if tensor is output:
                reader.inputs[i] = constant
    node.outputs.clear()


def _quantized(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """Tensors that a DequantizeLinear reads."""
    yield from {id(node.inputs[0]): node.inputs[0] for node in graph.nodes if node.op == _DQ}.values()


def _is_shifted(tensor: gs.Tensor, graph: gs.Graph) -> bool:
    """Whether all that writes and reads ``tensor`` agrees on a zero-point of 128."""
    if tensor in graph.outputs or tensor in graph.inputs:
        return False
    makers = [] if isinstance(tensor, gs.Constant) else tensor.inputs
    pairs = all(node.op == _Q for node in makers) and all(node.op == _DQ for node in tensor.outputs)
    known = isinstance(tensor, gs.Constant) or len(makers) == 1
    return known and pairs and all(_zero_is_128(node) for node in (*makers, *tensor.outputs))


def _zero_is_128(node: gs.Node) -> bool:
    zero = node.inputs[2] if _has_zero(node) else None
    return isinstance(zero, gs.Constant) and zero.values.dtype == np.uint8 and bool((zero.values == 128).all())


def _shift(tensor: gs.Tensor, names: UniqueNames) -> None:
    for node in (*tensor.inputs, *tensor.outputs):
        _set_zero(node, names, np.dtype(np.int8))
    if not isinstance(tensor, gs.Constant):
        tensor.dtype = np.dtype(np.int8)
        return
    signed = (tensor.values.astype(np.int16) - 128).astype(np.int8)
    constant = gs.Constant(names.tensor(f"{tensor.name}/signed"), signed)
    for node in list(tensor.outputs):
        node.inputs[0] = constant


def _set_zero(node: gs.Node, names: UniqueNames, dtype: Any) -> None:
    scale = node.inputs[1]
    shape = scale.values.shape if isinstance(scale, gs.Constant) else ()
    zero = gs.Constant(names.tensor(f"{node.name}/zero_point"), np.zeros(shape, dtype))
    if len(node.inputs) > 2:
        node.inputs[2] = zero
    else:
        node.inputs.append(zero)


def _has_zero(node: gs.Node) -> bool:
    return len(node.inputs) > 2 and not node.inputs[2].is_empty()


def _type(tensor: gs.Tensor) -> Any:
    if isinstance(tensor, gs.Constant):
        return tensor.values.dtype
    if isinstance(tensor.dtype, int):  # of ONNX, where numpy has none of its own
        return onnx.helper.tensor_dtype_to_np_dtype(tensor.dtype)
    return None if tensor.dtype is None else np.dtype(tensor.dtype)
