"""What a model says beside what it computes, carried from the file that was read to the one that is written.

onnx-graphsurgeon keeps what is computed; names of producers, versions, doc strings, metadata, types that are no
tensors and default values of inputs are kept here, and put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray

_HEADER = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


@dataclass(frozen=True, eq=False)
class Home:
    """The initializer of the file that a weight is or is cut from: turned, reshaped, cast, put together anew.

    Attributes:
        name: of the initializer.
        type: of its elements, as ``onnx.TensorProto`` numbers them.
        shape: of the initializer.
        axes: of the initializer, by axis of the weight; several where a Reshape joined them, None for those that one
            took apart, and for places that rows were looked up for. What no axis is along is there as a whole.
        indices: along that axis, of each position of the weight's; None but for one axis.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    axes: tuple[int | tuple[int, ...] | None, ...]
    indices: tuple[IntArray | None, ...]

    @property
    def cut(self) -> frozenset[int]:
        """Axes of the initializer of which the weight has a part."""
        lines = zip(self.axes, self.indices, strict=True)
        return frozenset(
            axis
            for axis, index in lines
            if isinstance(axis, int) and index is not None and len(np.unique(index)) < self.shape[axis]
        )


@dataclass(frozen=True)
class Origin:
    """What is carried.

    Attributes:
        header: the model without its graph's content; inputs and outputs are there.
        notes: doc string and metadata of nodes, by operator and first output, and of tensors, by name.
        defaults: values of inputs that a caller may leave out.
        weights: names of the initializers of the graph itself.
        named: names of the nodes of the graph itself.
        typed: whether the file states types of tensors inside the graph.
        bytes: of the file, without ``header``.
        homes: of weights that have another name than in the file; it grows as constants are folded.
    """

    header: onnx.ModelProto
    notes: Mapping[tuple[str, str], Any]
    defaults: Mapping[str, onnx.TensorProto]
    weights: frozenset[str]
    named: frozenset[str] = frozenset()
    typed: bool = False
    bytes: int = 0
    homes: dict[str, Home] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto, defaults: Mapping[str, onnx.TensorProto]) -> Origin:
        """What is to be carried of ``model``."""
        header = onnx.ModelProto()
        for name in _HEADER:
            _copy(name, model, header)
        header.metadata_props.extend(model.metadata_props)
        _copy("doc_string", model.graph, header.graph)
        header.graph.metadata_props.extend(model.graph.metadata_props)
        header.graph.input.extend(model.graph.input)
        header.graph.output.extend(model.graph.output)
        noted = {key: _note(entry) for key, entry in _entries(model.graph) if entry.doc_string or entry.metadata_props}
        weights, names = (frozenset(x.name for x in part) for part in (model.graph.initializer, model.graph.node))
        return cls(header, noted, defaults, weights, names, bool(model.graph.value_info), _content(model))

    def restore(self, model: onnx.ModelProto) -> None:
        """Put into ``model``, in place, what still holds of it."""
        header = self.header
        for name in _HEADER:
            _copy(name, header, model)
        model.metadata_props.extend(header.metadata_props)
        _copy("doc_string", header.graph, model.graph)
        model.graph.metadata_props.extend(header.graph.metadata_props)
        for values, stated in ((model.graph.input, header.graph.input), (model.graph.output, header.graph.output)):
            known = {value.name: value for value in stated}
            for value in values:
                if value.name in known and _agree(value, known[value.name]):
                    value.CopyFrom(known[value.name])
        for key, entry in _entries(model.graph):
            if key in self.notes:
                entry.doc_string = self.notes[key].doc_string
                del entry.metadata_props[:]
                entry.metadata_props.extend(self.notes[key].metadata_props)
        _share(model.graph, self.weights)
        present = {value.name for value in model.graph.input}
        model.graph.initializer.extend(value for name, value in self.defaults.items() if name in present)

    def drop_additions(self, model: onnx.ModelProto) -> None:
        """If ``model`` is larger than the file, take out, in place, what says nothing new of what is computed.

        That is names of nodes that have none in the file, and types of tensors that it states for none.
        """
        if _content(model) <= self.bytes:
            return
        if not self.typed:
            del model.graph.value_info[:]
        for node in model.graph.node:
            if node.name not in self.named:
                node.ClearField("name")


class CarryingGraph(gs.Graph):  # type: ignore[misc]
    """An onnx-graphsurgeon graph whose copies know where they come from."""

    origin: Origin

    def copy(self, tensor_map: Mapping[str, gs.Tensor] | None = None) -> CarryingGraph:
        """As gs.Graph."""
        return carrying(super().copy(tensor_map), self.origin)


def homes_of(graph: gs.Graph) -> Mapping[str, Home]:
    """See ``Origin.homes``."""
    return graph.origin.homes if isinstance(graph, CarryingGraph) else {}


def carrying(graph: gs.Graph, origin: Origin) -> CarryingGraph:
    """``graph`` itself, with an origin."""
    graph.__class__ = CarryingGraph
    graph.origin = origin
    assert isinstance(graph, CarryingGraph)
    return graph


def _copy(name: str, source: Any, target: Any) -> None:
    """One field, which stays absent where it is; an empty one that is stated takes bytes."""
    if source.HasField(name):
        setattr(target, name, getattr(source, name))
    else:
        target.ClearField(name)


def _content(model: onnx.ModelProto) -> int:
    """Bytes of what is computed, each part with its tag and its length, of which a byte holds seven bits."""
    parts = (model.graph.initializer, model.graph.node, model.graph.value_info, model.functions)
    sizes = (entry.ByteSize() for entries in parts for entry in entries)
    return sum(1 + max(1, -(-size.bit_length() // 7)) + size for size in sizes)


def _share(graph: onnx.GraphProto, weights: frozenset[str]) -> None:
    """Move the graph's own weights out of the graphs in its nodes, into which copies are written, and equal ones."""
    present = {tensor.name for tensor in graph.initializer}
    copies: dict[str, list[onnx.TensorProto]] = {}
    for tensor in [*graph.initializer, *(tensor for inner in _inner(graph) for tensor in inner.initializer)]:
        copies.setdefault(tensor.name, []).append(tensor)
    twins = {name for name, same in copies.items() if len(same) > 1 and all(other == same[0] for other in same)}
    for inner in _inner(graph):
        for tensor in [tensor for tensor in inner.initializer if tensor.name in weights | twins]:
            if tensor.name not in present:
                graph.initializer.append(tensor)
                present.add(tensor.name)
            inner.initializer.remove(tensor)


def _inner(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("g"):
                yield entry.g
                yield from _inner(entry.g)


def _entries(graph: onnx.GraphProto) -> Iterable[tuple[tuple[str, str], Any]]:
    for node in graph.node:
        yield (node.op_type, node.output[0] if node.output else ""), node
    for tensor in graph.initializer:
        yield ("", tensor.name), tensor
    for value in graph.value_info:
        yield ("", value.name), value


def _note(entry: Any) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(doc_string=entry.doc_string, metadata_props=entry.metadata_props)


def _agree(value: onnx.ValueInfoProto, stated: onnx.ValueInfoProto) -> bool:
    """Whether ``stated`` is of the type of ``value``, or of one that onnx-graphsurgeon does not keep."""
    if not stated.type.HasField("tensor_type"):
        return True
    a, b = value.type.tensor_type, stated.type.tensor_type
    sizes = [[(dim.dim_value, dim.dim_param) for dim in kind.shape.dim] for kind in (a, b)]
    return bool(a.elem_type == b.elem_type and sizes[0] == sizes[1])
