"""Restate Q/DQ in the form that TensorRT takes, symmetric int8 with float biases, where that is exact.

    bias        DQ(b, s), b int32       =>  the float constant s b
    unsigned    q in 0..255, zero 128   =>  q - 128 in -128..127, zero 0: Q, the DQ that read it, stored integers
    no zero     DQ(q, s), q int8        =>  a zero of int8

Every node computes what it did before, bit for bit. Other zero-points have no such form, and are left as they are.
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

__all__ = ["make_symmetric"]

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


def make_symmetric(graph: gs.Graph) -> PassResult:
    """``graph`` with as many symmetric pairs and float biases as there is an exact form for."""
    graph = graph.copy()
    names = UniqueNames(graph)
    biases = list(_int32_constants(graph))
    for node in biases:
        _replace_by_constant(node, _dequantized(node), names)
    unsigned = [tensor for tensor in _quantized(graph) if _is_shifted(tensor, graph)]
    for tensor in unsigned:
        _shift(tensor, names)
    bare = [node for node in graph.nodes if node.op == _DQ and _type(node.inputs[0]) == np.int8 and not _has_zero(node)]
    for node in bare:
        _set_zero(node, names)
    graph.cleanup().toposort()
    counts = ((biases, "int32 biases as float"), (unsigned, "uint8 tensors of zero-point 128 as int8"))
    notes = tuple(f"{len(found)} {words}" for found, words in counts if found)
    return PassResult(graph, bool(biases or unsigned or bare), notes)


def _int32_constants(graph: gs.Graph) -> Iterator[gs.Node]:
    for node in graph.nodes:
        constants = node.op == _DQ and all(isinstance(t, gs.Constant) for t in node.inputs if not t.is_empty())
        if constants and _type(node.inputs[0]) == np.int32 and node.outputs[0] not in graph.outputs:
            yield node


def _dequantized(node: gs.Node) -> NDArray[Any]:
    """What a DequantizeLinear of constants gives, rounded as it rounds."""
    stored, scale = node.inputs[0].values, node.inputs[1].values
    if scale.size > 1:
        axis = node.attrs.get("axis", 1) % stored.ndim
        scale = scale.reshape([-1 if i == axis else 1 for i in range(stored.ndim)])
    values: NDArray[Any] = (stored.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype)
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
        _set_zero(node, names)
    if not isinstance(tensor, gs.Constant):
        tensor.dtype = np.dtype(np.int8)
        return
    signed = (tensor.values.astype(np.int16) - 128).astype(np.int8)
    constant = gs.Constant(names.tensor(f"{tensor.name}/signed"), signed)
    for node in list(tensor.outputs):
        node.inputs[0] = constant


def _set_zero(node: gs.Node, names: UniqueNames) -> None:
    scale = node.inputs[1]
    shape = scale.values.shape if isinstance(scale, gs.Constant) else ()
    zero = gs.Constant(names.tensor(f"{node.name}/zero_point"), np.zeros(shape, np.int8))
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
