"""A Scan or Loop becomes the nodes of its passes, one after the other, which have gradients.

    (h, ys) = Scan(h, xs; body)   ->   x_1 .. x_T = Split(xs), (h, y_1) = body(h, x_1), ..., ys = Concat(y_1 .. y_T)

This is exact where the number of passes is the same for all samples of the size of those given, which must be proven:
the length of what a Scan takes apart, or the count of a Loop whose condition is true in every pass. Weights of the body
are read once a pass and stay one tensor, so their gradients are summed; what no pass changes is computed once. A Loop
of no passes gives the states that it was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.draws import draws
from hqp_onnx.graphs.nodes import attribute, number, numbers, operator, opset, reads
from hqp_onnx.graphs.symbolic.known import Known
from hqp_onnx.graphs.symbolic.sampled import proven_for
from hqp_onnx.graphs.unique_names import tensor_names, unused
from hqp_onnx.passes.lowering.inline_constants import inline_constants

__all__ = ["unroll_loops"]

LARGEST = 4096  # nodes in place of one


def unroll_loops(model: onnx.ModelProto, samples: Mapping[str, Array], batch: int | None = None) -> onnx.ModelProto:
    """``model`` without those Scans and Loops that can be unrolled into at most ``LARGEST`` nodes.

    Args:
        model: loops inside loops come out, those inside branches stay.
        samples: feeds, whose sizes behind the first axis are those of all samples.
        batch: the size of the first axis, if that is fixed.
    """
    current = model
    while any(operator(node) in ("Scan", "Loop") for node in current.graph.node):
        known = proven_for(inline_constants(current), {}, samples, batch)
        made = Counter(_made(current.graph))
        used = _read(current.graph)
        counts = {i: _passes(node, known) for i, node in enumerate(current.graph.node)}
        place = next((i for i, count in counts.items() if _is_open(current.graph.node[i], count, made, used)), None)
        if place is None:
            break
        if current is model:
            current = onnx.ModelProto()
            current.CopyFrom(model)
        nodes = list(current.graph.node)
        nodes[place : place + 1] = _Unrolling(current, nodes[place], counts[place] or 0).nodes()
        del current.graph.node[:]
        current.graph.node.extend(nodes)
    return current


def _passes(node: onnx.NodeProto, known: Known) -> int | None:
    """The proven number of passes of a Scan or Loop; None if there is none."""
    if operator(node) == "Scan":
        return _scanned(node, known)
    return _counted(node, known) if operator(node) == "Loop" else None


def _scanned(node: onnx.NodeProto, known: Known) -> int | None:
    count = int(number(node, "num_scan_inputs", 0))
    lengths = set()
    for name, axis in zip(node.input[-count:], numbers(node, "scan_input_axes", [0] * count), strict=True):
        dims = known.dims.get(name)
        lengths.add(None if dims is None else dims[axis].value)
    length = next(iter(lengths - {None}), 0)
    return length if lengths == {length} and length else None


def _counted(node: onnx.NodeProto, known: Known) -> int | None:
    values = known.integers(node.input[0]) if node.input[0] else None
    count = None if values is None or values.size != 1 else max(0, int(values.flat[0]))
    begins = known.integers(node.input[1]) if node.input[1] else np.ones(1, np.int64)
    if count == 0 or (begins is not None and not begins.any()):
        return 0
    return count if begins is not None and _stays_true(_body(node), known) else None


def _true(name: str, known: Known) -> bool:
    value = known.integers(name)
    return value is not None and bool(value.all())


def _stays_true(body: onnx.GraphProto, known: Known) -> bool:
    """Whether the condition that a body gives is the one that it was given, or the constant true."""
    sources = {node.output[0]: node for node in body.node}
    constants = {tensor.name: tensor for tensor in body.initializer}
    name = body.output[0].name
    while name in sources and operator(sources[name]) in ("Identity", "Cast"):
        name = sources[name].input[0]
    if name in sources:
        value = attribute(sources[name], "value") if operator(sources[name]) == "Constant" else None
    else:
        value = constants.get(name)
    if isinstance(value, onnx.TensorProto):
        return bool(numpy_helper.to_array(value).all())
    return name == body.input[1].name or (name not in sources and _true(name, known))


def _is_open(node: onnx.NodeProto, count: int | None, made: Mapping[str, int], used: frozenset[str]) -> bool:
    """Whether a node may be unrolled: few passes, and names that nothing else has; of no passes, nothing is stacked."""
    if count is None or count * len(_body(node).node) > LARGEST:
        return False
    if not count:
        return used.isdisjoint(node.output[len(node.input) - 2 :])
    return bool(_body(node).node) and all(made[name] == 1 for name in _made(_body(node)))


def _read(graph: onnx.GraphProto) -> frozenset[str]:
    """Names that nodes read, or that are results."""
    return frozenset(name for node in graph.node for name in reads(node)).union(value.name for value in graph.output)


def _body(node: onnx.NodeProto) -> onnx.GraphProto:
    body = attribute(node, "body")
    assert isinstance(body, onnx.GraphProto)
    return body


def _made(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph and the graphs inside its nodes give, to initializers, inputs and results."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (value.name for value in graph.input if value.name not in {t.name for t in graph.initializer})
    for node in graph.node:
        yield from filter(None, node.output)
        for inner in _inside(node):
            yield from _made(inner)


def _inside(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for entry in node.attribute for graph in (*entry.graphs, *([entry.g] if entry.HasField("g") else []))]


@dataclass(frozen=True)
class _Scanned:
    """What is taken apart or put together: ``name`` of the whole, ``axis``, and whether the last is first."""

    name: str
    axis: int
    backward: bool


class _Unrolling:
    """The nodes in place of one; what they need is added to the model's initializers."""

    def __init__(self, model: onnx.ModelProto, node: onnx.NodeProto, count: int) -> None:
        self._graph, self._opset = model.graph, opset(model)
        self._node, self._body, self._count = node, _body(node), count
        self._taken = tensor_names(model.graph)
        self._prefix = node.name or next(filter(None, node.output), "loop")

    def nodes(self) -> list[onnx.NodeProto]:
        """In order."""
        loop, body = operator(self._node) == "Loop", self._body
        if not self._count:
            pairs = zip(self._node.input[2:], self._node.output, strict=False)
            return [helper.make_node("Identity", [given], [name]) for given, name in pairs if name]
        scanned = [] if loop else self._scanned_inputs()
        states = list(self._node.input[2:] if loop else self._node.input[: len(self._node.input) - len(scanned)])
        own = list(body.input)  # of the body: (count, condition,) states, scanned
        fixed, changing = self._parts()
        nodes = list(fixed)
        parts = [self._apart(each, nodes) for each in scanned]
        stacked: list[list[str]] = [[] for _ in body.output[int(loop) + len(states) :]]
        true = self._constant("condition", np.array(True)) if loop else ""
        for step in range(self._count):
            given = [self._number(own[0], step), true] if loop else []
            given += [*states, *(part[step] for part in parts)]
            names = {value.name: name for value, name in zip(own, given, strict=True)}
            names |= {name: self._new(f"{name}/{step}") for node in changing for name in _made_by(node)}
            nodes += [_renamed(node, names, step) for node in changing]
            results = [names.get(value.name, value.name) for value in body.output[int(loop) :]]
            states = results[: len(states)]
            for some, name in zip(stacked, results[len(states) :], strict=True):
                some.append(name)
        ends = self._node.output[: len(states)]
        nodes += [helper.make_node("Identity", [s], [name]) for s, name in zip(states, ends, strict=False) if name]
        for whole, some in zip(self._scanned_outputs(len(states)), stacked, strict=False):
            self._together(whole, some, nodes)
        return nodes

    def _parts(self) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        """Nodes of the body that compute the same in every pass, and the others; initializers go outside."""
        for graph in (self._body, *_every_inside(self._body)):
            self._graph.initializer.extend(graph.initializer)
            del graph.initializer[:]
        changing, fixed, moving = [], [], {value.name for value in self._body.input}
        for node in self._body.node:
            if moving.isdisjoint(reads(node)) and not _draws(node):
                fixed.append(node)
            else:
                changing.append(node)
                moving.update(node.output)
        return fixed, changing

    def _scanned_inputs(self) -> list[_Scanned]:
        count = int(number(self._node, "num_scan_inputs", 0))
        return self._axes(self._node.input[-count:], "scan_input")

    def _scanned_outputs(self, states: int) -> list[_Scanned]:
        names = self._node.output[states:]
        return self._axes(names, "scan_output") if operator(self._node) == "Scan" else self._axes(names, "")

    def _axes(self, names: Sequence[str], which: str) -> list[_Scanned]:
        zeros = [0] * len(names)
        axes = numbers(self._node, f"{which}_axes", zeros)
        against = numbers(self._node, f"{which}_directions", zeros)
        return [_Scanned(*each) for each in zip(names, axes, map(bool, against), strict=False)]

    def _apart(self, whole: _Scanned, nodes: list[onnx.NodeProto]) -> list[str]:
        """Append what takes a tensor apart; returns its parts in the order of the passes."""
        pieces = [self._new(f"{whole.name}/{step}") for step in range(self._count)]
        if self._opset < 13:
            nodes.append(helper.make_node("Split", [whole.name], pieces, axis=whole.axis, split=[1] * self._count))
        else:
            sizes = self._constant("sizes", np.ones(self._count, np.int64))
            nodes.append(helper.make_node("Split", [whole.name, sizes], pieces, axis=whole.axis))
        parts = [self._reshaped("Squeeze", name, whole.axis, nodes) for name in pieces]
        return parts[::-1] if whole.backward else parts

    def _together(self, whole: _Scanned, parts: Sequence[str], nodes: list[onnx.NodeProto]) -> None:
        """Append what stacks the results of the passes."""
        if whole.name:
            pieces = [self._reshaped("Unsqueeze", name, whole.axis, nodes) for name in parts]
            pieces = pieces[::-1] if whole.backward else pieces
            nodes.append(helper.make_node("Concat", pieces, [whole.name], axis=whole.axis))

    def _reshaped(self, kind: str, name: str, axis: int, nodes: list[onnx.NodeProto]) -> str:
        result = self._new(f"{name}/{kind.lower()}")
        if self._opset < 13:
            nodes.append(helper.make_node(kind, [name], [result], axes=[axis]))
        else:
            nodes.append(helper.make_node(kind, [name, self._constant("axis", np.array([axis]))], [result]))
        return result

    def _number(self, value: onnx.ValueInfoProto, step: int) -> str:
        """The constant that the body reads as the number of its pass."""
        return self._constant(f"pass{step}", np.full([1] * len(value.type.tensor_type.shape.dim), step, np.int64))

    def _constant(self, wish: str, value: Array) -> str:
        name = self._new(f"{self._prefix}/{wish}")
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _new(self, wish: str) -> str:
        name = unused(wish, self._taken)
        self._taken.add(name)
        return name


def _draws(node: onnx.NodeProto) -> bool:
    inside = (inner for graph in _inside(node) for inner in graph.node)
    return draws(node.op_type, node.input) or any(map(_draws, inside))


def _every_inside(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for inner in _inside(node):
            yield inner
            yield from _every_inside(inner)


def _made_by(node: onnx.NodeProto) -> list[str]:
    return [*filter(None, node.output), *(name for inner in _inside(node) for name in _made(inner))]


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], step: int) -> onnx.NodeProto:
    """A copy of ``node``, and of what is inside it, under other names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if copy.name:
        copy.name = f"{node.name}/{step}"
    _rename([copy], names)
    return copy


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        for some in (node.input, node.output):
            some[:] = [names.get(name, name) for name in some]
        for inner in _inside(node):
            for value in (*inner.input, *inner.output):
                value.name = names.get(value.name, value.name)
            del inner.value_info[:]
            _rename(inner.node, names)
