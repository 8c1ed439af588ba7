"""Activations, some behind the addition of a bias.

Gelu        x Phi(x) = x/2 (1 + erf(x / sqrt 2));  by tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
QuickGelu   x sigmoid(alpha x)
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from hqp_onnx.passes.fused.body import Body, Results, body

_OWN_GELU = 20  # the opset that has one


@body("com.microsoft::BiasGelu", "com.microsoft::Gelu")
def _gelu(b: Body) -> Results:
    return [gelu(b, b.add(b.node.inputs[0], b.input(1)))]


@body("com.microsoft::FastGelu")
def _fast_gelu(b: Body) -> Results:
    x = b.add(b.node.inputs[0], b.input(1))
    if b.opset >= _OWN_GELU:
        return [b.op("Gelu", x, approximate="tanh")]
    cubic = b.op("Mul", b.op("Pow", x, 3.0), 0.044715)
    inner = b.op("Mul", b.op("Add", x, cubic), math.sqrt(2 / math.pi))
    return [_halved(b, x, b.op("Tanh", inner))]


@body("com.microsoft::QuickGelu")
def _quick_gelu(b: Body) -> Results:
    x, alpha = b.node.inputs[0], float(b.attribute("alpha", 1.702))
    return [b.op("Mul", x, b.op("Sigmoid", x if alpha == 1 else b.op("Mul", x, alpha)))]


def gelu(b: Body, x: gs.Tensor) -> gs.Variable:
    """By erf."""
    if b.opset >= _OWN_GELU:
        return b.op("Gelu", x)
    return _halved(b, x, b.op("Erf", b.op("Div", x, math.sqrt(2.0))))


def _halved(b: Body, x: gs.Tensor, swing: gs.Tensor) -> gs.Variable:
    """As exporters write it, so that runtimes recognize it."""
    return b.op("Mul", b.op("Mul", x, b.op("Add", swing, 1.0)), 0.5)


def activated(b: Body, x: gs.Tensor) -> gs.Tensor | None:
    """The activation that attributes of a fused product name; None if it is unknown."""
    kind, params = b.attribute("activation", ""), list(b.attribute("activation_params", ()))
    if not kind:
        return x
    if kind == "Clip":
        return b.op("Clip", x, *params)
    names = {"LeakyRelu": ["alpha"], "HardSigmoid": ["alpha", "beta"], "Elu": ["alpha"]}.get(kind, [])
    stated = {name: b.attribute(f"activation_{name}") for name in names}
    attrs = {name: value for name, value in stated.items() if value is not None}
    attrs.update(zip(names, params, strict=False))
    return b.op(kind, x, **attrs) if kind in ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid", "Elu") else None
