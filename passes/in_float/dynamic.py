"""Operators whose activations are quantized as they come: each is that of the activations and a weight in float."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.passes.in_float.parts import Rewrite, Steps, Work, input_of, name_of


def _source(tensor: gs.Tensor) -> gs.Tensor | None:
    """What DynamicQuantizeLinear made ``tensor`` of."""
    maker = _maker(tensor, "DynamicQuantizeLinear")
    return None if maker is None else maker.inputs[0]


def _maker(tensor: gs.Tensor | None, op: str) -> gs.Node | None:
    return tensor.inputs[0] if tensor is not None and tensor.inputs and tensor.inputs[0].op == op else None


def _only_reader(tensor: gs.Tensor, op: str) -> gs.Node | None:
    return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.outputs[0].op == op else None


def _integer(op: str, axis: int) -> Rewrite:
    """MatMulInteger, ConvInteger: sums of integers, which Cast and a Mul by both scales make numbers."""

    def rewrite(work: Work, node: gs.Node) -> None:
        data, weight = _source(node.inputs[0]), node.inputs[1]
        cast = _only_reader(node.outputs[0], "Cast")
        product = None if cast is None else _only_reader(cast.outputs[0], "Mul")
        if data is None or cast is None or product is None or not isinstance(weight, gs.Constant):
            return
        factor = next((t for t in product.inputs if t is not cast.outputs[0]), None)
        both = _maker(factor, "Mul")
        scale = None if both is None else next((t for t in both.inputs if isinstance(t, gs.Constant)), None)
        if both is None or scale is None or not any(_source(t) is data for t in both.inputs):
            return
        steps = Steps(gs.Constant(scale.name, scale.values.reshape(-1)), input_of(node, 3), axis)
        columns = scale.values.size == weight.shape[axis] and (op != "MatMul" or scale.shape[-1] == scale.values.size)
        if (scale.values.size == 1 or columns) and steps.known:
            values = work.floats(weight, steps)
            assert values is not None
            output, product.outputs = product.outputs[0], []
            work.op(op, [data, values], name_of(node), output, **node.attrs)

    return rewrite


def _product(work: Work, node: gs.Node) -> None:
    """DynamicQuantizeMatMul: activations in float; scale, zero-point and bias behind the weight."""
    _put(work, node, node.inputs[0], Steps(node.inputs[2], input_of(node, 3), -1), input_of(node, 4))


def _product_of_integers(work: Work, node: gs.Node) -> None:
    """MatMulIntegerToFloat: scales and zero-points of both, and a bias."""
    _put(work, node, _source(node.inputs[0]), Steps(node.inputs[3], input_of(node, 5), -1), input_of(node, 6))


def _put(work: Work, node: gs.Node, data: gs.Tensor | None, steps: Steps, bias: gs.Tensor | None) -> None:
    weight = node.inputs[1]
    values = work.floats(weight, steps) if isinstance(weight, gs.Constant) else None
    if data is None or values is None:
        return
    output, wish = node.outputs[0], name_of(node)
    node.outputs = []
    if bias is None:
        work.op("MatMul", [data, values], wish, output)
    else:
        work.op("Add", [work.op("MatMul", [data, values], f"{wish}/product"), bias], wish, output)


def _lstm(work: Work, node: gs.Node) -> None:
    """DynamicQuantizeLSTM: W and R are [directions, inputs, 4 hidden], with scales of a direction or of each column."""
    weights = []
    for index, at in ((1, 8), (2, 10)):
        weight, scale, zero = node.inputs[index], node.inputs[at], node.inputs[at + 1]
        if not all(isinstance(t, gs.Constant) for t in (weight, scale, zero)):
            return
        lines = [x.values.reshape(len(weight.values), 1, -1).astype(np.float32) for x in (scale, zero)]
        values = (weight.values.astype(np.float32) - lines[1]) * lines[0]
        weights.append(work.numbers(weight, values.transpose(0, 2, 1), (0, 2, 1)))
    outputs, inputs = node.outputs, [node.inputs[0], *weights, *node.inputs[3:8]]
    while inputs[-1].is_empty():
        inputs.pop()
    work.graph.nodes.append(gs.Node("LSTM", work.names.node(name_of(node)), dict(node.attrs), inputs, list(outputs)))
    node.outputs = []


def _attention(work: Work, node: gs.Node) -> None:
    """QAttention: Attention of float activations and a float weight, with a scale of all or of each column."""
    data, weight = _source(node.inputs[0]), node.inputs[1]
    values = work.floats(weight, Steps(node.inputs[4], input_of(node, 7), -1))
    if not isinstance(weight, gs.Constant) or values is None:
        return
    if data is None:
        data = work.floats(node.inputs[0], Steps(node.inputs[3], input_of(node, 6)))
    inputs = [data, values, node.inputs[2], *(input_of(node, i) or gs.Variable.empty() for i in (5, 8))]
    while inputs[-1].is_empty():
        inputs.pop()
    outputs, name, attributes = list(node.outputs), work.names.node(name_of(node)), dict(node.attrs)
    node.outputs = []
    work.graph.nodes.append(gs.Node("Attention", name, attributes, inputs, outputs, domain=node.domain))


DYNAMIC: dict[str, Rewrite] = {
    "MatMulInteger": _integer("MatMul", -1),
    "ConvInteger": _integer("Conv", 0),
    "DynamicQuantizeMatMul": _product,
    "MatMulIntegerToFloat": _product_of_integers,
    "DynamicQuantizeLSTM": _lstm,
    "QAttention": _attention,
}
