"""Read, check and write models. A file that is not what it should be is one clear ``ModelError``."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, count
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import inliner
from onnx_graphsurgeon.ir.tensor import LazyValues

from hqp_onnx import files
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.nodes import opset
from hqp_onnx.graphs.origin import CarryingGraph, Origin, carrying
from hqp_onnx.graphs.runtime_operators import set_aside
from hqp_onnx.graphs.sorting import sort_nodes
from hqp_onnx.graphs.unique_names import unused
from hqp_onnx.limits import MOST_NODES
from hqp_onnx.runtimes.external_data import check_large, read_apart, weight_bytes, write_apart

OLDEST_OPSET = 7  # onnxruntime knows none before it
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"})
_QUANTIZED |= {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QAttention", "QGemm"}
_CONSTANTS_FROM = 4  # the IR version that has initializers which are no inputs
_DROPPED = (
    onnx.AttributeProto.SPARSE_TENSOR,
    onnx.AttributeProto.SPARSE_TENSORS,
    onnx.AttributeProto.TENSORS,
    onnx.AttributeProto.GRAPHS,
    onnx.AttributeProto.TYPE_PROTO,
    onnx.AttributeProto.TYPE_PROTOS,
)
_DEEPEST = 100  # functions that call one another
_PACKED = {value for name, value in onnx.TensorProto.DataType.items() if name.endswith(("INT4", "INT2", "E2M1"))}
_BLOCKED = "com.microsoft.nchwc"  # operators of blocked layouts
_EXTERNAL_FROM = 1_900_000_000  # bytes of weights; protobuf ends at 2 GiB


def load(path: Path, quantized: bool = False) -> onnx.ModelProto:
    """The checked float model (or, with ``quantized``, a quantized one too) in ``path``, external data included.

    Raises:
        ModelError: no such file, not ONNX, corrupt, missing external data, an opset outside
            7 .. the newest of the installed onnx, no nodes, or already quantized unless ``quantized``,
            or in a blocked layout.
    """
    model = _parse(path)
    check(model, path, quantized)
    return model


def check(model: onnx.ModelProto, path: Path, quantized: bool = False) -> None:
    """Raise ``ModelError`` unless ``model``, called ``path``, is whole, valid, of a known opset, and float as asked.

    Nodes in another order than that in which they run are sorted, in place; outputs that state no type get theirs.
    """
    _check_names(path, model)
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX model. Expected a file written by an ONNX exporter")
    if not model.graph.node:
        raise ModelError(f"{path}: the graph has no nodes: nothing to optimize")
    if not model.graph.output:
        raise ModelError(
            f"{path}: the graph has no outputs, so nothing that it computes is read. Export it with outputs"
        )
    if tensor := next((t for t in model.graph.initializer if onnx.external_data_helper.uses_external_data(t)), None):
        raise ModelError(f"{path}: external data of '{tensor.name}' are not loaded. Load the model with its data")
    _check_opset(path, model)
    _check_functions(path, model)
    sort_nodes(model)
    if not quantized and (node := next((n for n in nodes(model.graph) if is_quantized(n.op_type)), None)):
        raise ModelError(
            f"{path}: already quantized (node '{node.name or node.output[0]}' is {node.op_type}). Give the float "
            "model, or what `hqp dequantize` makes of this one"
        )
    if node := next((n for n in nodes(model.graph) if n.domain == _BLOCKED), None):
        raise ModelError(
            f"{path}: onnxruntime optimized it for one machine (node '{node.name or node.output[0]}' is of "
            f"{_BLOCKED}). Give the model that it was made from"
        )
    _state_outputs(path, model)
    _check(path, model)


def nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from nodes(inner)


def save(model: onnx.ModelProto | gs.Graph, path: Path) -> None:
    """Write ``path``; from 1.9 GB of weights on, these go to ``NAME.data`` beside it.

    The model is renamed last, and reads a data file that no earlier model does (``NAME.1.data``, ... where there is
    one); the data of the model that it replaces are then removed, if they were written here.

    Raises:
        UsageError, FileError: see ``files.replacing``.
    """
    proto = to_proto(model)
    files.make_folder(path.parent)
    earlier = parts(path)[1:]
    if weight_bytes(proto) < _EXTERNAL_FROM:
        files.write_bytes(path, proto.SerializeToString(deterministic=True))
    else:
        names = (f"{path.name}{number}.data" for number in chain([""], (f".{n}" for n in count(1))))
        data = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
        try:
            write_apart(proto, path, data)
        except BaseException:
            if data not in parts(path):  # the model that reads them was not written
                files.remove(data)
            raise
    for data in earlier:
        if re.fullmatch(re.escape(path.name) + r"(\.\d+)?\.data", data.name):
            files.remove(data)


def copy(source: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the model of a file as ``path``, with metadata in place of what has their keys; errors as for ``save``."""
    model = onnx.load(source)
    others = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**others, **metadata})
    save(model, path)


