"""Operators of one element each, or of two that broadcast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.emitter import FIRST, Emitter, to_last
from hqp_onnx.runtimes.litert.file import Scales
from hqp_onnx.runtimes.litert.rules.registry import Step, rule

_SIXTH = 1 / 6
_SIGMOID, _TANH = Scales((1 / 256,), -128), Scales((1 / 128,), 0)


def layout_of(e: Emitter, step: Step, read: int | None = None) -> str:
    """The layout in which the first ``read`` inputs, of one rank or single numbers, are best read."""
    rank = len(e.shape(step.output))
    floats = [name for name in step.inputs[:read] if name and not e.is_constant(name)]
    even = all(len(e.shape(name)) == rank or np.prod(e.shape(name)) == 1 for name in floats)
    return e.layout(*floats) if rank > 2 and even else FIRST


def operand(e: Emitter, name: str, rank: int, layout: str) -> int:
    """A tensor to be broadcast to ``rank`` axes in a layout."""
    if layout == FIRST or len(e.shape(name)) == rank:
        return e.get(name, layout)
    if not e.is_constant(name):
        return e.get(name)
    values = e.value(name, "an operand")
    return e.file.constant(name, values.reshape([1] * (rank - values.ndim) + [*values.shape]).transpose(to_last(rank)))


def _binary(kind: str, options: str = "", fused: bool = False) -> Callable[[Emitter, Step], None]:
    def write(e: Emitter, step: Step) -> None:
        layout, rank = layout_of(e, step), len(e.shape(step.output))
        inputs = [operand(e, name, rank, layout) for name in step.inputs]
        chosen = {"fusedActivationFunction": e.activation(step.activation)} if fused else {}
        e.file.operator(kind, inputs, [e.put(step.output, layout)], options, **chosen)

    return write


def _unary(kind: str, options: str = "") -> Callable[[Emitter, Step], None]:
    def write(e: Emitter, step: Step) -> None:
        layout = layout_of(e, step, 1)
        e.file.operator(kind, [e.get(step.inputs[0], layout)], [e.put(step.output, layout)], options)

    return write


rule("Add", int8="values", fuses=True)(_binary("ADD", "AddOptions", fused=True))
rule("Sub", int8="values", fuses=True)(_binary("SUB", "SubOptions", fused=True))
rule("Mul", int8="values", fuses=True)(_binary("MUL", "MulOptions", fused=True))
rule("Relu", int8="values")(_unary("RELU"))
rule("Sigmoid", int8="values", fixed=_SIGMOID)(_unary("LOGISTIC"))
rule("Tanh", int8="values", fixed=_TANH)(_unary("TANH"))
rule("Exp")(_unary("EXP", "ExpOptions"))
rule("Log")(_unary("LOG"))
rule("Sqrt")(_unary("SQRT"))
rule("Abs")(_unary("ABS", "AbsOptions"))
rule("Neg")(_unary("NEG", "NegOptions"))
rule("Sin")(_unary("SIN"))
rule("Cos")(_unary("COS", "CosOptions"))
rule("Floor")(_unary("FLOOR"))


@rule("Div", fuses=True)
def _div(e: Emitter, step: Step) -> None:
    over = step.inputs[1]
    if not e.is_constant(over) or e.facts.types[over] != np.float32:
        _binary("DIV", "DivOptions", fused=True)(e, step)
        return
    layout, rank = layout_of(e, step), len(e.shape(step.output))
    values = 1 / e.value(over, "its divisor")
    values = values.reshape([1] * (rank - values.ndim) + [*values.shape])
    factor = e.floats(values if layout == FIRST else values.transpose(to_last(rank)))
    inputs = [operand(e, step.inputs[0], rank, layout), factor]
    chosen = {"fusedActivationFunction": e.activation(step.activation)}
    e.file.operator("MUL", inputs, [e.put(step.output, layout)], "MulOptions", **chosen)


@rule("Pow")
def _pow(e: Emitter, step: Step) -> None:
    if len({e.facts.types[name] for name in step.inputs}) > 1:
        raise ModelError("its base and its exponent are of different types")
    _binary("POW", "PowOptions")(e, step)


@rule("Elu")
def _elu(e: Emitter, step: Step) -> None:
    if step.attributes.get("alpha", 1.0) != 1.0:
        raise ModelError(f"alpha {step.attributes['alpha']:g}: expected 1")
    _unary("ELU")(e, step)


@rule("HardSigmoid", int8="values")
def _hard_sigmoid(e: Emitter, step: Step) -> None:
    """relu6(x + 3) / 6, the only slope and offset that have a form of two operators."""
    alpha, beta = step.attributes.get("alpha", 0.2), step.attributes.get("beta", 0.5)
    if abs(alpha - _SIXTH) > 1e-6 or beta != 0.5:
        raise ModelError(f"alpha {alpha:g}, beta {beta:g}: expected 1/6 and 0.5")
    layout = layout_of(e, step, 1)
    _gate(e, step, layout, e.put(step.output, layout))


@rule("HardSwish", int8="values")
def _hard_swish(e: Emitter, step: Step) -> None:
    """In INT8 as a product with its gate: XNNPACK has no kernel for integers of the one operator that there is."""
    layout = layout_of(e, step, 1)
    x = e.get(step.inputs[0], layout)
    if e.lookups or e.origin(step.output) not in e.scales:
        e.file.operator("HARD_SWISH", [x], [e.put(step.output, layout)], "HardSwishOptions")
        return
    gate = e.new(step.output, e.laid_out(step.output, layout), Scales((1 / 255,), -128))
    _gate(e, step, layout, gate)
    e.file.operator("MUL", [x, gate], [e.put(step.output, layout)], "MulOptions")


def _gate(e: Emitter, step: Step, layout: str, out: int) -> None:
    """Write relu6(x + 3) / 6 to tensor ``out``."""
    int8 = e.origin(step.output) in e.scales
    raised = e.new(step.output, e.laid_out(step.output, layout), Scales((6 / 255,), -128) if int8 else None)
    inputs = [e.get(step.inputs[0], layout), _number(e, 3.0, int8)]
    e.file.operator("ADD", inputs, [raised], "AddOptions", fusedActivationFunction=e.activation("RELU6"))
    e.file.operator("MUL", [raised, _number(e, _SIXTH, int8)], [out], "MulOptions")


@rule("Clip", int8="values")
def _clip(e: Emitter, step: Step) -> None:
    layout = layout_of(e, step, 1)
    given = step.attributes.get("min"), step.attributes.get("max")  # up to opset 10
    inputs = step.input(1), step.input(2)
    known = [e.value(name, "a limit") if name else old for name, old in zip(inputs, given, strict=True)]
    low, high = (None if value is None or not np.isfinite(value) else float(value) for value in known)
    x, shape = e.get(step.inputs[0], layout), e.laid_out(step.output, layout)
    if low == 0 and high in (None, 6.0):
        e.file.operator("RELU6" if high else "RELU", [x], [e.put(step.output, layout)])
        return
    steps = [(kind, limit) for kind, limit in (("MAXIMUM", low), ("MINIMUM", high)) if limit is not None]
    for number, (kind, limit) in enumerate(steps, 1):
        out = e.put(step.output, layout) if number == len(steps) else e.new(step.output, shape)
        e.file.operator(kind, [x, e.floats(limit)], [out], "MaximumMinimumOptions")
        x = out
    if not steps:
        e.alias(step.output, step.inputs[0])


@rule("LeakyRelu", int8="values")
def _leaky_relu(e: Emitter, step: Step) -> None:
    layout = layout_of(e, step, 1)
    x = e.get(step.inputs[0], layout)
    e.file.operator(
        "LEAKY_RELU", [x], [e.put(step.output, layout)], "LeakyReluOptions", alpha=step.attributes.get("alpha", 0.01)
    )


@rule("Gelu")
def _gelu(e: Emitter, step: Step) -> None:
    layout = layout_of(e, step, 1)
    near = step.attributes.get("approximate", b"none") == b"tanh"
    e.file.operator(
        "GELU", [e.get(step.inputs[0], layout)], [e.put(step.output, layout)], "GeluOptions", approximate=near
    )


@rule("PRelu")
def _prelu(e: Emitter, step: Step) -> None:
    layout, rank = layout_of(e, step, 1), len(e.shape(step.output))
    slope = e.value(step.inputs[1], "its slope")
    slope = slope.reshape([1] * (rank - slope.ndim) + [*slope.shape])
    if len(slope) != 1:
        raise ModelError("its slope differs between samples")
    slope = (slope if layout == FIRST else slope.transpose(to_last(rank)))[0]
    e.file.operator("PRELU", [e.get(step.inputs[0], layout), e.floats(slope)], [e.put(step.output, layout)])


@rule("Min", "Max")
def _extreme(e: Emitter, step: Step) -> None:
    if len(step.inputs) != 2:
        raise ModelError("it does not have two inputs")
    _binary("MINIMUM" if step.op == "Min" else "MAXIMUM", "MaximumMinimumOptions")(e, step)


@rule("Cast")
def _cast(e: Emitter, step: Step) -> None:
    layout = layout_of(e, step, 1)
    e.file.operator("CAST", [e.get(step.inputs[0], layout)], [e.put(step.output, layout)], "CastOptions")


@rule("BatchNormalization", fuses=True)
def _batch_normalization(e: Emitter, step: Step) -> None:
    scale, shift, mean, variance = (e.value(name, "a parameter") for name in step.inputs[1:5])
    factor = scale / np.sqrt(variance + step.attributes.get("epsilon", 1e-5))
    layout, rank = layout_of(e, step, 1), len(e.shape(step.output))
    axes = [1, -1, *[1] * (rank - 2)] if layout == FIRST else [1] * (rank - 1) + [-1]
    x, between = e.get(step.inputs[0], layout), e.new(step.output, e.laid_out(step.output, layout))
    e.file.operator("MUL", [x, e.floats(factor.reshape(axes))], [between], "MulOptions")
    e.file.operator(
        "ADD",
        [between, e.floats((shift - mean * factor).reshape(axes))],
        [e.put(step.output, layout)],
        "AddOptions",
        fusedActivationFunction=e.activation(step.activation),
    )


def _number(e: Emitter, value: float, int8: bool) -> int:
    """A constant, as the largest integer of a scale of its own where integers are wanted."""
    if not int8:
        return e.floats(value)
    return e.file.constant("number", np.array(127, np.int8), Scales((value / 127,), 0))
