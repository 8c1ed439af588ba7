"""Roughly how many bytes of its file a graph takes, without writing it.

Strings are a byte of tag and one of length longer than they are, a message is as much around what it holds; names of
nodes count as they are written, also where the file that was read had none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx_graphsurgeon as gs

_AROUND = 3  # bytes of a message: a tag, and the length of what it holds
_STRING = 2


def graph_bytes(graph: gs.Graph, without: Collection[int] = ()) -> int:
    """Bytes of the nodes and constants of ``graph``; of nodes of the identities ``without``, constants alone."""
    return _graph_bytes(graph, without, set())


def node_bytes(node: gs.Node) -> int:
    """Bytes of a node, its attributes included, but not of the constants that it reads."""
    return _node_bytes(node, set())


def _graph_bytes(graph: gs.Graph, without: Collection[int], seen: set[str]) -> int:
    total = 0
    for node in graph.nodes:
        total += 0 if id(node) in without else _node_bytes(node, seen)
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and tensor.name not in seen:
                seen.add(tensor.name)
                total += _constant_bytes(tensor)
    return total


def _node_bytes(node: gs.Node, seen: set[str]) -> int:
    strings = [node.op, node.name, *(t.name for t in (*node.inputs, *node.outputs))]
    named = ((name, value) for name, value in node.attrs.items() if value is not None)
    return (
        _AROUND
        + sum(len(text) + _STRING for text in strings if text is not None)
        + sum(_AROUND + _STRING + len(name) + _STRING + _value_bytes(value, seen) for name, value in named)
    )


def _value_bytes(value: Any, seen: set[str]) -> int:
    if isinstance(value, gs.Graph):
        return _graph_bytes(value, (), seen)
    if isinstance(value, gs.Constant):
        return _constant_bytes(value)
    if isinstance(value, (str, bytes)):
        return len(value) + _STRING
    if isinstance(value, (list, tuple)):
        return sum(_value_bytes(entry, seen) for entry in value)
    return 5 if isinstance(value, float) else 2


def _constant_bytes(tensor: gs.Constant) -> int:
    return _AROUND + _STRING * (2 + len(tensor.shape)) + _STRING + len(tensor.name) + int(tensor.values.nbytes)
