"""Einsum of two operands as MatMul, which is quantized, refitted and ranked by filters, and whose heads are recognized.

P letters of both and the result, C summed, L and R of one operand and the result

[P, L, C] x [P, C, R] -> [P, L, R]                     but for the last of L and of R, the other operand has a 1 there
[L, C1 C2] x [C1 C2, R1 R2] -> [L, R1 R2] -> [L, R1, R2]        a constant has no P, and is one matrix
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.passes.fused.body import Body, Results, body


@body("Einsum")
def _einsum(b: Body) -> Results:
    """Forms that sum along an axis of one operand, have a diagonal, an ellipsis or nothing to sum stay."""
    terms, arrow, result = b.attribute("equation").replace(" ", "").partition("->")
    left, comma, right = terms.partition(",")
    if not (arrow and comma) or "." in terms or "," in right or any(len(set(t)) < len(t) for t in (left, right)):
        return None
    given = list(zip(b.node.inputs, (left, right), strict=True))
    if isinstance(b.node.inputs[0], gs.Constant):
        given.reverse()
    (data, first), (other, second) = given
    both, summed = ([x for x in first if x in second and (x in result) == kept] for kept in (True, False))
    own = [[x for x in letters if x not in rest] for letters, rest in ((first, second), (second, first))]
    sizes = [dict(zip(letters, b.shape(tensor), strict=True)) for tensor, letters in given]
    alone = all(x in result for x in (*own[0], *own[1])) and own[0] and own[1]
    if not alone or not summed or any(sizes[0][x] != sizes[1][x] for x in summed):
        return None
    if isinstance(other, gs.Constant) and not both and not isinstance(data, gs.Constant):
        return [_by_matrix(b, data, first, other, second, summed, result)]
    return [_product(b, given, both, summed[0], result)] if len(summed) == 1 else None


def _by_matrix(
    b: Body, data: gs.Tensor, first: str, weight: gs.Tensor, second: str, summed: Sequence[str], result: str
) -> gs.Tensor:
    rows = [x for x in result if x in first]
    columns = [x for x in result if x in second]
    sizes = dict(zip(second, b.shape(weight), strict=True))
    data, weight = _turned(b, data, first, [*rows, *summed]), _turned(b, weight, second, [*summed, *columns])
    if len(summed) > 1:
        data = b.reshape(data, *[0] * len(rows), int(np.prod([sizes[x] for x in summed])))
    if len(summed) > 1 or len(columns) > 1:
        weight = b.reshape(weight, int(np.prod([sizes[x] for x in summed])), -1)
    product: gs.Tensor = b.op("MatMul", data, weight)
    if len(columns) > 1:
        product = b.reshape(product, *[0] * len(rows), *(sizes[x] for x in columns))
    return _turned(b, product, [*rows, *columns], result)


def _product(
    b: Body, given: Sequence[tuple[gs.Tensor, str]], both: Sequence[str], summed: str, result: str
) -> gs.Tensor:
    """In the order of operands and letters that takes the fewest transpositions."""
    orders = itertools.product((given, given[::-1]), (True, False), (True, False))
    ways = [_Way.of(sides, both, summed, result, sort) for sides, *sort in orders]
    way = min(ways, key=lambda way: way.turns)
    one, other = (_turned(b, t, letters, order) for (t, letters), order in zip(way.sides, way.orders, strict=True))
    end = len(both) + way.rows
    one = b.unsqueeze(one, *range(end, end + way.columns)) if way.columns else one
    other = b.unsqueeze(other, *range(len(both), end)) if way.rows else other
    return _turned(b, b.op("MatMul", one, other), way.made, result)


@dataclass(frozen=True)
class _Way:
    """Operands, letters that a product takes of each, and that it makes; how many rows and columns come before."""

    sides: Sequence[tuple[gs.Tensor, str]]
    orders: tuple[list[str], list[str]]
    made: list[str]
    rows: int
    columns: int
    turns: int

    @classmethod
    def of(
        cls,
        sides: Sequence[tuple[gs.Tensor, str]],
        both: Sequence[str],
        summed: str,
        result: str,
        sort: Sequence[bool],
    ) -> _Way:
        """``sort``: whether the letters of both, and those of one, are in the order of ``result``."""
        left, right = (letters for _, letters in sides)
        shared = sorted(both, key=result.index) if sort[0] else list(both)
        rows, columns = ([x for x in letters if x not in other] for letters, other in ((left, right), (right, left)))
        if sort[1]:
            rows, columns = (sorted(letters, key=result.index) for letters in (rows, columns))
        orders = [*shared, *rows, summed], [*shared, *columns[:-1], summed, columns[-1]]
        made = [*shared, *rows[:-1], *columns[:-1], rows[-1], columns[-1]]
        turns = [list(left) != orders[0], list(right) != orders[1], made != list(result)]
        return cls(sides, orders, made, len(rows) - 1, len(columns) - 1, sum(turns))


def _turned(b: Body, tensor: gs.Tensor, letters: Sequence[str], order: Sequence[str]) -> gs.Tensor:
    perm = [list(letters).index(x) for x in order]
    return tensor if perm == sorted(perm) else b.transpose(tensor, *perm)
