"""What a model takes on its target as a function of the widths of its groups of units.

Every kernel's time is a function of the sizes u, v of the groups that its shapes depend on,

    t = a + b u + c v + f(u v),    0 where a group that it belongs to is gone,

with a, b, c >= 0 and f rising, convex and piecewise linear (what no longer fits a cache is slower). Sizes are widths,
or what the runtime pads them to, in whole blocks of channels. Kernels that are slower on few channels than on more have
another a and b for few. The model's time is the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hqp_onnx.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Part:
    """A rising, convex, piecewise linear function of a product of widths.

    Attributes:
        groups: whose sizes are multiplied; none for a constant.
        slopes: seconds per unit of the product beyond each knot, (knot, slope).
        below: (group, width): it counts only where the group is narrower.
    """

    groups: tuple[int, ...]
    slopes: tuple[tuple[float, float], ...]
    below: tuple[int, int] | None = None

    def __call__(self, product: FloatArray) -> FloatArray:
        """Seconds."""
        return np.asarray(sum(slope * np.maximum(product - knot, 0) for knot, slope in self.slopes))

    @property
    def axes(self) -> tuple[int, ...]:
        """All groups that it depends on."""
        return tuple(dict.fromkeys((*self.groups, *(self.below or ())[:1])))


@dataclass(frozen=True)
class Sizes:
    """What a kernel works on, in place of the widths of a group: ``sizes`` at ``widths``, both ascending."""

    group: int
    widths: tuple[int, ...]
    sizes: tuple[int, ...]

    def of(self, widths: IntArray) -> FloatArray:
        """The sizes; those of the next larger width that was seen, and in proportion beyond the largest."""
        at = np.minimum(np.searchsorted(self.widths, widths), len(self.widths) - 1)
        return np.asarray(np.asarray(self.sizes)[at] * np.maximum(widths / max(self.widths[-1], 1), 1), np.float64)


@dataclass(frozen=True)
class KernelTime:
    """Seconds of one kernel: the sum of its parts, over sizes in whole blocks.

    Attributes:
        parts: see ``Part``.
        owners: groups that take the kernel with them when they go.
        block: of channels.
        padded: sizes of groups whose widths are not what the kernel works on.
    """

    parts: tuple[Part, ...]
    owners: tuple[int, ...]
    block: int
    padded: tuple[Sizes, ...] = ()

    def rounded(self, group: int, widths: IntArray) -> FloatArray:
        """Sizes in whole blocks for widths of a group."""
        sizes = next((one.of(widths) for one in self.padded if one.group == group), widths)
        return np.asarray(np.ceil(np.asarray(sizes) / self.block) * self.block, np.float64)

    def seconds(self, widths: IntArray) -> float:
        """For the widths of all groups."""
        if any(widths[group] == 0 for group in self.owners):
            return 0.0
        return sum(float(self.part_seconds(part, {g: widths[g] for g in part.axes})) for part in self.parts)

    def part_seconds(self, part: Part, widths: Mapping[int, IntArray]) -> FloatArray:
        """Of one of its parts, for widths of its groups, and of owners, that are broadcast together."""
        time = part(np.asarray(math.prod(self.rounded(group, widths[group]) for group in part.groups)))
        if part.below:
            time = time * (widths[part.below[0]] < part.below[1])
        for group in set(self.owners) & widths.keys():
            time = time * (widths[group] > 0)
        return time

    def times(self, factor: float) -> KernelTime:
        """So many times as long."""
        parts = [
            replace(part, slopes=tuple((knot, factor * slope) for knot, slope in part.slopes)) for part in self.parts
        ]
        return replace(self, parts=tuple(part for part in parts if factor > 0))


@dataclass(frozen=True)
class TimeTable:
    """Seconds of a model by the widths of its groups.

    Attributes:
        kernels: by key.
        rest: seconds outside any kernel.
        error: mean relative error of the whole model's time on configurations that were not fitted.
        source: what was fitted, in words.
    """

    kernels: Mapping[str, KernelTime]
    rest: float
    error: float
    source: str = ""

    def seconds(self, widths: IntArray) -> float:
        """Predicted time of the model, for int64 [groups] widths."""
        return self.rest + sum(kernel.seconds(widths) for kernel in self.kernels.values())