def parts(path: Path) -> list[Path]:
    """The files of a model: ``path``, and those of its external data; ``path`` alone where it is not a model."""
    try:
        model = onnx.load(path, load_external_data=False) if path.is_file() else onnx.ModelProto()
        entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
        return [path, *(path.parent / name for name in {e.value: None for e in entries if e.key == "location"})]
    except (DecodeError, ValueError, TypeError, OSError):
        return [path]


def is_linked(path: Path) -> bool:
    """Whether external data of a model are links, which not every runtime follows."""
    return any(part.is_symlink() for part in parts(path)[1:])


def to_proto(model: onnx.ModelProto | gs.Graph) -> onnx.ModelProto:
    """``model`` as a ModelProto, with what its origin says of it; of IR version 4 at least, which knows constants."""
    if isinstance(model, onnx.ModelProto):
        return model
    _keep_texts(model)
    proto: onnx.ModelProto = gs.export_onnx(model, do_type_check=False)
    proto.ir_version = max(proto.ir_version, _CONSTANTS_FROM)
    if isinstance(model, CarryingGraph):
        model.origin.restore(proto)
    return proto


def to_file(graph: gs.Graph) -> onnx.ModelProto:
    """``to_proto`` for what is written: without additions that would make it larger than the file that was read.

    Nodes are named and typed when a model is opened; in a small file without names, these are most of what is added.
    """
    proto = to_proto(graph)
    if isinstance(graph, CarryingGraph):
        graph.origin.drop_additions(proto)
    return proto


def _keep_texts(graph: gs.Graph) -> None:
    """Let onnx-graphsurgeon write constants of text as they are: those that were looked at, it takes for numbers."""
    for inner in (graph, *graph.subgraphs(recursive=True)):
        for tensor in inner.tensors().values():
            if isinstance(tensor, gs.Constant) and isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind in "OSU":
                texts = [text if isinstance(text, bytes) else str(text).encode() for text in tensor.values.flat]
                kind = onnx.TensorProto.STRING
                stored = onnx.TensorProto(name=tensor.name, data_type=kind, dims=tensor.values.shape, string_data=texts)
                tensor.values = LazyValues(stored)


