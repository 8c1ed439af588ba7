"""Shapes in the graphs inside If, Loop and Scan: each is run once by itself, on what it reads in a run of the whole.

Of an If, both branches run, whichever is taken; of a Loop or Scan, the first pass. A state of a Loop or Scan may change
its size from pass to pass, so a size is proven for it only if what the body makes of the state has it, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from hqp_onnx.arrays import Array
from hqp_onnx.errors import LimitError, ModelError
from hqp_onnx.graphs.measured_run import Measured
from hqp_onnx.graphs.nodes import attribute, numbers, operator, reads
from hqp_onnx.graphs.symbolic.known import Dims, Known
from hqp_onnx.graphs.symbolic.propagation import propagate
from hqp_onnx.runtimes.session import Session, try_run

_Fixed = tuple[int | None, ...]  # a shape of which only some sizes are proven
_Entry = tuple[Array, _Fixed]


@dataclass(frozen=True)
class _Body:
    """A graph inside a node, as a model: what it reads outside, and its own inputs, are inputs.

    ``fixed`` are their proven sizes; ``states`` are pairs of an input and the output that it is in the next pass.
    """

    model: onnx.ModelProto
    feeds: Mapping[str, Array]
    fixed: Mapping[str, _Fixed]
    states: Sequence[tuple[str, str]]


def shapes_of_bodies(
    model: onnx.ModelProto, feeds: Mapping[str, Array], known: Known
) -> tuple[dict[str, tuple[int, ...]], dict[str, Dims]]:
    """Sizes, and proven shapes, of tensors in the graphs inside nodes; those of graphs that do not run are absent.

    Args:
        model: no two of its tensors have one name, those of graphs inside nodes included.
        feeds: inputs that it takes.
        known: what is proven of its own tensors.
    """
    sizes, dims = dict[str, tuple[int, ...]](), dict[str, Dims]()
    for body in _bodies(model, feeds, known):
        measured = Measured.of(body.model, ())
        found = {} if measured is None else measured.run(body.feeds).sizes
        if not found:
            continue
        proven = _proven(body)
        inner_sizes, inner_dims = shapes_of_bodies(body.model, body.feeds, proven)
        sizes.update({**inner_sizes, **{name: size for name, size in found.items() if name not in known.dims}})
        dims.update({**inner_dims, **{name: shape for name, shape in proven.dims.items() if name not in known.dims}})
    return sizes, dims


def _bodies(model: onnx.ModelProto, feeds: Mapping[str, Array], known: Known) -> Iterator[_Body]:
    holders = [node for node in model.graph.node if operator(node) in ("If", "Loop", "Scan")]
    if not holders:
        return
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {name for node in model.graph.node for name in node.output}
    values = _values(model, feeds, sorted(made.intersection(n for node in holders for n in reads(node))))
    for node in holders:
        entries = _entries(node, {**stored, **values}, known)
        for entry in node.attribute if entries is not None else ():
            if entry.HasField("g"):
                yield _body(model, node, entry.g, entries or [], values, known)


def _values(model: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """``feeds``, and tensors of these names in a run."""
    with suppress(ModelError, LimitError):
        found = try_run(Session(model, outputs=names, optimize=False), feeds) if names else {}
        return {**feeds, **{name: x for name, x in found.items() if isinstance(x, np.ndarray)}}
    return dict(feeds)


def _entries(node: onnx.NodeProto, values: Mapping[str, Array], known: Known) -> list[_Entry] | None:
    """What the inputs of the graph inside a node are in the first pass; None where one is not known."""
    names = {"If": [], "Loop": list(node.input[2:]), "Scan": list(node.input)}[node.op_type]
    if any(name not in values for name in names):
        return None
    entries = [(values[name], _fixed(known, name) or (None,) * values[name].ndim) for name in names]
    if node.op_type == "Loop":
        return [(np.array(0), ()), (np.array(True), ()), *entries]
    count = sliced(node)
    for number, axis in enumerate(scan_axes(node), len(entries) - count):
        value, sizes = entries[number]
        if not value.ndim or not value.shape[axis]:
            return None
        axis %= value.ndim
        entries[number] = value.take(0, axis), (*sizes[:axis], *sizes[axis + 1 :])
    return entries


def sliced(node: onnx.NodeProto | gs.Node) -> int:
    """How many inputs a Scan takes apart, its last ones; 0 of other operators."""
    count = attribute(node, "num_scan_inputs", 0)
    return count if isinstance(count, int) else 0


def scan_axes(node: onnx.NodeProto | gs.Node) -> list[int]:
    """The axes along which it takes them apart."""
    return numbers(node, "scan_input_axes", [0] * sliced(node))


def _body(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    body: onnx.GraphProto,
    entries: Sequence[_Entry],
    values: Mapping[str, Array],
    known: Known,
) -> _Body:
    own = dict(zip([value.name for value in body.input], entries, strict=True))
    captured = {name for inner in body.node for name in reads(inner)}
    read = {name: (x, _fixed(known, name) or (None,) * x.ndim) for name, x in values.items() if name in captured}
    inner = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    inner.graph.CopyFrom(body)
    del inner.graph.input[:], inner.graph.value_info[:], inner.graph.output[:]
    inner.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in captured)
    for name, (x, _) in {**read, **own}.items():
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        inner.graph.input.append(helper.make_tensor_value_info(name, kind, None))
    inner.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in body.output)
    first = 2 if node.op_type == "Loop" else 0
    ends = body.output[1 if first else 0 :]
    pairs = zip(body.input[first : len(entries) - sliced(node)], ends, strict=False)
    feeds, sizes = ({name: each[i] for name, each in {**read, **own}.items()} for i in (0, 1))
    return _Body(inner, feeds, sizes, [(state.name, made.name) for state, made in pairs])


def _fixed(known: Known, name: str) -> _Fixed:
    return tuple(dim.value for dim in known.dims.get(name, ()))


def _proven(body: _Body) -> Known:
    """What is proven of the tensors of a body; sizes of states that do not come out as they went in are open."""
    fixed = dict(body.fixed)
    while True:
        for value in body.model.graph.input:
            value.type.CopyFrom(helper.make_tensor_type_proto(value.type.tensor_type.elem_type, fixed[value.name]))
        known = propagate(body.model, {})
        before = dict(fixed)
        for state, made in body.states:
            after = _fixed(known, made)
            fixed[state] = tuple(n if after[axis : axis + 1] == (n,) else None for axis, n in enumerate(fixed[state]))
        if fixed == before:
            return known
