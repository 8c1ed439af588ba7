"""Rules of the elementwise functions of one variable: dL/dx = g f'(x)."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx

from hqp_onnx.gradients.tape import Grads, Tape, rule
from hqp_onnx.graphs.nodes import attribute, number

Derivative = Callable[[Tape, onnx.NodeProto, str, str], str]


def unary(*ops: str) -> Callable[[Derivative], Derivative]:
    """Register f(tape, node, x, y) -> name of dy/dx, for operators of one activation input."""

    def register(derivative: Derivative) -> Derivative:
        def apply(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
            return t.mul(str(g[0]), derivative(t, n, n.input[0], n.output[0]))

        rule(*ops)(apply)
        return derivative

    return register


@rule("Neg")
def neg(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """d(-x)."""
    return t.op("Neg", str(g[0]))


@unary("Relu")
def relu(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """Read from y, so that onnxruntime may fuse the node into its producer."""
    return t.compare("Greater", y, 0, y)


@unary("ThresholdedRelu")
def thresholded(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= x > alpha."""
    return t.compare("Greater", x, number(n, "alpha", 1.0), x)


@unary("LeakyRelu")
def leaky_relu(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """1 above zero, alpha below; a sum is far faster than Where. y has the sign of x unless alpha < 0."""
    alpha = number(n, "alpha", 0.01)
    above = t.compare("Greater", y if alpha >= 0 else x, 0, x)
    return t.add(t.mul(above, t.scalar(1 - alpha, x)), t.scalar(alpha, x))


@unary("Elu")
def elu(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """Below zero alpha e^x = y + alpha."""
    return _piecewise(t, x, t.scalar(1, x), t.add(y, t.scalar(number(n, "alpha", 1.0), x)))


@unary("Celu")
def celu(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """Below zero e^(x/alpha) = y / alpha + 1."""
    below = t.add(t.op("Div", y, t.scalar(number(n, "alpha", 1.0), x)), t.scalar(1, x))
    return _piecewise(t, x, t.scalar(1, x), below)


@unary("Selu")
def selu(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """Below zero gamma alpha e^x = y + gamma alpha."""
    alpha, gamma = number(n, "alpha", 1.6732632423543772), number(n, "gamma", 1.0507009873554805)
    return _piecewise(t, x, t.scalar(gamma, x), t.add(y, t.scalar(alpha * gamma, x)))


@rule("Clip")
def clip(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """To x strictly between the bounds, as ReLU6 has it, read from y like Relu; else to the bound that was taken.

    The upper bound is taken where it is below the lower one.
    """
    x, low, high = [*n.input, "", ""][:3]
    y, grad = n.output[0], str(g[0])
    if i == 0:
        sides = [t.op(kind, y, name) for kind, name in (("Greater", low), ("Less", high)) if name]
        return t.mul(grad, t.mask(_all(t, *sides), x)) if sides else grad
    if i == 1:
        taken = _all(t, t.op("Less", x, low), *([t.op("Less", low, high)] if high else []))
    else:
        taken = t.op("GreaterOrEqual", t.op("Max", x, low) if low else x, high)
    return t.reduce_to(t.mul(grad, t.mask(taken, x)), t.dims(y), n.input[i])


def _all(t: Tape, *conditions: str) -> str:
    return conditions[0] if len(conditions) == 1 else t.op("And", *conditions)


@unary("Sigmoid")
def sigmoid(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= y (1 - y)."""
    return t.mul(y, t.op("Sub", t.scalar(1, x), y))


@unary("HardSigmoid")
def hard_sigmoid(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """Alpha inside (0, 1)."""
    inside = t.op("And", t.op("Greater", y, t.scalar(0, x)), t.op("Less", y, t.scalar(1, x)))
    return t.mul(t.mask(inside, x), t.scalar(number(n, "alpha", 0.2), x))


@unary("HardSwish")
def hard_swish(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= x h(x), h(x) = clip(x / 6 + 1/2, 0, 1): h + [|x| < 3] x / 6."""
    inside = t.mask(t.op("Less", t.op("Abs", x), t.scalar(3, x)), x)
    slope = t.mul(t.mul(inside, x), t.scalar(1 / 6, x))
    return t.add(t.op("HardSigmoid", x, alpha=1 / 6, beta=0.5), slope)


@unary("Tanh")
def tanh(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """1 - y^2."""
    return t.op("Sub", t.scalar(1, x), t.mul(y, y))


@unary("Softplus")
def softplus(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """sigmoid(x)."""
    return t.op("Sigmoid", x)


@unary("Softsign")
def softsign(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """(1 + |x|)^-2."""
    base = t.op("Reciprocal", t.add(t.op("Abs", x), t.scalar(1, x)))
    return t.mul(base, base)


@unary("Mish")
def mish(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= x u, u = tanh(softplus x): u + x sigmoid(x) (1 - u^2)."""
    u = t.op("Tanh", t.op("Softplus", x))
    return t.add(u, t.mul(t.mul(x, t.op("Sigmoid", x)), t.op("Sub", t.scalar(1, x), t.mul(u, u))))


@unary("Gelu")
def gelu(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= x c(x), c the normal distribution function or its tanh approximation: c + x c'."""
    if attribute(n, "approximate", "none") == "tanh":
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        square = t.mul(x, x)
        inner = t.mul(x, t.add(t.scalar(scale, x), t.mul(t.scalar(scale * cubic, x), square)))
        u = t.op("Tanh", inner)
        slope = t.add(t.scalar(scale / 2, x), t.mul(t.scalar(1.5 * scale * cubic, x), square))
        density = t.mul(t.op("Sub", t.scalar(1, x), t.mul(u, u)), slope)
    else:
        u = t.op("Erf", t.mul(x, t.scalar(math.sqrt(0.5), x)))
        density = t.mul(_bell(t, x, 0.5), t.scalar(1 / math.sqrt(2 * math.pi), x))
    c = t.mul(t.add(u, t.scalar(1, x)), t.scalar(0.5, x))
    return t.add(c, t.mul(x, density))


@unary("Erf")
def erf(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """2 / sqrt(pi) e^(-x^2)."""
    return t.mul(_bell(t, x, 1.0), t.scalar(2 / math.sqrt(math.pi), x))


@unary("Sqrt")
def sqrt(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """1 / (2 y)."""
    return t.op("Div", t.scalar(0.5, x), y)


@unary("Exp")
def exp(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= y."""
    return y


@unary("Log")
def log(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """1 / x."""
    return t.op("Reciprocal", x)


@unary("Abs")
def absolute(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= sign x."""
    return t.op("Sign", x)


@unary("Reciprocal")
def reciprocal(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """-y^2."""
    return t.op("Neg", t.mul(y, y))


@unary("Sin")
def sin(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= cos x."""
    return t.op("Cos", x)


@unary("Cos")
def cos(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """-sin x."""
    return t.op("Neg", t.op("Sin", x))


@unary("Tan")
def tan(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """1 + y^2."""
    return t.add(t.scalar(1, x), t.mul(y, y))


@unary("Sinh")
def sinh(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= cosh x."""
    return t.op("Cosh", x)


@unary("Cosh")
def cosh(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """= sinh x."""
    return t.op("Sinh", x)


@unary("Asin", "Acos")
def arc_sin(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """(1 - x^2)^(-1/2), negative for the cosine."""
    slope = _inverse_root(t, x, -1.0, 1.0)
    return slope if n.op_type == "Asin" else t.op("Neg", slope)


@unary("Asinh", "Acosh")
def area_sin(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """(x^2 + 1)^(-1/2), with -1 for the cosine."""
    return _inverse_root(t, x, 1.0, 1.0 if n.op_type == "Asinh" else -1.0)


@unary("Atan", "Atanh")
def arc_tan(t: Tape, n: onnx.NodeProto, x: str, y: str) -> str:
    """1 / (1 + x^2), or 1 / (1 - x^2)."""
    return t.op("Reciprocal", t.op("Add" if n.op_type == "Atan" else "Sub", t.scalar(1, x), t.mul(x, x)))


@rule("Ceil", "Floor", "Hardmax", "Round", "Sign")
def step(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> None:
    """Zero almost everywhere."""


def _inverse_root(t: Tape, x: str, rate: float, offset: float) -> str:
    """1 / sqrt(rate x^2 + offset)."""
    square = t.add(t.mul(t.mul(x, x), t.scalar(rate, x)), t.scalar(offset, x))
    return t.op("Reciprocal", t.op("Sqrt", square))


def _bell(t: Tape, x: str, rate: float) -> str:
    return t.op("Exp", t.mul(t.mul(x, x), t.scalar(-rate, x)))


def _piecewise(t: Tape, x: str, above: str, below: str) -> str:
    """``above`` where x > 0, else ``below``."""
    return t.op("Where", t.op("Greater", x, t.scalar(0, x)), above, below)
