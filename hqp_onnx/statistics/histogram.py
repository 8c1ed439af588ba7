"""Counts of magnitudes in bins that grow with the data, whatever its size.

|x| is counted in at most 8192 bins [k w, (k+1) w) of power-of-two width w. When a value falls beyond the last bin, w
doubles by adding neighbouring bins: no count is lost, and memory never depends on the number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from hqp_onnx.arrays import Array, IntArray

BINS = 8192


@dataclass
class Histogram:
    """Magnitudes of a tensor's values on all samples so far.

    Attributes:
        counts: int64 [8192], the values of each bin.
        exponent: bins are 2**exponent wide; None before a non-zero value.
        lo, hi: least and largest value, signs kept.
    """

    counts: IntArray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int | None = None
    lo: float = np.inf
    hi: float = -np.inf

    @property
    def top(self) -> float:
        """Largest |x|."""
        return max(abs(self.lo), abs(self.hi))

    def bins(self, limit: int = BINS) -> tuple[IntArray, float]:
        """Counts up to the largest |x|, neighbours added until there are at most ``limit``, and the bins' width."""
        assert self.exponent is not None
        used = int(np.ldexp(self.top, -self.exponent)) + 1
        merge = 1 << max(0, int(np.ceil(np.log2(used / limit))))
        counts = self.counts.reshape(-1, merge).sum(axis=1)[: -(-used // merge)]
        return counts, float(np.ldexp(merge, self.exponent))

    def add(self, values: Array) -> None:
        """Count finite ``values`` of any shape."""
        if not values.size:
            return
        values = values.astype(np.float32, copy=False)
        self.lo, self.hi = min(self.lo, float(values.min())), max(self.hi, float(values.max()))
        self._grow()
        bins = np.ldexp(np.abs(values.reshape(-1)), -(self.exponent or 0)).astype(np.int64)
        self.counts += np.bincount(bins, minlength=BINS)

    def joined(self, other: Histogram) -> Histogram:
        """Of the values of both."""
        if not (self.counts.any() and other.counts.any()):
            return self if self.counts.any() else other
        lo, hi = min(self.lo, other.lo), max(self.hi, other.hi)
        first, second = (replace(part, counts=part.counts.copy(), lo=lo, hi=hi) for part in (self, other))
        for part in (first, second):
            part._grow()
        return replace(first, counts=first.counts + second.counts)

    def _grow(self) -> None:
        if self.top == 0:
            return
        needed = int(np.frexp(self.top)[1]) - int(np.log2(BINS))  # top < 2**(needed + 13)
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[BINS // 2 :] = 0
            self.exponent += 1
