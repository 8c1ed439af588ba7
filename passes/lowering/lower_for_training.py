"""Write operators that onnxruntime-training cannot differentiate in terms of those that it can.

    Elu(x) = relu(x) + a (exp(min(x, 0)) - 1)         no exp of a large number, whose gradient would be inf * 0
    Softplus(x) = relu(x) + log(1 + exp(-|x|))
    BatchNormalization(x) = k x + (b - m k), k = g / sqrt(v + e)                                   at inference
    Layer-, Instance-, Group-, RMSNormalization(x) = g (x - mean x) / sqrt(var x + e) + b

and so on: the same function in float32 models, one rule per operator. LayerNormalization and Dropout have gradients
there, but need outputs that models do not declare, and Dropout's is that of training. Weights keep their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from hqp_onnx.arrays import Array
from hqp_onnx.errors import GradientError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.shapes import Shapes, probe
from hqp_onnx.graphs.unique_names import UniqueNames

__all__ = ["LOWERED", "lower_for_training"]

Operand: TypeAlias = gs.Tensor | Array | float | Sequence[int]
Rule = Callable[["_Writer", gs.Node, gs.Tensor], gs.Variable]
_RULES: dict[str, Rule] = {}


def lower_for_training(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` without the operators in ``LOWERED``.

    Raises:
        GradientError: a node pads automatically, which onnxruntime-training differentiates wrongly, or a size that a
            rule needs depends on the batch or the input.
    """
    copy = onnx.ModelProto()  # onnx-graphsurgeon names tensors inside the model that it imports
    copy.CopyFrom(model)
    graph, lowered = to_graph(copy), False
    writer = _Writer(graph)
    for node in list(graph.nodes):
        if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
            raise GradientError(f"{node.op} node '{node.name}' has auto_pad: canonicalise the model, for explicit pads")
        if operator(node) not in _RULES or node.attrs.get("training_mode", 0):
            continue
        writer.replace(node, _RULES[node.op](writer, node, node.inputs[0]))
        lowered = True
    return to_proto(graph.cleanup().toposort()) if lowered else model


class _Writer:
    """Appends nodes to ``graph``."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._original = graph.copy()
        self._shapes: Shapes | None = None
        self._names = UniqueNames(graph)
        self._count = 0

    def op(self, kind: str, *inputs: Operand, **attributes: object) -> gs.Variable:
        """A new node's only output; numbers become float32 constants, sequences int64."""
        output = gs.Variable(self._name(kind), dtype=None)
        operands = [self._tensor(x) for x in inputs]
        self._graph.nodes.append(gs.Node(kind, self._names.node(output.name), dict(attributes), operands, [output]))
        return output

    def reduce(self, kind: str, x: gs.Tensor, axes: Sequence[int]) -> gs.Variable:
        """A reduction that keeps its axes, in the spelling of the model's opset."""
        if kind == "ReduceSum" or self._graph.opset >= 18:
            return self.op(kind, x, list(axes), keepdims=1)
        return self.op(kind, x, axes=list(axes), keepdims=1)

    def reshape_like(self, x: gs.Tensor, like: gs.Tensor) -> gs.Variable:
        """``x`` in the shape of ``like``."""
        return self.op("Reshape", x, self.op("Shape", like))

    def sizes(self, node: gs.Node, x: gs.Tensor, first: int) -> tuple[int, ...]:
        """Sizes of x from axis ``first`` on."""
        rank, shapes = self.rank(node, x), self._probed()
        if any(shapes.varying(x.name)[first:]):
            raise GradientError(f"{node.op} node '{node.name}' reads '{x.name}' of varying size: fix the input's size")
        return shapes.sizes[x.name][first:rank]

    def rank(self, node: gs.Node, x: gs.Tensor) -> int:
        """Axes of x."""
        if x.name not in self._probed().sizes:
            raise GradientError(f"{node.op} node '{node.name}' reads '{x.name}' of unknown shape: fix the input's size")
        return len(self._probed().sizes[x.name])

    def _probed(self) -> Shapes:
        self._shapes = self._shapes or probe(self._original)
        return self._shapes

    def replace(self, node: gs.Node, result: gs.Variable) -> None:
        """Let ``result`` take the place of the first output of ``node``."""
        output = node.outputs[0]
        node.outputs.clear()
        result.inputs[0].outputs = [output]

    @property
    def opset(self) -> int:
        """Of the graph."""
        return int(self._graph.opset)

    def _tensor(self, x: Operand) -> gs.Tensor:
        if isinstance(x, gs.Tensor):
            return x
        kind = np.float32 if isinstance(x, (float, np.ndarray)) else np.int64
        return gs.Constant(self._name("constant"), np.asarray(x, kind))

    def _name(self, kind: str) -> str:
        self._count += 1
        return self._names.tensor(f"lowered_{kind}_{self._count - 1}")


