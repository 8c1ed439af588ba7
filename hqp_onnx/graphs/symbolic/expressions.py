"""Exact arithmetic on sizes that are not known: integer polynomials in atoms, in canonical form.

An atom is a symbol (the batch, a length), or an operation that does not simplify, such as Div(L, 2) or Min(L, 8),
known by its operands. Two expressions with the same terms are equal for all sizes; nothing is concluded from others.
Symbols are sizes, so they are never negative, and an expression is known to be at least zero if no term is negative.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias


class Atom(NamedTuple):
    """A quantity that is only known by its text; ``nonnegative`` if it never is below zero."""

    text: str
    nonnegative: bool


Monomial: TypeAlias = "tuple[Atom, ...]"  # sorted; the empty one is the constant
_LONGEST = 200  # characters


class Expression:
    """A polynomial: coefficient by monomial, sorted, none zero."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Iterable[tuple[Monomial, int]]) -> None:
        total: Counter[Monomial] = Counter()
        for monomial, coefficient in terms:
            total[monomial] += coefficient
        self.terms = tuple(sorted((monomial, n) for monomial, n in total.items() if n))
        self._hash = hash(self.terms)

    @property
    def value(self) -> int | None:
        """The integer that this is for all sizes; None if that is not known."""
        if not self.terms:
            return 0
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    @property
    def nonnegative(self) -> bool:
        """Whether this is known to be at least zero."""
        return all(n > 0 and all(atom.nonnegative for atom in monomial) for monomial, n in self.terms)

    def __add__(self, other: Expression) -> Expression:
        return Expression((*self.terms, *other.terms))

    def __neg__(self) -> Expression:
        return Expression((monomial, -n) for monomial, n in self.terms)

    def __sub__(self, other: Expression) -> Expression:
        return self + -other

    def __mul__(self, other: Expression) -> Expression:
        return Expression((tuple(sorted(a + b)), m * n) for a, m in self.terms for b, n in other.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return "+".join("*".join([str(n), *(atom.text for atom in monomial)]) for monomial, n in self.terms) or "0"

    __repr__ = __str__


def integer(value: int) -> Expression:
    """A constant."""
    return Expression([((), int(value))])


def symbol(text: str) -> Expression:
    """A size."""
    return Expression([((Atom(text, True),), 1)])


def opaque(op: str, *operands: Expression, nonnegative: bool) -> Expression:
    """An atom of its own; long texts, which would grow with every step that repeats them, become digests."""
    text = ",".join(map(str, operands))
    text = text if len(text) <= _LONGEST else hashlib.sha256(text.encode()).hexdigest()
    return Expression([((Atom(f"{op}({text})", nonnegative),), 1)])


def product(factors: Iterable[Expression]) -> Expression:
    """All ``factors`` multiplied; one if there are none."""
    result = integer(1)
    for factor in factors:
        result *= factor
    return result


def quotient(a: Expression, b: Expression) -> Expression:
    """``a / b`` rounded towards zero, as ONNX divides integers; exact where every term of ``a`` is a multiple of b."""
    if b.value == 0:
        return opaque("Div", a, b, nonnegative=False)
    if a.value is not None and b.value is not None:
        size = abs(a.value) // abs(b.value)
        return integer(size if (a.value < 0) == (b.value < 0) else -size)
    if a == b:
        return integer(1)
    if len(b.terms) == 1:
        parts = [_term_quotient(term, b.terms[0]) for term in a.terms]
        if None not in parts:
            return Expression(part for part in parts if part)
    return opaque("Div", a, b, nonnegative=a.nonnegative and b.nonnegative)


def remainder(a: Expression, b: Expression) -> Expression:
    """``a - b floor(a / b)``, which has the sign of ``b``."""
    if not b.value:
        return integer(0) if a == b else opaque("Mod", a, b, nonnegative=b.nonnegative)
    left = Expression((monomial, n % b.value) for monomial, n in a.terms)
    if left.value is not None:
        return integer(left.value % b.value)
    return opaque("Mod", left, b, nonnegative=b.value > 0)


def minimum(a: Expression, b: Expression) -> Expression:
    """The smaller one."""
    if (a - b).nonnegative:
        return b
    if (b - a).nonnegative:
        return a
    return opaque("Min", *sorted((a, b), key=str), nonnegative=a.nonnegative and b.nonnegative)


def maximum(a: Expression, b: Expression) -> Expression:
    """The larger one."""
    if (a - b).nonnegative:
        return a
    if (b - a).nonnegative:
        return b
    return opaque("Max", *sorted((a, b), key=str), nonnegative=a.nonnegative or b.nonnegative)


def equal(a: Expression, b: Expression) -> Expression:
    """1 if they are equal, 0 if not."""
    if a == b:
        return integer(1)
    if (a - b - integer(1)).nonnegative or (b - a - integer(1)).nonnegative:
        return integer(0)
    return opaque("Equal", *sorted((a, b), key=str), nonnegative=True)


def less(a: Expression, b: Expression) -> Expression:
    """1 if ``a < b``, else 0."""
    if (b - a - integer(1)).nonnegative:
        return integer(1)
    if (a - b).nonnegative:
        return integer(0)
    return opaque("Less", a, b, nonnegative=True)


def choice(condition: Expression, a: Expression, b: Expression) -> Expression:
    """``a`` where the condition is not 0, else ``b``."""
    if a == b or condition.value:
        return a
    if condition.value == 0:
        return b
    return opaque("Where", condition, a, b, nonnegative=a.nonnegative and b.nonnegative)


def _term_quotient(term: tuple[Monomial, int], divisor: tuple[Monomial, int]) -> tuple[Monomial, int] | None:
    """``term / divisor`` if that is a term."""
    left = Counter(term[0])
    left.subtract(Counter(divisor[0]))
    if term[1] % divisor[1] or min(left.values(), default=0) < 0:
        return None
    return tuple(sorted(left.elements())), term[1] // divisor[1]
