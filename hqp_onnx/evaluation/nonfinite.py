"""Samples whose outputs hold NaN or infinities: they are not answers, so no metric may count them as right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array, BoolArray
from hqp_onnx.counts import counted


@dataclass(frozen=True)
class NonFinite:
    """How many samples, and in which outputs."""

    samples: int = 0
    outputs: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.samples > 0

    def __add__(self, other: NonFinite) -> NonFinite:
        return NonFinite(self.samples + other.samples, tuple(dict.fromkeys(self.outputs + other.outputs)))

    def words(self, total: int) -> str:
        """As "3 of 100 samples have NaN or infinities in output 'y'"."""
        names = ", ".join(f"'{name}'" for name in self.outputs)
        verb = "has" if self.samples == 1 else "have"
        return f"{self.samples} of {counted(total, 'sample')} {verb} NaN or infinities in output {names}"


NONE = NonFinite()


def finite_samples(outputs: Mapping[str, Array], count: int) -> tuple[BoolArray, NonFinite]:
    """Which of ``count`` samples have finite outputs, bool [count], and what to say of the others.

    An output whose first axis is not that of the samples belongs to all of them.
    """
    finite, broken = np.ones(count, bool), []
    for name, values in outputs.items():
        rows = _finite_rows(values, count)
        if not rows.all():
            finite &= rows
            broken.append(name)
    return finite, NonFinite(int((~finite).sum()), tuple(broken))


def chosen_samples(outputs: Mapping[str, Array], chosen: BoolArray) -> Mapping[str, Array]:
    """``outputs`` of some of the samples, bool [samples]."""
    return {name: _chosen(values, chosen) for name, values in outputs.items()}


def _finite_rows(values: Any, count: int) -> BoolArray:
    """Which samples are finite in one output: a tensor, a sequence, or a sequence of a map for each sample."""
    if isinstance(values, list):
        if _maps_of_samples(values, count):
            return np.array([all(map(_finite, item.values())) for item in values])
        rows: BoolArray = np.all([np.ones(count, bool), *(_finite_rows(item, count) for item in values)], 0)
        return rows
    if isinstance(values, Mapping):
        return np.full(count, all(map(_finite, values.values())))
    if values is None or values.dtype.kind not in "fc":
        return np.ones(count, bool)
    whole = np.isfinite(values)
    return whole.reshape(count, -1).all(1) if _by_sample(values, count) else np.full(count, whole.all())


def _chosen(values: Any, chosen: BoolArray) -> Any:
    if isinstance(values, list):
        if _maps_of_samples(values, len(chosen)):
            return [item for item, taken in zip(values, chosen, strict=True) if taken]
        return [_chosen(item, chosen) for item in values]
    return values[chosen] if _by_sample(values, len(chosen)) else values


def _maps_of_samples(values: list[Any], count: int) -> bool:
    return len(values) == count and all(isinstance(item, Mapping) for item in values)


def _finite(value: Any) -> bool:
    return isinstance(value, (str, bytes)) or bool(np.isfinite(value).all())


def _by_sample(values: Any, count: int) -> bool:
    return isinstance(values, np.ndarray) and values.ndim > 0 and len(values) == count
