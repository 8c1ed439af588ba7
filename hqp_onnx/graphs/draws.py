"""Which operators draw random numbers: what they compute differs from run to run, and is never a constant."""

from __future__ import annotations

from collections.abc import Sequence

_RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)


def draws(op: str, inputs: Sequence[str]) -> bool:
    """Whether a node may draw random numbers, given the names of its inputs; Dropout does in training mode."""
    return op in _RANDOM or (op == "Dropout" and len(inputs) > 2 and bool(inputs[2]))
