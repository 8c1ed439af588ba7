"""How far values y are from the reference's x, as sums that add up over batches.

    max_abs = max |y - x|         mean_abs = mean |y - x|         relative = ||y - x|| / ||x||
    cosine = <x, y> / (||x|| ||y||)                 psnr_db = 20 log10(max |x|) - 10 log10(mean (y - x)^2)
    sqnr_db = 20 log10(||x|| / ||y - x||)

A signal below 1e-6 rms counts as 1e-6: else the noise of a tensor that is zero would be infinitely large. Positions
that are infinite or NaN are left out: ``undefined`` counts those that are so in both alike, as masks are, ``broken``
those that are not. The first say nothing of how near y is, so the figures of an output that has any are unknown; with
the second the relative error is infinite.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from hqp_onnx.arrays import Array

_FLOOR = 1e-12  # mean square of the weakest signal


@dataclass(frozen=True, slots=True)
class Deviation:
    """Sums over all positions that are finite in both.

    Attributes:
        count: positions.
        max_abs: largest |y - x|.
        absolute, squared: sums of |y - x| and of its square.
        reference, candidate, product: sums of x^2, y^2 and x y.
        peak: largest |x|.
        broken: positions that are infinite or NaN in x or y, and not alike.
        undefined: positions that are infinite or NaN in both alike.
    """

    count: int = 0
    max_abs: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    reference: float = 0.0
    candidate: float = 0.0
    product: float = 0.0
    peak: float = 0.0
    broken: int = 0
    undefined: int = 0

    @classmethod
    def between(cls, x: Array, y: Array) -> Deviation:
        """The deviation of ``y`` from ``x``, of the same shape."""
        x, y = (values.astype(np.float64).ravel() for values in (x, y))
        broken, undefined, finite = 0, 0, np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            undefined = int((~finite & ((x == y) | (np.isnan(x) & np.isnan(y)))).sum())
            broken = int((~finite).sum()) - undefined
            x, y = x[finite], y[finite]
        error = np.abs(y - x)
        return cls(
            count=len(x),
            max_abs=float(error.max(initial=0)),
            absolute=float(error.sum()),
            squared=_dot(error, error),
            reference=_dot(x, x),
            candidate=_dot(y, y),
            product=_dot(x, y),
            peak=float(np.abs(x).max(initial=0)),
            broken=broken,
            undefined=undefined,
        )

    def __add__(self, other: Deviation) -> Deviation:
        mine, others = asdict(self), asdict(other)
        largest = {name: max(mine[name], others[name]) for name in ("max_abs", "peak")}
        return Deviation(**({name: mine[name] + others[name] for name in mine} | largest))

    @property
    def comparable(self) -> bool:
        """Whether all positions are finite in both; only then do the figures tell how far y is from x."""
        return not (self.broken or self.undefined)

    @property
    def mean_abs(self) -> float:
        """Mean |y - x|."""
        return self.absolute / max(self.count, 1)

    @property
    def relative(self) -> float:
        """Root of noise energy over signal energy; infinite where something broke."""
        return self.share(self.reference)

    def share(self, energy: float) -> float:
        """Root of noise energy over another signal's ``energy`` (a sum of squares over the same positions)."""
        if self.broken:
            return math.inf
        return math.sqrt(self.squared / max(energy, _FLOOR * max(self.count, 1)))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between x and y; 1 where both are zero, 0 where one is; NaN where not all is finite."""
        if not self.comparable:
            return math.nan
        if self.reference == 0 or self.candidate == 0:
            return float(self.reference == self.candidate)
        return self.product / math.sqrt(self.reference) / math.sqrt(self.candidate)

    @property
    def sqnr_db(self) -> float:
        """Decibels of signal over noise; infinite where y equals x."""
        if self.squared == 0:
            return math.inf
        return 10 * math.log10(max(self.reference, _FLOOR * self.count) / self.squared)

    @property
    def psnr_db(self) -> float:
        """Decibels; infinite where y equals x."""
        if self.squared == 0:
            return math.inf
        return 10 * math.log10(max(self.peak**2, _FLOOR) * self.count / self.squared)

    def json(self) -> dict[str, float | int | None]:
        """The figures of the table; null stands for an infinite or unknown one."""
        figures = {name: getattr(self, name) for name in ("max_abs", "mean_abs", "relative", "cosine", "psnr_db")}
        known = {name: finite(value) if self.comparable else None for name, value in figures.items()}
        return {**known, "broken": self.broken, "undefined": self.undefined}


def _dot(x: Array, y: Array) -> float:
    """By einsum, which runs on one thread: BLAS on several would compete with the runtimes for the cores."""
    return float(np.einsum("i,i", x, y))


def finite(value: float) -> float | None:
    """``value`` for JSON, which has no infinity."""
    return value if math.isfinite(value) else None
