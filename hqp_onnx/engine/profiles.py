"""Optimization profiles: the smallest, the optimal and the largest shape of every input of an engine.

    --shapes NAME:MIN,OPT,MAX      each as 1x3x224x224; a single shape stands for all three

A dynamic first dimension that no option names is 1; any other dynamic dimension must be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hqp_onnx.errors import UsageError
from hqp_onnx.runtimes.session import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Shapes of one input, each dimension ``low <= best <= high``."""

    low: Shape
    best: Shape
    high: Shape

    @property
    def fixed(self) -> bool:
        """Whether it admits one shape only."""
        return self.low == self.high


def profiles(options: Sequence[str], inputs: Sequence[TensorSpec]) -> dict[str, Profile]:
    """A profile for every one of ``inputs``.

    Raises:
        UsageError: an option that cannot be read, contradicts the model, or is missing.
    """
    named = dict(_parse(option) for option in options)
    known = {spec.name: spec for spec in inputs}
    if unknown := sorted(named.keys() - known.keys()):
        raise UsageError(f"{{--shapes}} {unknown[0]}: the model's inputs are {', '.join(known)}")
    for name, profile in named.items():
        _check(name, profile, known[name])
    return {spec.name: named.get(spec.name) or _default(spec) for spec in inputs}


def _parse(option: str) -> tuple[str, Profile]:
    name, _, text = option.rpartition(":")
    parts = text.split(",")
    sizes = [part.split("x") for part in parts]
    if not name or len(parts) not in (1, 3) or not all(n.isdecimal() and int(n) > 0 for part in sizes for n in part):
        raise UsageError(f"{{--shapes}} {option}: expected NAME:MIN,OPT,MAX with shapes as 1x3x224x224")
    shapes = [tuple(map(int, part)) for part in sizes]
    return name, Profile(*shapes) if len(shapes) == 3 else Profile(*shapes * 3)


def _check(name: str, profile: Profile, spec: TensorSpec) -> None:
    for shape in (profile.low, profile.best, profile.high):
        if len(shape) != len(spec.shape) or any(n not in (None, m) for n, m in zip(spec.shape, shape, strict=True)):
            raise UsageError(f"{{--shapes}} {name}: {'x'.join(map(str, shape))} does not fit the model's {spec}")
    if any(not a <= b <= c for a, b, c in zip(profile.low, profile.best, profile.high, strict=True)):
        raise UsageError(f"{{--shapes}} {name}: expected MIN <= OPT <= MAX in every dimension")


def _default(spec: TensorSpec) -> Profile:
    if None in spec.shape[1:]:
        raise UsageError(f"input '{spec.name}' is {spec}: give its sizes with {{--shapes}} {spec.name}:MIN,OPT,MAX")
    shape = tuple(1 if n is None else n for n in spec.shape)
    return Profile(shape, shape, shape)


def batch_of(shapes: Mapping[str, Profile]) -> int:
    """Leading size of the optimal shapes: samples in a calibration batch."""
    return next((p.best[0] for p in shapes.values() if p.best), 1)
