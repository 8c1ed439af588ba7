"""Let a convolution pad its own input.

    Conv(Pad(x, 0 around the positions, p), pads = q)  ->  Conv(x, pads = p + q)

Exporters write a Pad where padding depends on the size of the image (TensorFlow's SAME with a stride). Between a
convolution and the next it costs a copy of the activation, and keeps integer kernels from meeting.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.passes.base import PassResult

__all__ = ["fold_pads"]


def fold_pads(graph: gs.Graph) -> PassResult:
    """``graph`` without constant Pads of zeros that convolutions read, as a copy; explicit ``pads`` only."""
    graph = graph.copy()
    folded = 0
    for node in graph.nodes:
        if node.op != "Conv" or node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
            continue
        if pads := _padding(node.inputs[0]):
            own = node.attrs.get("pads") or [0] * len(pads)
            node.attrs["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
            node.inputs[0] = node.inputs[0].inputs[0].inputs[0]
            folded += 1
    graph.cleanup().toposort()
    return PassResult(graph, bool(folded), (f"{folded} Pads became part of their convolutions",) if folded else ())


def _padding(tensor: gs.Tensor) -> list[int]:
    """Zeros that a Pad adds before and after each position axis of ``tensor``; empty for any other Pad."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op != "Pad" or node.attrs.get("mode", "constant") != "constant":
        return []
    pads, value, axes = [*node.inputs[1:], *[None] * 3][:3]
    if not isinstance(pads, gs.Constant) or not (axes is None or axes.is_empty()):
        return []
    if not (value is None or value.is_empty() or (isinstance(value, gs.Constant) and not value.values.any())):
        return []
    sides = pads.values.reshape(2, -1)
    if (sides < 0).any() or sides[:, :2].any():
        return []
    padding: list[int] = np.ravel(sides[:, 2:]).tolist()
    return padding
