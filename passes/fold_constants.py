"""Compute what depends on constants alone, once and for all.

A node whose inputs are all constant becomes constants, but for what would make the file larger: results that hold more
elements than the initializers they replace (ConstantOfShape, Expand, Tile, Range, a look-up that repeats rows) stay
computed, unless they are small and other folding saved room for them. Of a weight stored in fewer bits (Cast, scales),
floats are what channels and integers are made of: its elements count, not its bytes. Nodes that do the same to the same
large constants become one, and Identity of a large constant becomes that constant. What draws random numbers, holds
graphs or quantizes stays.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.counts import counted
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.draws import draws
from hqp_onnx.graphs.homes import find_homes
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.origin import CarryingGraph, homes_of
from hqp_onnx.graphs.written_bytes import graph_bytes, node_bytes
from hqp_onnx.passes.base import PassResult
from hqp_onnx.runtimes.session import Session, try_run

__all__ = ["computed_from_constants", "fold_constants"]

_SMALL, _TINY = 4096, 256  # bytes of a result that may be added where there is room, and that always is
_SHARE, _FLOOR = 64, 1024  # small copies of weights may add one part in so many to the file, and so many bytes
_KEPT = frozenset(["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"])
_VALUES = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def fold_constants(graph: gs.Graph) -> PassResult:
    """``graph`` without nodes over constants, as a copy; its nodes are in topological order."""
    graph = graph.copy()
    count = len(graph.nodes)
    for inner in [graph, *graph.subgraphs(recursive=True)]:
        _lower(inner)
    fixed = _fixed(graph)
    results = _evaluated(graph, fixed)
    _merge(graph, fixed, results)
    _replace(graph, fixed, results)
    graph.cleanup().toposort()
    folded = count - len(graph.nodes)
    return PassResult(graph, bool(folded), (f"{counted(folded, 'node')} over constants folded",) if folded else ())


def computed_from_constants(graph: gs.Graph) -> frozenset[str]:
    """Tensors that depend on constants alone; those that ``fold_constants`` left, it found to be too large."""
    return frozenset(t.name for node in _fixed(graph) for t in node.outputs)


def _lower(graph: gs.Graph) -> None:
    """Constant nodes become initializers."""
    for node in [node for node in graph.nodes if node.op == "Constant" and len(node.attrs) == 1]:
        ((name, stated),) = node.attrs.items()
        if name in _VALUES:
            stated = np.asarray(stated, _VALUES[name])
        elif name == "value":
            stated = stated._values  # lazily loaded: it is not copied
        else:
            continue
        _become(node.outputs[0], stated)


def _become(tensor: gs.Variable, values: Array) -> None:
    tensor.to_constant(values)
    tensor.inputs.clear()


def _fixed(graph: gs.Graph) -> list[gs.Node]:
    """Nodes whose results depend on constants alone."""
    made: set[str] = set()
    found = []
    for node in graph.nodes:
        reads = [t for t in node.inputs if t.name]
        if node.domain not in (None, "", "ai.onnx") or node.op in _KEPT or list(node.subgraphs()):
            continue
        if not node.outputs or draws(node.op, [t.name for t in node.inputs]) or node.op == "Constant":
            continue
        if all(isinstance(t, gs.Constant) or t.name in made for t in reads):
            found.append(node)
            made.update(t.name for t in node.outputs)
    return found


def _merge(graph: gs.Graph, fixed: list[gs.Node], results: Mapping[str, Array]) -> None:
    """Let readers of equal nodes read the first, and those of Identity its input; small results are copied."""
    exposed = _exposed(graph)
    first: dict[str, gs.Node] = {}
    for node in list(fixed):
        names = [t.name for t in node.outputs]
        if not exposed.isdisjoint(names) or sum(results[n].nbytes for n in names if n in results) <= _SMALL:
            continue
        key = str([node.op, sorted(node.attrs.items(), key=str), [t.name for t in node.inputs]])
        tensors = any(isinstance(value, gs.Tensor) for value in node.attrs.values())
        same = node if tensors else first.setdefault(key, node)
        sources = node.inputs if node.op == "Identity" else same.outputs
        if same is node and node.op != "Identity":
            continue
        for old, new in zip(node.outputs, sources, strict=True):
            for reader in list(old.outputs):
                for index in [i for i, t in enumerate(reader.inputs) if t is old]:
                    reader.inputs[index] = new
        fixed.remove(node)
        node.inputs.clear()
        node.outputs.clear()


def _exposed(graph: gs.Graph) -> set[str]:
    """Results of the graph and of graphs inside its nodes."""
    return {t.name for inner in [graph, *graph.subgraphs(recursive=True)] for t in inner.outputs}


def _evaluated(graph: gs.Graph, fixed: list[gs.Node]) -> dict[str, Array]:
    """Results of ``fixed``; none where they cannot be computed."""
    outputs = [t for node in fixed for t in node.outputs if t.name]
    if not outputs:
        return {}
    part = gs.Graph(fixed, [], outputs, opset=graph.opset, import_domains=graph.import_domains)
    part.ir_version = graph.ir_version
    names = [t.name for t in outputs]
    try:
        results = try_run(Session(to_proto(part), outputs=names, optimize=False), {})
    except ModelError:
        return {}
    return {name: value for name, value in results.items() if isinstance(value, np.ndarray)}


def _replace(graph: gs.Graph, fixed: list[gs.Node], results: Mapping[str, Array]) -> None:
    """Make constants of results that other nodes read; where one is not worth it, of what it is computed from."""
    inside = {id(node) for node in fixed}
    exposed = _exposed(graph)
    needed = {
        t.name
        for node in fixed
        for t in node.outputs
        if t.name in exposed or any(id(reader) not in inside for reader in t.outputs)
    }
    spare = {name: t.values.size for name, t in _initializers(fixed).items() if _spare(t, inside, exposed)}
    kept: set[int] = set()
    homes, allowed = find_homes(fixed, homes_of(graph)), _allowed(graph, inside)
    copies = dict.fromkeys(homes, _slack(graph))
    while refused := _refused(
        [node for node in fixed if id(node) not in kept], needed, dict(spare), results, allowed, copies
    ):
        kept.update(map(id, refused))
        allowed -= sum(map(node_bytes, refused))
        needed.update(t.name for node in refused for t in node.inputs)
    for node in (node for node in fixed if id(node) not in kept):
        for tensor in [t for t in node.outputs if t.name in needed]:
            if tensor.name in homes and isinstance(graph, CarryingGraph):
                graph.origin.homes[tensor.name] = homes[tensor.name]
            _become(tensor, results[tensor.name])


def _refused(
    nodes: list[gs.Node],
    needed: Collection[str],
    spare: dict[str, int],
    results: Mapping[str, Array],
    allowed: int,
    copies: Mapping[str, int],
) -> list[gs.Node]:
    """Nodes whose ``needed`` results would make the file larger: a tensor gives its room away once.

    Small results may do so by ``allowed`` bytes in all, and by as many more as ``copies`` says of weights that are
    moved: two nodes that read one weight make channels of both one.
    """
    sources: dict[str, frozenset[str]] = {}
    refused = []
    for node in nodes:
        own = frozenset(t.name for t in node.inputs if isinstance(t, gs.Constant))
        reached = own.union(*(sources.get(t.name, frozenset()) for t in node.inputs))
        sources.update({t.name: frozenset([t.name]) if t.name in needed else reached for t in node.outputs})
        if not any(t.name in needed for t in node.outputs):
            continue
        found = [results.get(t.name) for t in node.outputs if t.name]
        values = [value for value in found if value is not None]
        paid = reached & spare.keys()
        room = sum(spare[name] for name in paid)
        size = sum(value.nbytes for value in values)
        most = _SMALL if allowed + copies.get(node.outputs[0].name, 0) >= size else _TINY
        small = node.op != "Transpose" and size <= most
        if len(values) < len(found) or not (small or sum(value.size for value in values) <= room):
            refused.append(node)
        elif size > _SMALL or not small:
            for name in paid:
                del spare[name]
        elif size > _TINY:
            allowed -= size
    return refused


def _allowed(graph: gs.Graph, dropped: Collection[int]) -> int:
    """Bytes that small results may still add to the file: what others save, ``dropped`` nodes included."""
    if not isinstance(graph, CarryingGraph):
        return sys.maxsize
    return graph.origin.bytes - graph_bytes(graph, dropped)


def _slack(graph: gs.Graph) -> int:
    """Bytes that small copies of weights may add to the file."""
    return graph.origin.bytes // _SHARE + _FLOOR if isinstance(graph, CarryingGraph) else 0


def _initializers(fixed: list[gs.Node]) -> dict[str, gs.Constant]:
    return {t.name: t for node in fixed for t in node.inputs if isinstance(t, gs.Constant)}


def _spare(tensor: gs.Constant, inside: Collection[int], exposed: Collection[str]) -> bool:
    """Whether nothing else reads an initializer."""
    return tensor.name not in exposed and all(id(reader) in inside for reader in tensor.outputs)
