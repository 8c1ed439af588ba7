"""Conv(Pad(x)) = Conv(x) with wider pads, where Pad adds zeros along spatial axes.

Exporters write "same" padding as a Pad node. Inside the Conv it is free; outside, the forward pass, the gradient and
the weight's norm would each copy the activation once more.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper

from hqp_onnx.graphs.nodes import attribute, reads

__all__ = ["absorb_pads"]


def absorb_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with every Conv whose input is padded with zeros padding it itself, and without unread Pad nodes."""
    if all(node.op_type != "Pad" for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    absorbed = set()
    for node in graph.node:
        widths = _widths(pads[node.input[0]], constants) if node.op_type == "Conv" and node.input[0] in pads else None
        if widths is None or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            continue
        own = attribute(node, "pads", [0] * len(widths))
        assert isinstance(own, list)
        kept = [entry for entry in node.attribute if entry.name not in ("pads", "auto_pad")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", [a + b for a, b in zip(own, widths, strict=True)])])
        absorbed.add(node.input[0])
        node.input[0] = pads[node.input[0]].input[0]
    read = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    for name in absorbed - read:
        graph.node.remove(pads[name])
    return copy if absorbed else model


def _widths(pad: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> list[int] | None:
    """Zeros before and after each spatial axis, as a Conv states them; None if the node does anything else."""
    _, widths, value, axes = [*pad.input, "", ""][:4]
    if attribute(pad, "mode", "constant") != "constant" or axes or not {widths, value} <= {*constants, ""}:
        return None
    if value and numpy_helper.to_array(constants[value]).any():
        return None
    pairs = numpy_helper.to_array(constants[widths]).reshape(2, -1)
    if (pairs < 0).any() or pairs[:, :2].any():
        return None
    return [int(n) for n in pairs[:, 2:].ravel()]
