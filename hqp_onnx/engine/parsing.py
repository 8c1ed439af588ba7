"""What TensorRT's parser says of a model: the nodes that it refuses, and why, before anything is built.

The parser first looks at every node by itself, then imports node after node and stops at the first that fails. To find
all of these, a node that was refused is cut off, zeros of its outputs' shape (or inputs, where that is not known) take
its place, and the parser is asked again.

One thing the parser takes and should not: behind zero-points of uint8 it computes in int8, and clips what lies above
127 steps. Such nodes are listed as refused.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hqp_onnx.counts import article
from hqp_onnx.engine.library import Library
from hqp_onnx.engine.log import tensorrt_log
from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.graphs import model_io
from hqp_onnx.runtimes.session import loadable

SECONDS, MOST = 20.0, 200  # that asking again may take, and nodes that are listed
LARGEST = 1 << 22  # values of a tensor of zeros
_ERROR = re.compile(r"Error Code \d+: [\w ]*\((.*?)\.?(?: In \S+ at \S+)?\)?$")
_ASSERTION = re.compile(r"Assertion failed: .*?: (.*)$")
_QUOTED = re.compile(r'"([^"]+)"')
_UINT8 = "its zero-point is uint8: TensorRT computes in int8, and clips what lies above 127 steps"


@dataclass(frozen=True)
class Refusal:
    """A node that TensorRT does not take: its name (else that of its first output), operator, and TensorRT's reason."""

    node: str
    op: str
    reason: str

    def __str__(self) -> str:
        return f"node '{self.node}' ({self.op}): {self.reason}"


def refusals(model: onnx.ModelProto, library: Library) -> tuple[Refusal, ...]:
    """The nodes of ``model`` that the parser of ``library`` refuses, in graph order.

    Raises:
        MissingRuntimeError: it is not installed.
        ModelError: the parser cannot read the file at all.
    """
    trt, rest = library.load(), onnx.ModelProto()
    rest.CopyFrom(model)
    indices = list(range(len(rest.graph.node)))  # in the model, of what is left
    found, end, shapes = _of_uint8(model), time.perf_counter() + SECONDS, None
    try:
        while errors := _errors(rest, trt):
            found |= {indices[index]: refusal for index, refusal in errors.items()}
            shapes = _shapes(model) if shapes is None else shapes
            cut = _cut(rest, sorted(errors, reverse=True), shapes)
            indices = [kept for index, kept in enumerate(indices) if index not in errors]
            if not cut or time.perf_counter() > end or len(found) >= MOST:
                break
    except ModelError:
        if not found:  # of the model itself, not of what is left of it
            raise
    return tuple(found[index] for index in sorted(found))


def _errors(model: onnx.ModelProto, trt: Any) -> dict[int, Refusal]:
    """What the parser says of ``model``, by the index of the node."""
    from polygraphy.backend.trt import get_trt_logger

    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    with tempfile.TemporaryDirectory() as folder, tensorrt_log("TensorRT's parser fails"):
        source = loadable(model, None, Path(folder))
        builder = trt.Builder(get_trt_logger())
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, get_trt_logger())
        taken = parser.parse(source) if isinstance(source, bytes) else parser.parse_from_file(source)
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
    found: dict[int, Refusal] = {}
    for error in errors:
        if not 0 <= error.node() < len(model.graph.node):
            operator = error.func().removeprefix("import")  # of TensorRT's own source, where it names no node
            which = f" {article(operator)} of" if any(node.op_type == operator for node in model.graph.node) else ""
            raise ModelError(f"TensorRT's parser cannot read{which} the model: {_reason(error)}")
        node = model.graph.node[error.node()]
        found.setdefault(error.node(), Refusal(_name(node), node.op_type, _reason(error)))
    if not taken and not found:
        raise ModelError("TensorRT's parser refuses the model, and names no node")
    return found


def _reason(error: Any) -> str:
    """In one line, without the places in TensorRT's own source."""
    lines = [line.strip() for line in str(error.desc()).splitlines()]
    line = next((line for line in lines if "Error Code" in line and "cudaError" not in line), lines[0] if lines else "")
    if line in ("", "false"):
        return f"TensorRT has no {error.node_operator()}"
    if quoted := _QUOTED.search(line):
        return quoted[1]
    text = _ERROR.search(line) or _ASSERTION.search(line)
    return one_line((text[1] if text else line).removeprefix(f"{error.node_name()}: "))


def _of_uint8(model: onnx.ModelProto) -> dict[int, Refusal]:
    zeros = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT8}
    return {
        index: Refusal(_name(node), node.op_type, _UINT8)
        for index, node in enumerate(model.graph.node)
        if model_io.is_quantized(node.op_type) and len(node.input) > 2 and node.input[2] in zeros
    }


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or next(iter(node.output), node.op_type))


def _shapes(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Types of the tensors, by name; those that the file states where inference fails."""
    with suppress(onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        model = onnx.shape_inference.infer_shapes(model)
    return {value.name: value for value in (*model.graph.value_info, *model.graph.output)}


def _cut(model: onnx.ModelProto, indices: list[int], shapes: dict[str, onnx.ValueInfoProto]) -> bool:
    """Put zeros, or inputs where these are large or of unknown size, in the place of nodes; False for unknown types."""
    graph = model.graph
    for index in indices:
        for name in graph.node[index].output:
            if not name:
                continue
            kind = shapes[name].type.tensor_type if name in shapes else onnx.TypeProto.Tensor()
            if not kind.elem_type or not kind.HasField("shape"):
                return False
            sizes = [dim.dim_value if dim.HasField("dim_value") else LARGEST + 1 for dim in kind.shape.dim]
            if math.prod(sizes) <= LARGEST:  # zeros, since what reads a bias may ask for a constant
                zeros = np.zeros(sizes, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
                graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
            else:
                graph.input.append(shapes[name])
        del graph.node[index]
    return True
