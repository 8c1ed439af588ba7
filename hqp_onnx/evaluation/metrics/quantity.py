"""What a metric is measured in, and how its values are said: shares as percent and points, all else in its own unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

POINTS = "points"


@dataclass(frozen=True)
class Quantity:
    """A metric in words.

    Attributes:
        name: of the metric.
        unit: ``points`` for shares, whose values are percent and whose differences are points; else its own unit, which
            may be none.
        higher: whether more is better.
    """

    name: str
    unit: str = POINTS
    higher: bool = True

    @property
    def shares(self) -> bool:
        """Whether values are shares."""
        return self.unit == POINTS

    @property
    def factor(self) -> float:
        """What values are multiplied by when they are shown."""
        return 100.0 if self.shares else 1.0

    @property
    def head(self) -> str:
        """The name with the unit of its values, as "top1 %"."""
        return f"{self.name} {'%' if self.shares else self.unit}".rstrip()

    @property
    def fall(self) -> str:
        """What a change for the worse is called."""
        return "drop" if self.higher else "rise"

    def value(self, value: float) -> str:
        """A value without its unit."""
        return f"{100 * value:.2f}" if self.shares else f"{value:.4g}"

    def worse(self, amount: float, sign: str = "") -> str:
        """A change for the worse, without its unit; ``sign`` "+" shows it in any case."""
        return format(100 * amount, f"{sign}.2f") if self.shares else format(amount, f"{sign}.3g")

    def change(self, amount: float) -> str:
        """A change for the worse with its unit, as "1.20 points"."""
        return f"{self.worse(amount)} {self.unit}".rstrip()

    def limit(self, amount: float) -> str:
        """A budget with its unit, as "1.5 points"."""
        return f"{self.factor * amount:.3g} {self.unit}".rstrip() if math.isfinite(amount) else "nothing"

    def said(self, value: float) -> str:
        """A value with its unit, as "91.20 %"."""
        return f"{self.value(value)} {'%' if self.shares else self.unit}".rstrip()
