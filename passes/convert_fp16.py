"""Compute a float32 graph in float16; its inputs and outputs keep their types.

onnxruntime's converter does the work: weights and activations become float16, with a Cast at every float32 input and
output, and around the operators that have no float16 (TopK, CumSum, ...). Constants beyond +-65504 are cut to it (the
-inf of attention masks stays far below any score), those between 0 and 6e-8 are raised to it, so an epsilon or a
scale stays above zero. What it leaves undone is done here: a graph with Q/DQ is brought to opset 19 first, since only
from there on may scales, and what surrounds the integers, be float16; nodes whose attributes state float32 in a way
that it does not know stay as they are, behind a Cast; outputs that no node makes are put aside; its nodes are sorted.
It finds where casts belong by shape inference, so types that this does not reach are asked of onnxruntime. The result
is checked and loaded: a node whose float16 form is refused stays in float32, and all is converted again. Activations
that overflow show only on data: evaluate the result.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs.bodies import name_apart
from hqp_onnx.graphs.foreign_names import names_apart
from hqp_onnx.graphs.model_io import is_quantized, nodes, to_graph, to_proto
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.raise_opset import raise_opset
from hqp_onnx.runtimes.session import Session, float16_converter

__all__ = ["convert_fp16", "in_float16"]

_LARGEST = float(np.finfo(np.float16).max)
_QDQ_OPSET = 19
_WINDOWS = frozenset({"HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"})
_FLOAT_VALUES = frozenset({"value_float", "value_floats"})
_BY_SCALAR = frozenset({"Add", "Div", "Mul", "Sub"})
_KEEPS = frozenset({"Cast", "Dropout", "Expand", "Identity"})
_TRIES = 20
_NODE_OF_ERROR = re.compile(r"(?:node name: |name '|[Nn]ode \()(.+?)[)']")


def convert_fp16(graph: gs.Graph) -> PassResult:
    """``graph`` (sorted, float32 or Q/DQ; not changed) in float16; notes name the weights that were cut.

    Raises:
        ModelError: the graph has no float32 values, or no valid float16 form.
        MissingRuntimeError: onnxruntime is not installed.
    """
    floats = [tensor for tensor in graph.tensors().values() if tensor.dtype == np.float32]
    if not floats:
        raise ModelError("the model has no float32 tensors: there is nothing to convert to float16")
    _refuse_sequences(to_proto(graph).graph)
    float16_converter()
    quantized = any(is_quantized(node.op) for node in graph.nodes)
    raised = raise_opset(graph, _QDQ_OPSET if quantized else graph.opset).graph.copy()
    name_apart(raised)
    handed_on = _put_aside(raised)
    result, stays = _converted(_typed(to_proto(raised)))
    _put_back(_apart(result), handed_on)
    if handed_on and (why := _not_valid(to_proto(result))) and not _not_valid(to_proto(graph)):
        raise ModelError(f"the model has no float16 form: {one_line(why)}")
    tensors = result.tensors()
    beyond = [t.name for t in floats if isinstance(t, gs.Constant) and _beyond(t.values)]
    cut = [name for name in beyond if name in tensors and tensors[name].dtype == np.float16]
    warnings = tuple(f"'{name}' has finite values beyond 65504, cut to it" for name in cut)
    notes = tuple(f"'{name}' stays in float32: its float16 form is refused" for name in stays)
    return PassResult(result, True, (*warnings, *notes), warnings)


def in_float16(graph: gs.Graph) -> PassResult:
    """``graph`` (canonical, float32), BatchNormalization folded, in float16."""
    return convert_fp16(fold_batchnorm(graph).graph)


def _refuse_sequences(graph: onnx.GraphProto) -> None:
    """Raise ``ModelError`` where an input or output is a sequence of float32: no Cast takes one."""
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.type.sequence_type.elem_type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                raise ModelError(
                    f"the model has no float16 form: {kind} '{value.name}' is a sequence of float32, which cannot be "
                    "cast. Export the model without it, or with tensors in its place"
                )


def _converted(model: onnx.ModelProto) -> tuple[gs.Graph, list[str]]:
    """``model`` in float16, and the nodes that stay in float32 since their float16 form is refused.

    A check that refuses ``model`` too says nothing.

    Raises:
        ModelError: it has no valid float16 form.
    """
    stays: list[str] = []
    why = ""
    for _ in range(_TRIES):
        result = _sorted(model, stays)
        half = to_proto(result)
        refusals = {check: found for check in (_not_valid, _not_loaded) if (found := check(half))}
        if len(refusals) < 2 and all(check(model) for check in refusals):
            return result, stays
        why = "; ".join(refusals.values())
        names = {node.name for node in nodes(model.graph)} - {"", *stays}
        named = dict.fromkeys(name for name in _NODE_OF_ERROR.findall(why) if name in names)
        if not named and _not_valid not in refusals:
            return result, stays  # another runtime may load it
        if not named:
            break
        stays += named
    raise ModelError(f"the model has no float16 form: {one_line(why)}")


def _sorted(model: onnx.ModelProto, stays: Collection[str]) -> gs.Graph:
    try:
        return to_graph(names_apart(partial(_halved, stays=stays))(model)).cleanup().toposort()
    except Exception as e:  # the converter asserts, onnx's inference has types of its own
        raise ModelError(f"the model has no float16 form: {one_line(e)}") from e


def _not_valid(model: onnx.ModelProto) -> str:
    """Why onnx refuses ``model``; "" where it does not."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as e:
        return str(e)
    return ""