def to_graph(model: onnx.ModelProto, origin: Origin | None = None) -> gs.Graph:
    """``model`` as an onnx-graphsurgeon graph with unique node names, local functions inlined.

    An initializer that is an input too is the default value of that input, which stays one. It is a constant in files
    of IR version 3, which list every constant as an input, and in those of exporters that still do so: a caller who
    fed another value would feed one that no channel analysis can know.

    Args:
        model: not changed, but the graph reads its weights.
        origin: what the graph carries, if not what ``model`` says.

    Raises:
        ModelError: onnx-graphsurgeon cannot hold an attribute or a sparse weight.
    """
    plain = inliner.inline_local_functions(model, convert_version=True) if model.functions else model
    _refuse_what_is_lost(plain)
    defaults = stated_defaults(plain)
    if defaults:
        copy = onnx.ModelProto()
        copy.CopyFrom(plain)
        del copy.graph.initializer[:]
        copy.graph.initializer.extend(tensor for tensor in plain.graph.initializer if tensor.name not in defaults)
        plain = copy
    graph = gs.import_onnx(plain)
    for tensor in [t for t in graph.tensors().values() if isinstance(t, gs.Variable) and t.type != "tensor_type"]:
        tensor.dtype = tensor.shape = None
    name_nodes(graph)
    return carrying(graph, origin or Origin.of(model, defaults))


def default_values(graph: gs.Graph) -> Collection[str]:
    """Names of the inputs that a caller may leave out."""
    return graph.origin.defaults if isinstance(graph, CarryingGraph) else ()


def stated_defaults(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers that are default values of inputs; see ``to_graph``."""
    inputs = {value.name for value in model.graph.input}
    found = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in inputs}
    listed = len(found) == len(model.graph.initializer)
    return {} if model.ir_version < _CONSTANTS_FROM or listed else found


def _refuse_what_is_lost(model: onnx.ModelProto) -> None:
    """Raise ``ModelError`` for what onnx-graphsurgeon would drop or break."""
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError(f"weight '{name}' is sparse. Store it as a dense initializer")
    for node in nodes(model.graph):
        for entry in node.attribute:
            try:
                for text in [entry.s, *entry.strings]:
                    text.decode()
            except UnicodeDecodeError as e:
                raise ModelError(
                    f"attribute '{entry.name}' of {node.op_type} node '{node.name or node.output[0]}' is no UTF-8 text"
                ) from e
            if entry.type in _DROPPED:
                kind = onnx.AttributeProto.AttributeType.Name(entry.type)
                raise ModelError(
                    f"attribute '{entry.name}' of {node.op_type} node '{node.name or node.output[0]}' is of type {kind}"
                )


def name_nodes(graph: gs.Graph) -> None:
    """Give every node of ``graph``, and of the graphs inside its nodes, a name of its own."""
    every = [node for inner in [graph, *graph.subgraphs(recursive=True)] for node in inner.nodes]
    seen, taken = set[str](), {node.name for node in every}
    for index, node in enumerate(every):
        if not node.name or node.name in seen:
            node.name = unused(f"{node.op}_{index}", taken)
            taken.add(node.name)
        seen.add(node.name)


def stored_bytes(path: Path) -> int:
    """Size of a model on disk, external data included."""
    return sum(part.stat().st_size for part in parts(path))


def require_file(path: Path) -> None:
    """Raise ``ModelError`` unless ``path`` is a file with content."""
    files.require_regular(path, "an .onnx model", ModelError)
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: the file is empty. Expected an .onnx model")


def require_bounded(path: Path) -> None:
    """Raise ``ModelError`` unless ``path`` is a file whose names and functions, if it is a model, can be read."""
    require_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError):  # which a runtime explains
        return
    _check_names(path, model)
    _check_functions(path, model)


def _check_names(path: Path, model: onnx.ModelProto) -> None:
    """Raise ``ModelError`` for a name that is no text: protobuf gives it as bytes, or raises, when it is read."""
    left: list[Message] = [model]
    texts: list[object] = []
    try:
        while left:
            for field, value in left.pop().ListFields():
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    left.extend([value] if isinstance(value, Message) else value)
                elif field.type == FieldDescriptor.TYPE_STRING:
                    texts.extend([value] if isinstance(value, (str, bytes)) else value)
    except UnicodeDecodeError:
        texts.append(b"")
    if any(isinstance(text, bytes) for text in texts):
        raise ModelError(f"{path}: holds a name that is not UTF-8. Export it again")


def _check_functions(path: Path, model: onnx.ModelProto) -> None:
    """Raise ``ModelError`` for functions that call themselves, or call so many others that no machine holds them."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(body: onnx.GraphProto | onnx.FunctionProto, above: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes(body):
            key = (node.domain, node.op_type)
            if key not in functions:
                total += 1
                continue
            if key in above or len(above) == _DEEPEST:
                reason = "calls itself" if key in above else f"is called {_DEEPEST} functions deep"
                raise ModelError(f"{path}: function '{node.op_type}' {reason}")
            if key not in sizes:
                sizes[key] = size(functions[key], (*above, key))
            total += sizes[key]
        return total

    if functions and (total := size(model.graph, ())) > MOST_NODES:
        raise ModelError(f"{path}: its functions make {total:.3g} nodes when they are inlined: expected {MOST_NODES:,}")


def _parse(path: Path) -> onnx.ModelProto:
    require_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, UnicodeDecodeError) as e:
        raise ModelError(f"{path}: not an ONNX model, or truncated (protobuf cannot parse it). Export it again") from e
    _check_names(path, model)
    try:
        read_apart(model, path)
    except (onnx.checker.ValidationError, OSError, ValueError, RuntimeError, AttributeError) as e:  # onnx's own, in C++
        raise ModelError(
            f"{path}: external data cannot be read ({_one_line(e)}). Keep the data files beside the model"
        ) from e
    return model


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = opset(model)
    if not version:
        raise ModelError(f"{path}: the model imports no standard ONNX opset. Expected opset {OLDEST_OPSET} to {newest}")
    if not OLDEST_OPSET <= version <= newest:
        advice = "Export it again with opset 17" if version < OLDEST_OPSET else "Install a newer onnx and onnxruntime"
        raise ModelError(f"{path}: opset {version} is not supported: expected {OLDEST_OPSET} to {newest}. {advice}")