def _rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        assert _RULES.keys().isdisjoint(ops)
        _RULES.update(dict.fromkeys(ops, rule))
        return rule

    return register


def _number(node: gs.Node, name: str, default: float) -> float:
    return float(node.attrs.get(name, default))


@_rule("Dropout")
def _dropout(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Identity", x)


@_rule("CastLike")
def _cast_like(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    if node.inputs[1].dtype is None:
        raise GradientError(f"CastLike node '{node.name}' has no known type: run onnx.shape_inference on the model")
    return w.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(node.inputs[1].dtype)))


@_rule("HardSigmoid")
def _hard_sigmoid(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    line = w.op("Add", w.op("Mul", x, _number(node, "alpha", 0.2)), _number(node, "beta", 0.5))
    return w.op("Clip", line, 0.0, 1.0)


@_rule("HardSwish")
def _hard_swish(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Mul", x, w.op("Clip", w.op("Add", w.op("Mul", x, 1 / 6), 0.5), 0.0, 1.0))


@_rule("Elu", "Celu", "Selu")
def _elu(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    alpha = _number(node, "alpha", 1.6732632423543772 if node.op == "Selu" else 1.0)
    below = w.op("Min", x, 0.0)
    power = w.op("Exp", w.op("Mul", below, 1 / alpha) if node.op == "Celu" else below)
    y = w.op("Add", w.op("Relu", x), w.op("Mul", w.op("Sub", power, 1.0), alpha))
    return w.op("Mul", y, _number(node, "gamma", 1.0507009873554805)) if node.op == "Selu" else y


@_rule("PRelu")
def _prelu(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Sub", w.op("Relu", x), w.op("Mul", node.inputs[1], w.op("Relu", w.op("Neg", x))))


@_rule("ThresholdedRelu")
def _thresholded_relu(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Where", w.op("Greater", x, _number(node, "alpha", 1.0)), x, 0.0)


@_rule("Softplus")
def _softplus(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Add", w.op("Relu", x), w.op("Log", w.op("Add", w.op("Exp", w.op("Neg", w.op("Abs", x))), 1.0)))


@_rule("Mish")
def _mish(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Mul", x, w.op("Tanh", _softplus(w, node, x)))


@_rule("Swish")
def _swish(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Mul", x, w.op("Sigmoid", w.op("Mul", x, _number(node, "alpha", 1.0))))


@_rule("Softsign")
def _softsign(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("Div", x, w.op("Add", w.op("Abs", x), 1.0))


@_rule("Sum", "Mean")
def _sum(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    total = w.op("Identity", x)
    for other in node.inputs[1:]:
        total = w.op("Add", total, other)
    return w.op("Mul", total, 1 / len(node.inputs)) if node.op == "Mean" else total


@_rule("GlobalMaxPool")
def _global_max_pool(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    return w.op("MaxPool", x, kernel_shape=list(w.sizes(node, x, 2)))


@_rule("BatchNormalization")
def _batch_normalization(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:5]):
        raise GradientError(f"BatchNormalization node '{node.name}' has parameters that are not constant")
    shape = [-1, *[1] * (w.rank(node, x) - 2)]
    gamma, beta, mean, variance = (np.asarray(t.values, np.float64).reshape(shape) for t in node.inputs[1:5])
    scale = gamma / np.sqrt(variance + _number(node, "epsilon", 1e-5))
    return w.op("Add", w.op("Mul", x, scale), beta - mean * scale)


@_rule("InstanceNormalization")
def _instance_normalization(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    y = _normalized(w, w.op("Reshape", x, [0, 0, -1]), [2], _number(node, "epsilon", 1e-5))
    return w.reshape_like(_affine(w, y, *node.inputs[1:3]), x)


@_rule("GroupNormalization")
def _group_normalization(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    """Scale and bias are per group before opset 21, then per channel."""
    groups = int(node.attrs["num_groups"])
    y = _normalized(w, w.op("Reshape", x, [0, groups, -1]), [2], _number(node, "epsilon", 1e-5))
    if w.opset >= 21:
        y = w.op("Reshape", y, [0, w.sizes(node, x, 1)[0], -1])
    return w.reshape_like(_affine(w, y, *node.inputs[1:3]), x)


@_rule("LayerNormalization", "RMSNormalization")
def _layer_normalization(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    axis = int(node.attrs.get("axis", -1))
    axes = list(range(axis - w.rank(node, x) if axis >= 0 else axis, 0))
    y = _normalized(w, x, axes, _number(node, "epsilon", 1e-5), centred=node.op == "LayerNormalization")
    y = w.op("Mul", y, node.inputs[1])
    return w.op("Add", y, node.inputs[2]) if len(node.inputs) > 2 else y


@_rule("DepthToSpace", "SpaceToDepth")
def _blocks(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    b = int(node.attrs["blocksize"])
    channels, height, width = w.sizes(node, x, 1)
    if node.op == "SpaceToDepth":
        split = w.op("Reshape", x, [0, channels, height // b, b, width // b, b])
        moved = w.op("Transpose", split, perm=[0, 3, 5, 1, 2, 4])
        return w.op("Reshape", moved, [0, channels * b * b, height // b, width // b])
    columns = node.attrs.get("mode", "DCR") == "CRD"
    shape = [channels // b**2, b, b] if columns else [b, b, channels // b**2]
    split = w.op("Reshape", x, [0, *shape, height, width])
    moved = w.op("Transpose", split, perm=[0, 1, 4, 2, 5, 3] if columns else [0, 3, 4, 1, 5, 2])
    return w.op("Reshape", moved, [0, channels // b**2, height * b, width * b])


@_rule("ReduceSumSquare", "ReduceL1")
def _norm(w: _Writer, node: gs.Node, x: gs.Tensor) -> gs.Variable:
    inner = w.op("Mul", x, x) if node.op == "ReduceSumSquare" else w.op("Abs", x)
    attributes = {name: value for name, value in node.attrs.items() if name != "axes"}
    if "axes" in node.attrs:
        return w.op("ReduceSum", inner, list(node.attrs["axes"]), **attributes)
    return w.op("ReduceSum", inner, *node.inputs[1:], **attributes)


def _normalized(w: _Writer, x: gs.Tensor, axes: list[int], epsilon: float, centred: bool = True) -> gs.Variable:
    d = w.op("Sub", x, w.reduce("ReduceMean", x, axes)) if centred else x
    variance = w.reduce("ReduceMean", w.op("Mul", d, d), axes)
    return w.op("Div", d, w.op("Sqrt", w.op("Add", variance, epsilon)))


def _affine(w: _Writer, y: gs.Tensor, scale: gs.Tensor, bias: gs.Tensor) -> gs.Variable:
    """``scale`` and ``bias`` [C] along axis 1 of y [N, C, pixels]."""
    return w.op("Add", w.op("Mul", y, w.op("Unsqueeze", scale, [1])), w.op("Unsqueeze", bias, [1]))


LOWERED = tuple(sorted(_RULES))
