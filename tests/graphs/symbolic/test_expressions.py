"""Expressions are exact: what they simplify to has the value of the arithmetic that made them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqp_onnx.graphs.symbolic import expressions as e

SIZES = {"h": 7, "w": 5, "n": 3}
numbers = st.integers(-6, 6)
steps = st.lists(st.tuples(st.sampled_from("+-*"), st.one_of(numbers, st.sampled_from(sorted(SIZES)))), max_size=6)


def built(taken: list[tuple[str, int | str]]) -> tuple[e.Expression, int]:
    """An expression, and the number that it is at ``SIZES``."""
    expression, number = e.symbol("h"), SIZES["h"]
    for op, operand in taken:
        other = e.symbol(operand) if isinstance(operand, str) else e.integer(operand)
        value = SIZES[operand] if isinstance(operand, str) else operand
        expression = {"+": expression + other, "-": expression - other, "*": expression * other}[op]
        number = {"+": number + value, "-": number - value, "*": number * value}[op]
    return expression, number


def at(expression: e.Expression) -> int | None:
    """Value at ``SIZES``; None where an operation stayed."""
    if any(atom.text not in SIZES for monomial, _ in expression.terms for atom in monomial):
        return None
    return sum(n * math.prod(SIZES[atom.text] for atom in monomial) for monomial, n in expression.terms)


@given(steps)
def test_polynomials(taken: list[tuple[str, int | str]]) -> None:
    expression, number = built(taken)
    assert at(expression) == number
    assert not expression.nonnegative or number >= 0
    assert expression.value in (None, number)


@given(steps, steps)
def test_what_simplifies_is_right(left: list[tuple[str, int | str]], right: list[tuple[str, int | str]]) -> None:
    (a, x), (b, y) = built(left), built(right)
    assert (a == b) <= (x == y)
    assert at(e.minimum(a, b)) in (None, min(x, y)) and at(e.maximum(a, b)) in (None, max(x, y))
    assert e.equal(a, b).value in (None, int(x == y)) and e.less(a, b).value in (None, int(x < y))
    if y:
        assert at(e.quotient(a, b)) in (None, math.trunc(x / y)) and at(e.remainder(a, b)) in (None, x % y)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda h, w: e.quotient(h * w * e.integer(4), w * e.integer(2)), "2*h"),
        (lambda h, w: e.quotient(h + e.integer(1), e.integer(2)), "1*Div(1+1*h,2)"),
        (lambda h, w: e.remainder(h * e.integer(4) + e.integer(5), e.integer(4)), "1"),
        (lambda h, w: e.minimum(h, h + e.integer(3)), "1*h"),
        (lambda h, w: e.minimum(h, w) - e.minimum(w, h), "0"),
        (lambda h, w: e.maximum(h, e.integer(0)), "1*h"),
        (lambda h, w: e.equal(h, e.integer(-1)), "0"),
        (lambda h, w: e.choice(e.less(h, w), h, h), "1*h"),
    ],
)
def test_forms(made, text: str) -> None:
    assert str(made(e.symbol("h"), e.symbol("w"))) == text


def test_texts_stay_short() -> None:
    size = e.symbol("h")
    for _ in range(40):
        size = e.minimum(size, size * size - e.integer(1))
    assert len(str(size)) < 300