def _not_loaded(model: onnx.ModelProto) -> str:
    """Why onnxruntime does not load ``model``; "" where it does."""
    try:
        Session(model, optimize=False)
    except ModelError as e:
        return str(e.__cause__ or e)
    return ""


def _halved(model: onnx.ModelProto, stays: Collection[str]) -> onnx.ModelProto:
    """What the converter makes of ``model``, but for the nodes of these names, and those that it does not know."""
    unknown = [
        node.name
        for node in nodes(model.graph)
        if node.op_type in _WINDOWS or any(entry.name in _FLOAT_VALUES for entry in node.attribute)
    ]
    result: onnx.ModelProto = float16_converter()(model, keep_io_types=True, node_block_list=[*unknown, *stays])
    for body in _bodies(result.graph):
        _bring_inside(result.graph, body)
    return result


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("g"):
                yield from (entry.g, *_bodies(entry.g))


def _bring_inside(graph: onnx.GraphProto, body: onnx.GraphProto) -> None:
    """Move casts of what ``body`` makes into it: the converter puts those around nodes in there into ``graph``, too."""
    for place, node in reversed(list(enumerate(body.node))):
        for cast in [cast for cast in graph.node if cast.op_type == "Cast" and cast.input[0] in node.output]:
            body.node.insert(place + 1, cast)
            graph.node.remove(cast)


def _apart(graph: gs.Graph) -> gs.Graph:
    """``graph``, sorted, in place, with a copy between a transposed batch and its product by constants.

    onnxruntime 1.32 fuses the two on the CPU, and the process dies of it. Concat of one tensor is a copy that it keeps.
    """
    names, fixed = UniqueNames(graph), set[str]()
    for node in graph.nodes:
        if all(isinstance(t, gs.Constant) or t.name in fixed for t in node.inputs):
            fixed.update(t.name for t in node.outputs)
    for node in [node for node in graph.nodes if node.op == "MatMul"]:
        for place, other in enumerate(reversed(node.inputs)):
            product = node.inputs[place]
            if (isinstance(other, gs.Constant) or other.name in fixed) and _is_transposed_batch(product):
                copy = gs.Variable(names.tensor(f"{product.name}/copy"), product.dtype, product.shape)
                graph.nodes.append(gs.Node("Concat", names.node(copy.name), {"axis": 0}, [product], [copy]))
                node.inputs[place] = copy
    return graph.toposort()


def _is_transposed_batch(tensor: gs.Tensor) -> bool:
    """Whether ``tensor`` is one for onnxruntime: behind what it takes away, or moves into the product."""
    order: list[int] = []
    rank = None  # where a shape states it
    while tensor.inputs:
        node = tensor.inputs[0]
        perm = node.attrs.get("perm", []) if node.op == "Transpose" else []
        varied = [t for t in node.inputs if not (isinstance(t, gs.Constant) and t.values.size == 1)]
        if perm and rank in (None, len(perm)):
            order, rank = [perm[axis] for axis in order or range(len(perm))], len(perm)
        elif (
            node.op == "Reshape" and isinstance(node.inputs[1], gs.Constant) and rank in (None, node.inputs[1].shape[0])
        ):
            rank = node.inputs[1].shape[0]
        elif node.op not in _KEEPS and not (node.op in _BY_SCALAR and len(varied) == 1):
            return False
        if _moves_batch(order):
            return True
        tensor = varied[0] if node.op in _BY_SCALAR else node.inputs[0]
    return False


def _moves_batch(perm: Sequence[int]) -> bool:
    """Whether the first axis moves, and the others stay in order."""
    return len(perm) > 2 and perm[0] != 0 and [axis for axis in perm if axis] == [*range(1, len(perm))]


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, with the types of float32 tensors that shape inference does not reach."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception as e:  # its own types, and protobuf's for more than 2 GiB
        raise ModelError(f"the model has no float16 form: {one_line(e)}") from e
    known = {value.name for value in (*inferred.value_info, *inferred.output)}
    unknown = [name for node in model.graph.node for name in node.output if name and name not in known]
    with suppress(ModelError):
        for spec in Session(model, unknown, optimize=False).outputs if unknown else ():
            if spec.dtype == np.float32:
                value = onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, None)
                model.graph.value_info.append(value)
    return model


def _put_aside(graph: gs.Graph) -> dict[int, gs.Tensor]:
    """Take away the outputs that no node makes, and repeated ones, by their places.

    Nodes that read such a constant read a copy.
    """
    first = {tensor.name: n for n, tensor in reversed(list(enumerate(graph.outputs)))}
    handed_on = {n: t for n, t in enumerate(graph.outputs) if not t.inputs or first[t.name] != n}
    names = UniqueNames(graph)
    for tensor in handed_on.values():
        if isinstance(tensor, gs.Constant):
            copy = gs.Constant(names.tensor(f"{tensor.name}/read"), tensor.values)
            for node in list(tensor.outputs):
                node.inputs = [copy if t is tensor else t for t in node.inputs]
    graph.outputs = [tensor for n, tensor in enumerate(graph.outputs) if n not in handed_on]
    return handed_on


def _put_back(graph: gs.Graph, handed_on: dict[int, gs.Tensor]) -> None:
    known = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
    for place, tensor in handed_on.items():
        graph.outputs.insert(place, known.get(tensor.name, tensor))


def _beyond(values: np.ndarray) -> bool:
    return bool((np.isfinite(values) & (np.abs(values) > _LARGEST)).any())
