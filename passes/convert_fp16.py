"""Compute a float32 graph in float16; its inputs and outputs keep their types.

onnxruntime's converter does the work: weights and activations become float16, with a Cast at every float32 input and
output, and around the operators that have no float16 (TopK, CumSum, ...). Constants beyond +-65504 are cut to it (the
-inf of attention masks stays far below any score), those between 0 and 6e-8 are raised to it, so an epsilon or a
scale stays above zero. What it leaves undone is done here: a graph with Q/DQ is brought to opset 19 first, since only
from there on may scales, and what surrounds the integers, be float16; nodes whose attributes state float32 in a way
that it does not know stay as they are, behind a Cast; what has a name that it gives to casts gets another for the
while; its nodes are sorted, and the types of the result are checked,
since it finds where casts belong by shape inference, which may not reach everywhere. Activations that overflow show
only on data: evaluate the result.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.errors import ModelError, one_line
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
_CASTS = re.compile(r"graph_(in|out)put_cast_?\d+|.*_cast_to_fp(16|32)(_node)?")  # names that the converter gives


def convert_fp16(graph: gs.Graph) -> PassResult:
    """``graph`` (sorted, float32 or Q/DQ; not changed) in float16; notes name the weights that were cut.

    Raises:
        ModelError: the graph has no float32 values, or no valid float16 form.
        MissingRuntimeError: onnxruntime is not installed.
    """
    floats = [tensor for tensor in graph.tensors().values() if tensor.dtype == np.float32]
    if not floats:
        raise ModelError("the model has no float32 tensors: there is nothing to convert to float16")
    convert = float16_converter()
    quantized = any(is_quantized(node.op) for node in graph.nodes)
    raised = raise_opset(graph, _QDQ_OPSET if quantized else graph.opset).graph
    aside = _set_aside(raised)
    stays = [node.name for node in raised.nodes if node.op in _WINDOWS or _FLOAT_VALUES & node.attrs.keys()]
    try:
        converted = convert(to_proto(raised), keep_io_types=True, node_block_list=stays)
        result = _put_back(to_graph(converted), aside).cleanup().toposort()
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


def _set_aside(graph: gs.Graph) -> dict[str, str]:
    """Rename what has a name that the converter gives to casts; new names of inputs and outputs -> what they were."""
    names, renamed = UniqueNames(graph), dict[str, str]()
    for inner in [graph, *graph.subgraphs(recursive=True)]:
        for node in inner.nodes:
            if _CASTS.fullmatch(node.name):
                node.name = names.node(f"{node.name}.")
        for tensor in inner.tensors().values():
            if _CASTS.fullmatch(tensor.name):
                renamed[tensor.name] = tensor.name = renamed.get(tensor.name) or names.tensor(f"{tensor.name}.")
    ends = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    return {new: old for old, new in renamed.items() if new in ends}


def _put_back(graph: gs.Graph, aside: dict[str, str]) -> gs.Graph:
    """Give inputs and outputs their names again, and the casts that took them others."""
    names, tensors = UniqueNames(graph), graph.tensors()
    for new, old in aside.items():
        if old in tensors:
            tensors[old].name = names.tensor(old)
        tensors[new].name = old
    return graph


def _beyond(values: np.ndarray) -> bool:
    return bool((np.isfinite(values) & (np.abs(values) > _LARGEST)).any())
