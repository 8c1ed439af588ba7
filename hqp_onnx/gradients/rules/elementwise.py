"""Rules of the elementwise operators of several variables: dL/da = g dy/da, summed over the axes of a's broadcast."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from hqp_onnx.gradients.tape import Grads, Tape, rule

Full = Callable[[Tape, onnx.NodeProto, Grads, int], str]


def broadcast(*ops: str) -> Callable[[Full], Full]:
    """Register a rule whose result has the shape of the output and is summed to the shape of input i."""

    def register(function: Full) -> Full:
        def apply(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
            return t.reduce_to(function(t, n, g, i), t.dims(n.output[0]), n.input[i])

        rule(*ops)(apply)
        return function

    return register


@broadcast("Add", "Sum")
def add(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """d(a + b) = da + db."""
    return str(g[0])


@broadcast("Mean")
def mean(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """Each operand has weight 1 / count."""
    return t.mul(str(g[0]), t.scalar(1 / len(n.input), n.output[0]))


@broadcast("Sub")
def sub(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """d(a - b) = da - db."""
    return str(g[0]) if i == 0 else t.op("Neg", str(g[0]))


@broadcast("Mul")
def mul(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """d(a b) = b da + a db."""
    return t.mul(str(g[0]), n.input[1 - i])


@broadcast("Div")
def div(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """d(a / b) = (da - y db) / b."""
    over = t.op("Div", str(g[0]), n.input[1])
    return over if i == 0 else t.op("Neg", t.mul(over, n.output[0]))


@broadcast("Pow")
def power(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """d(a^b) = b a^(b-1) da + y log(a) db, where 0^b is 0 for all b."""
    a, b = n.input
    if i == 1:
        base = t.op("Where", t.op("Equal", a, t.scalar(0, a)), t.scalar(1, a), a)
        slope = t.mul(str(g[0]), t.mul(n.output[0], t.op("Log", base)))
        return slope if t.traced.types[a] == t.traced.types[b] else t.op("CastLike", slope, b)
    one_less = t.op("Sub", b, t.scalar(1, b))
    factor = b if t.traced.types[a] == t.traced.types[b] else t.op("CastLike", b, a)
    return t.mul(str(g[0]), t.mul(factor, t.op("Pow", a, one_less)))


@broadcast("Min", "Max")
def extremum(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """To the operands that attain it, in equal parts."""
    hits = [t.mask(t.op("Equal", x, n.output[0]), n.output[0]) for x in n.input]
    count = hits[0] if len(hits) == 1 else t.op("Sum", *hits)
    return t.mul(str(g[0]), t.op("Div", hits[i], count))


@broadcast("Where")
def where(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """To the operand that was taken."""
    zero = t.scalar(0, n.output[0])
    return t.op("Where", n.input[0], *((str(g[0]), zero) if i == 1 else (zero, str(g[0]))))


@broadcast("PRelu")
def prelu(t: Tape, n: onnx.NodeProto, g: Grads, i: int) -> str:
    """= x > 0 ? x : s x."""
    x, slope = n.input
    below = t.compare("LessOrEqual", x, 0, x)
    if i == 1:
        return t.mul(str(g[0]), t.mul(below, x))
    return t.mul(str(g[0]), t.add(t.mul(below, slope), t.compare("Greater", x, 0, x)))