def _check(path: Path, model: onnx.ModelProto) -> None:
    try:
        with warnings.catch_warnings(), set_aside(model):
            warnings.simplefilter("ignore")
            (check_large if weight_bytes(model) >= _EXTERNAL_FROM else onnx.checker.check_model)(model)
    except (onnx.checker.ValidationError, ValueError) as e:
        raise ModelError(f"{path}: not a valid ONNX model: {_one_line(e)}") from e
    _check_sizes(path, model)


def _state_outputs(path: Path, model: onnx.ModelProto) -> None:
    """Give the outputs that state no type, or no shape, those that inference finds."""
    unstated = [value for value in model.graph.output if not _is_stated(value)]
    if not unstated:
        return
    for value in unstated:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.elem_type:
            raise ModelError(f"{path}: output '{value.name}' states no element type. Export it with its type")
        value.ClearField("type")
    try:
        found = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    except (onnx.shape_inference.InferenceError, ValueError):  # or more than 2 GiB
        found = {}
    for value in unstated:
        if value.name not in found or not _is_stated(found[value.name]):
            raise ModelError(
                f"{path}: output '{value.name}' states no type or shape, and inference finds none. Export it with both"
            )
        value.CopyFrom(found[value.name])


def _is_stated(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return value.type.WhichOneof("value") not in (None, "tensor_type") or (
        kind.elem_type > 0 and kind.HasField("shape")
    )


def _check_sizes(path: Path, model: onnx.ModelProto) -> None:
    """Raise ``ModelError`` for a weight of more or fewer values than its shape has, which onnx does not always see."""
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data") or tensor.data_type in _PACKED:
            continue
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if math.prod(tensor.dims) * size != len(tensor.raw_data):
            raise ModelError(
                f"{path}: weight '{tensor.name}' of shape {list(tensor.dims)} holds {len(tensor.raw_data)} bytes"
            )


def is_quantized(op: str) -> bool:
    """Whether an operator is one of a quantized model."""
    return op in _QUANTIZED or op.startswith("QLinear")


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
