"""Elements of small integer tensors: arithmetic on sizes, and the operators that move elements about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from onnx import TensorProto, numpy_helper

from hqp_onnx.graphs.symbolic.expressions import (
    Expression,
    choice,
    equal,
    integer,
    less,
    maximum,
    minimum,
    product,
    quotient,
    remainder,
)
from hqp_onnx.graphs.symbolic.known import LARGEST_VALUE, Reading, Value, ValueRule

VALUES: dict[str, ValueRule] = {}
Function: TypeAlias = "Callable[[Reading], Value | None]"
ZERO, ONE = integer(0), integer(1)

_ELEMENTWISE: dict[str, Callable[..., Expression]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": quotient,
    "Neg": lambda a: -a,
    "Min": lambda a, *more: _fold(minimum, a, *more),
    "Max": lambda a, *more: _fold(maximum, a, *more),
    "Equal": equal,
    "Less": less,
    "Greater": lambda a, b: less(b, a),
    "LessOrEqual": lambda a, b: ONE - less(b, a),
    "GreaterOrEqual": lambda a, b: ONE - less(a, b),
    "Not": lambda a: ONE - a,
    "And": lambda a, b: a * b,
    "Or": lambda a, b: a + b - a * b,
    "Where": choice,
}


def _fold(function: Callable[[Expression, Expression], Expression], *operands: Expression) -> Expression:
    first, *more = operands
    for operand in more:
        first = function(first, operand)
    return first


def _elementwise(function: Callable[..., Expression]) -> Function:
    def apply(r: Reading) -> Value | None:
        values = [r.value(i) for i in range(len(r.node.input))]
        if any(value is None for value in values):
            return None
        return np.asarray(np.frompyfunc(function, len(values), 1)(*values), object)

    return apply


def rule(*ops: str) -> Callable[[Function], Function]:
    """Register the elements of the only output of ``ops``."""

    def register(function: Function) -> Function:
        VALUES.update(dict.fromkeys(ops, lambda r: [function(r)]))
        return function

    return register


for _op, _function in _ELEMENTWISE.items():
    rule(_op)(_elementwise(_function))


@rule("Mod")
def _mod(r: Reading) -> Value | None:
    return None if r.attribute("fmod", 0) else _elementwise(remainder)(r)


@rule("Shape")
def _shape(r: Reading) -> Value | None:
    dims = r.dims()
    return None if dims is None else _array(dims[r.attribute("start", 0) : r.attribute("end", len(dims))])


@rule("Size")
def _size(r: Reading) -> Value | None:
    dims = r.dims()
    return None if dims is None else _array([product(dims)]).reshape(())


@rule("Cast")
def _cast(r: Reading) -> Value | None:
    """Between integers; truth values from truth values only."""
    truth = (r.known.types.get(r.node.input[0]), r.attribute("to"))
    return None if truth[1] == TensorProto.BOOL != truth[0] else r.value(0)


@rule("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
def _reshaped(r: Reading) -> Value | None:
    """The same elements in the shape that was found for the result."""
    data, sizes = r.value(0), _result(r)
    return None if data is None or sizes is None else data.reshape(sizes)


@rule("Expand")
def _expand(r: Reading) -> Value | None:
    data, sizes = r.value(0), _result(r)
    return None if data is None or sizes is None else np.broadcast_to(data, sizes)


@rule("ConstantOfShape")
def _constant_of_shape(r: Reading) -> Value | None:
    sizes, stated = _result(r), r.attribute("value")
    filler = integer(int(numpy_helper.to_array(stated).item())) if stated is not None else ZERO
    return None if sizes is None else np.full(sizes, filler, object)


@rule("Transpose")
def _transpose(r: Reading) -> Value | None:
    data = r.value(0)
    return None if data is None else data.transpose(r.attribute("perm") or range(data.ndim)[::-1])


@rule("Gather")
def _gather(r: Reading) -> Value | None:
    data, sizes = r.value(0), r.dims(1)
    index = r.numbers(1)
    if data is None or index is None or sizes is None:
        return None
    shape = [size.value or 0 for size in sizes]
    return np.take(data, np.array(index, np.int64).reshape(shape), r.attribute("axis", 0))


@rule("Concat")
def _concat(r: Reading) -> Value | None:
    values = [r.value(i) for i in range(len(r.node.input))]
    known = [value for value in values if value is not None]
    return np.concatenate(known, r.attribute("axis")) if len(known) == len(values) else None


@rule("Slice")
def _slice(r: Reading) -> Value | None:
    data, starts, ends = r.value(0), r.numbers(1), r.numbers(2)
    if data is None or starts is None or ends is None:
        return None
    axes, steps = r.numbers(3, range(len(starts))), r.numbers(4, [1] * len(starts))
    if axes is None or steps is None:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = end if step > 0 or end >= -data.shape[axis] else None  # below, a negative step runs through index 0
        data = data[(slice(None),) * (axis % data.ndim) + (slice(start, last, step),)]
    return data


@rule("ReduceProd")
def _reduce_prod(r: Reading) -> Value | None:
    data, sizes = r.value(0), _result(r)
    return None if data is None or sizes is None or np.prod(sizes) != 1 else np.full(sizes, product(data.flat), object)


def _split(r: Reading) -> list[Value | None]:
    data, axis, first = r.value(0), r.attribute("axis", 0), 0
    parts: list[Value | None] = []
    for index in range(len(r.node.output)):
        dims = r.result(index)
        size = dims[axis].value if dims else None
        if data is None or size is None:
            return []
        parts.append(np.take(data, np.arange(first, first + size), axis))
        first += size
    return parts


VALUES["Split"] = _split


def _array(entries: object) -> Value:
    listed = list(entries)  # type: ignore[call-overload]
    found = np.empty(len(listed), object)
    found[:] = listed
    return found


def _result(r: Reading) -> tuple[int, ...] | None:
    """The shape of the result, if it is known and small."""
    dims = r.result()
    sizes = [size.value for size in dims] if dims is not None else [None]
    if None in sizes or (dims and (product(dims).value or 0) > LARGEST_VALUE):
        return None
    return tuple(size or 0 for size in sizes)
