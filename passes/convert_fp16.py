"""Compute a float32 graph in float16; its inputs and outputs keep their types.

onnxruntime's converter does the work: weights and activations become float16, with a Cast at every float32 input and
output, and around the operators that have no float16 (TopK, CumSum, ...). Constants beyond +-65504 are cut to it (the
-inf of attention masks stays far below any score), those between 0 and 6e-8 are raised to it, so an epsilon or a
scale stays above zero. What it leaves undone is done here: a graph with Q/DQ is brought to opset 19 first, since only
from there on may scales, and what surrounds the integers, be float16; nodes whose attributes state float32 in a way
that it does not know stay as they are, behind a Cast; its nodes are sorted, and the types of the result are checked,
since it finds where casts belong by shape inference, which may not reach everywhere. Activations that overflow show
only on data: evaluate the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.model_io import is_quantized, to_graph, to_proto
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.runtimes.session import float16_converter

__all__ = ["convert_fp16", "in_float16"]

_LARGEST = float(np.finfo(np.float16).max)
_QDQ_OPSET = 19
_WINDOWS = frozenset({"HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"})
_FLOAT_VALUES = frozenset({"value_float", "value_floats"})


def convert_fp16(graph: gs.Graph) -> PassResult:
    """``graph`` (sorted, float32 or Q/DQ; not changed) in float16; notes name the weights that were cut.

    Raises:
        ModelError: the graph has no float32 values, or no valid float16 form.
        MissingRuntimeError: onnxruntime is not installed.
    """
    floats = [tensor for tensor in graph.tensors().values() if tensor.dtype == np.float32]
    if not floats:
        raise ModelError("the model has no float32 tensors: there is nothing to convert to float16")
    float16_converter()
    quantized = any(is_quantized(node.op) for node in graph.nodes)
    raised = raise_opset(graph, _QDQ_OPSET if quantized else graph.opset).graph
    try:
        result = _apart(to_graph(names_apart(_halved)(to_proto(raised))).cleanup().toposort())
        onnx.checker.check_model(to_proto(result), full_check=True)
    except Exception as e:  # the converters assert, onnx's inference and checker have types of their own
        raise ModelError(f"the model has no float16 form: {one_line(e)}") from e
    tensors = result.tensors()
    beyond = [t.name for t in floats if isinstance(t, gs.Constant) and _beyond(t.values)]
    cut = [name for name in beyond if name in tensors and tensors[name].dtype == np.float16]
    notes = tuple(f"'{name}' has finite values beyond 65504, cut to it" for name in cut)
    return PassResult(result, True, notes, notes)


def in_float16(graph: gs.Graph) -> PassResult:
    """``graph`` (canonical, float32), BatchNormalization folded, in float16."""
    return convert_fp16(fold_batchnorm(graph).graph)


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """What the converter makes of ``model``."""
    stays = [
        node.name
        for node in model.graph.node
        if node.op_type in _WINDOWS or any(entry.name in _FLOAT_VALUES for entry in node.attribute)
    ]
    result: onnx.ModelProto = float16_converter()(model, keep_io_types=True, node_block_list=stays)
    return result


def _apart(graph: gs.Graph) -> gs.Graph:
    """``graph``, in place, without products of a transposed batch by a matrix, which gets as many axes.

    onnxruntime 1.32 fuses the two on the CPU, and the process dies of it.
    """
    names = UniqueNames(graph)
    for node in (node for node in graph.nodes if node.op == "MatMul" and node.inputs[0].inputs):
        before, weight = node.i(), node.inputs[1]
        perm = before.attrs.get("perm", []) if before.op == "Transpose" else []
        if isinstance(weight, gs.Constant) and len(weight.shape) == 2 and _moves_batch(perm):
            node.inputs[1] = gs.Constant(names.tensor(f"{weight.name}.batch"), weight.values[(None,) * (len(perm) - 2)])
    return graph


def _moves_batch(perm: Sequence[int]) -> bool:
    """Whether the first axis moves, and the others stay in order."""
    return len(perm) > 2 and perm[0] != 0 and [axis for axis in perm if axis] == [*range(1, len(perm))]


def _beyond(values: np.ndarray) -> bool:
    return bool((np.isfinite(values) & (np.abs(values) > _LARGEST)).any())
