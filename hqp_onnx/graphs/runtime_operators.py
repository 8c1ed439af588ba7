"""Operators that onnxruntime has under the standard domain, in opsets in which ONNX does not know them.

Its optimizer writes such files. They are set aside, in a domain that onnx passes over, while onnx checks or converts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from hqp_onnx.graphs.nodes import opset

_STANDARD = ("", "ai.onnx")
_ASIDE = "onnxruntime.standard"
_FROM = {"SimplifiedLayerNormalization": 1 << 30, "LayerNormalization": 17}
"""From which opset on ONNX has them, too."""


@contextmanager
def set_aside(model: onnx.ModelProto) -> Iterator[None]:
    """Set such nodes of ``model`` aside for a while."""
    put_aside(model)
    try:
        yield
    finally:
        put_back(model)


def put_aside(model: onnx.ModelProto) -> None:
    """Give such nodes of the graph itself another domain."""
    ours = [n for n in model.graph.node if n.domain in _STANDARD and opset(model) < _FROM.get(n.op_type, 0)]
    for node in ours:
        node.domain = _ASIDE
    if ours:
        model.opset_import.append(onnx.helper.make_opsetid(_ASIDE, 1))


def put_back(model: onnx.ModelProto) -> None:
    """Undo ``put_aside``."""
    for node in model.graph.node:
        if node.domain == _ASIDE:
            node.domain = ""
    kept = [entry for entry in model.opset_import if entry.domain != _ASIDE]
    if len(kept) < len(model.opset_import):
        del model.opset_import[:]
        model.opset_import.extend(kept)
