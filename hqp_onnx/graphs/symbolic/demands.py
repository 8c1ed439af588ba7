"""Sizes that the weights of a model demand of its inputs.

A file may leave a size open that its weights fix: a matrix [266, 100] multiplies rows of 266 numbers, whatever the
input says. What a weight reads has a size that is an expression in the inputs' own,

    a s + c = 266        so s = (266 - c) / a, in every run

and where it is none that simplifies (poolings, products of two sizes), the least s for which it is 266 is found by
bisection: one that runs, though others may.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from hqp_onnx.graphs.nodes import attribute, number, operator
from hqp_onnx.graphs.symbolic.expressions import Expression, product
from hqp_onnx.graphs.symbolic.known import Known
from hqp_onnx.graphs.symbolic.propagation import input_symbols, propagate

_LARGEST = 1 << 16  # that is looked for
_RECURRENT = ("LSTM", "GRU", "RNN")
BROADCASTING = frozenset(
    ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "And", "Or", "Equal", "Greater", "Less"]
)
"""Operators whose inputs meet position by position."""


@dataclass(frozen=True)
class Demands:
    """Sizes of dimensions of inputs, by the text of their symbol: ``proven`` for every run, and ``tried`` for one."""

    proven: Mapping[str, int]
    tried: Mapping[str, int]

    @property
    def all(self) -> dict[str, int]:
        """Both."""
        return {**self.tried, **self.proven}


def demands(model: onnx.ModelProto, leading: int) -> Demands:
    """What the weights of ``model`` demand.

    Args:
        model: nodes in topological order.
        leading: size of open first dimensions where others are searched.
    """
    proven = _solved_all(model, {}, certain=True)
    tried = _solved_all(model, proven, certain=False)
    return Demands(proven, {**_searched(model, {**tried, **proven}, leading), **tried})


def _solved_all(model: onnx.ModelProto, given: Mapping[str, int], certain: bool) -> dict[str, int]:
    """Sizes beside ``given`` that follow one from another; if not only ``certain`` ones, where 1 might do as well."""
    found: dict[str, int] = {}
    while True:
        known = propagate(model, {}, {**given, **found})
        wanted = [(size, number) for size, number, sure in _demanded(model, known) if sure or not certain]
        solved = dict(filter(None, (_solved(size, number) for size, number in wanted if size.value is None)))
        if not solved:
            return found
        found |= solved


def _demanded(model: onnx.ModelProto, known: Known) -> Iterator[tuple[Expression, int, bool]]:
    """Sizes of what weights read, what they must be, and whether 1 will not do as well."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        shapes = [weights.get(name) for name in node.input]
        for place, axis, wanted in _reads(node, shapes):
            dims = known.dims.get(node.input[place])
            if dims is not None and -len(dims) <= axis < len(dims):
                yield dims[axis], wanted, operator(node) not in BROADCASTING
        if operator(node) == "Reshape" and (data := known.dims.get(node.input[0])):
            target = known.integers(node.input[1])
            if target is not None and target.size and target[0] == -1 and (target[1:] > 0).all():  # samples stay apart
                yield product(data[1:]), int(target[1:].prod()), False


def _reads(node: onnx.NodeProto, weights: list[tuple[int, ...] | None]) -> Iterator[tuple[int, int, int]]:
    """Input, axis and size of what constants of these shapes (None of activations) meet in a node."""
    op = operator(node)
    if op in BROADCASTING:
        constants = [shape for shape in weights if shape is not None]
        for place in (place for place, shape in enumerate(weights) if shape is None and node.input[place]):
            for axis, size in [(i - len(shape), n) for shape in constants for i, n in enumerate(shape) if n > 1]:
                yield place, axis, size
        return
    if len(weights) < 2 or weights[0] is not None or weights[1] is None:
        if op == "MatMul" and weights[0] and weights[1] is None:
            yield 1, -2, weights[0][-1]
        return
    shape = weights[1]
    if op == "MatMul" and len(shape) > 1:
        yield 0, -1, shape[-2]
    elif op == "Gemm":
        yield 0, 0 if attribute(node, "transA", 0) else 1, shape[1 if attribute(node, "transB", 0) else 0]
    elif op in ("Conv", "ConvTranspose"):
        yield 0, 1, shape[1] * int(number(node, "group", 1)) if op == "Conv" else shape[0]
    elif op in _RECURRENT:
        yield 0, 2, shape[2]
    elif op == "BatchNormalization":
        yield 0, 1, shape[0]


def _solved(size: Expression, wanted: int) -> tuple[str, int] | None:
    """The symbol of an input that is alone in ``size``, once and to the first power, and what it must be."""
    terms = [(monomial, n) for monomial, n in size.terms if monomial]
    if len(terms) != 1 or len(terms[0][0]) != 1 or not terms[0][0][0].text.startswith("'"):
        return None
    offset = sum(n for monomial, n in size.terms if not monomial)
    (atom,), factor = terms[0]
    found, rest = divmod(wanted - offset, factor)
    return None if rest or found < 1 else (atom.text, found)


def _searched(model: onnx.ModelProto, given: Mapping[str, int], leading: int) -> dict[str, int]:
    """One size for all dimensions but leading ones that are still open, from which on nothing is too small."""
    names = [name for name, axis in input_symbols(model) if axis and name not in given]
    first = dict.fromkeys((name for name, axis in input_symbols(model) if not axis and name not in names), leading)
    known = propagate(model, {}, {**first, **given})
    if not names or all(size.value == wanted for size, wanted, _ in _demanded(model, known)):
        return {}

    def enough(size: int) -> bool:
        known = propagate(model, {}, {**first, **dict.fromkeys(names, size), **given})
        return all(found.value is None or found.value >= wanted for found, wanted, _ in _demanded(model, known))

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if high > _LARGEST:
            return {}
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return dict.fromkeys(names, high)
