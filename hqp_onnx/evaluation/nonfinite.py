"""Samples whose outputs hold NaN or infinities: they are not answers, so no metric may count them as right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import Array, BoolArray


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
        return f"{self.samples} of {total} samples {verb} NaN or infinities in output {names}"


NONE = NonFinite()


def finite_samples(outputs: Mapping[str, Array], count: int) -> tuple[BoolArray, NonFinite]:
    """Which of ``count`` samples have finite outputs, bool [count], and what to say of the others.

    An output whose first axis is not that of the samples belongs to all of them.
    """
    finite, broken = np.ones(count, bool), []
    for name, values in outputs.items():
        if values.dtype.kind not in "fc":
            continue
        whole = np.isfinite(values)
        rows = whole.reshape(count, -1).all(1) if _by_sample(values, count) else np.full(count, whole.all())
        if not rows.all():
            finite &= rows
            broken.append(name)
    return finite, NonFinite(int((~finite).sum()), tuple(broken))


def chosen_samples(outputs: Mapping[str, Array], chosen: BoolArray) -> Mapping[str, Array]:
    """``outputs`` of some of the samples, bool [samples]."""
    return {name: x[chosen] if _by_sample(x, len(chosen)) else x for name, x in outputs.items()}


def _by_sample(values: Array, count: int) -> bool:
    return values.ndim > 0 and len(values) == count
