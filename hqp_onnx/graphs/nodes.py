"""What a node says: its operator, its attributes, what it reads; and the opset of a model.

Operators have ONNX's names: ``Conv`` in the standard domain, ``com.acme::Foo`` in any other. Nodes are NodeProtos or
onnx-graphsurgeon's, except where it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs

Node: TypeAlias = onnx.NodeProto | gs.Node
_STANDARD = ("", "ai.onnx", None)


def operator(node: Node) -> str:
    """``Op``, or ``domain::Op`` where the domain is not the standard one."""
    name: str = node.op_type if isinstance(node, onnx.NodeProto) else node.op
    return name if node.domain in _STANDARD else f"{node.domain}::{name}"


def attribute(node: Node, name: str, default: object = None) -> object:
    """Value of an attribute; text as str."""
    if not isinstance(node, onnx.NodeProto):
        return node.attrs.get(name, default)
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def number(node: Node, name: str, default: float) -> float:
    """A float or int attribute."""
    value = attribute(node, name, default)
    assert isinstance(value, (int, float))
    return value


def numbers(node: Node, name: str, default: Sequence[int]) -> list[int]:
    """A list attribute."""
    value = attribute(node, name, default)
    assert isinstance(value, Sequence)
    return [int(n) for n in value]


def reads(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node, then the names that its subgraphs read."""
    graphs = [graph for entry in node.attribute for graph in (*entry.graphs, entry.g)]
    return [*node.input, *(name for graph in graphs for inner in graph.node for name in reads(inner))]


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators; 0 if the model imports none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in _STANDARD), 0)
