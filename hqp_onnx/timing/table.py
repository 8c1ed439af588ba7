"""What a model takes on its target as a function of the widths of its groups of units: a table fitted to measurements.

Every kernel's time is a function of the widths u, v (in channels) of the groups that its shapes depend on,

    t = a + b u + c v + f(u v),    0 where a group that it belongs to is gone,

with a, b, c >= 0 and f rising, convex and piecewise linear (what no longer fits a cache is slower). The model's time is
the sum. Times of kernels are corrected first, by a factor and a constant for each kernel, so that they add up to the
measured time of the whole model: profilers cost time themselves.

Which groups a kernel depends on is read from its shapes: a size that follows a group's width through all configurations
is that group's, so names of fused kernels do not matter. Kernels that compute blocks of channels at a time show it: by
padded shapes, whose sizes then stand for the widths, or by their time, which follows sizes rounded up to blocks better
than the sizes themselves. The block that fits best is taken.

Profiles say how times are spread, and the clock how long a whole model takes. So in the end every kernel's function has
a factor of its own, near 1, such that their sums meet the measured times of whole models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.optimize import nnls

from hqp_onnx.arrays import BoolArray, FloatArray, IntArray
from hqp_onnx.timing.kernel_times import KeyTime

BLOCKS = (1, 4, 8, 16, 32)
KNOTS = (0.4, 0.75)  # quantiles of what was measured
_LEAST = 0.05  # of a kernel's time as profiled is its own
_TIE = 0.01  # weight of "no correction" where the times leave it open
_FEWEST = 6  # configurations that a kernel must have been seen in
_MOST_GROUPS = 3
_EXPLAINED = 0.05  # of a size's spread that may remain
_CLEARLY_BETTER = 0.9  # error of a larger block over that of a smaller one
_STIFF = 0.2  # how much a factor of 1 counts for a kernel, beside the times of whole models


@dataclass(frozen=True)
class Configuration:
    """Widths, and what was measured with them.

    Attributes:
        widths: units left in each group, int64 [groups].
        kernels: seconds by key.
        seconds: of the whole model.
    """

    widths: IntArray
    kernels: Mapping[str, KeyTime]
    seconds: float


@dataclass(frozen=True)
class Part:
    """A rising, convex, piecewise linear function of a product of widths.

    Attributes:
        groups: whose widths are multiplied; none for a constant.
        slopes: seconds per unit of the product beyond each knot, (knot, slope).
    """

    groups: tuple[int, ...]
    slopes: tuple[tuple[float, float], ...]

    def __call__(self, product: FloatArray) -> FloatArray:
        """Seconds."""
        return np.asarray(sum(slope * np.maximum(product - knot, 0) for knot, slope in self.slopes))


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
        blocks = {g: float(self.rounded(g, widths[g])) for g in {g for part in self.parts for g in part.groups}}
        return sum(float(part(np.array(np.prod([blocks[g] for g in part.groups])))) for part in self.parts)

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


def fit_table(configurations: Sequence[Configuration], held_out: int) -> TimeTable:
    """A table; the last ``held_out`` configurations only judge it, and are then fitted, too."""
    seen = configurations[:-held_out] if held_out else configurations
    trial = _fit(seen)
    errors = [abs(trial.seconds(c.widths) / c.seconds - 1) for c in configurations[len(seen) :] if c.seconds]
    return replace(_fit(configurations), error=float(np.mean(errors)) if errors else 0.0)


def _fit(configurations: Sequence[Configuration]) -> TimeTable:
    corrected, rest = _corrected(configurations)
    keys = dict.fromkeys(key for c in corrected for key in c.kernels)
    fitted = {key: kernel for key in keys if (kernel := _fit_kernel(key, corrected)) is not None}
    return _balanced(TimeTable(fitted, rest, 0.0), configurations)


def _balanced(table: TimeTable, configurations: Sequence[Configuration]) -> TimeTable:
    """The table with a factor for each kernel, and another rest, that meet the times of whole models.

    Least squares of relative errors; a kernel's factor is held to 1 the more, the more of the time it takes.
    """
    telling = [c for c in configurations if c.seconds > 0]
    if not telling or not table.kernels:
        return table
    seconds = np.array([c.seconds for c in telling])
    parts = np.array([[kernel.seconds(c.widths) for kernel in table.kernels.values()] for c in telling])
    shares = np.column_stack([parts, np.full(len(telling), seconds.mean())]) / seconds[:, None]
    mean, before = seconds.mean(), np.append(np.ones(parts.shape[1]), table.rest / seconds.mean())
    stiff = np.sqrt(_STIFF * shares.mean(0))
    factors, _ = nnls(np.vstack([shares, np.diag(stiff)]), np.append(np.ones(len(telling)), stiff * before))
    kernels = {key: kernel.times(float(f)) for (key, kernel), f in zip(table.kernels.items(), factors, strict=False)}
    return replace(table, kernels=kernels, rest=float(factors[-1] * mean))


def _corrected(configurations: Sequence[Configuration]) -> tuple[list[Configuration], float]:
    """Configurations whose kernels add up to the model's time, but for so many seconds.

    A profiler makes kernels slower, by so much each, and leaves out what is between them. One of no time says
    nothing of that: multiply-accumulates stand for time, and no product is left.
    """
    telling = [c for c in configurations if c.seconds > 0]
    if not telling:
        return list(configurations), 0.0
    times = [[(k.seconds, k.count) for k in c.kernels.values()] for c in telling]
    design = np.array([[*np.sum(rows, 0), 1.0] if rows else [0.0, 0.0, 1.0] for rows in times])
    measured = np.array([c.seconds for c in telling])
    relative = design / measured[:, None]
    clock = float(np.median(measured)) / max(float(np.median(design[:, 1])), 1)
    units, least = np.array([1, clock, measured.mean()]), np.array([0, -1, 0])  # a kernel may lose at most ``clock``
    rows = np.vstack([relative * units, _TIE * np.eye(3)[1:]])
    above, _ = nnls(rows, np.append(np.ones(len(measured)), [0, 0]) - rows @ least)
    scale, each, rest = (above + least) * units

    def seconds(time: KeyTime) -> float:
        return float(max(scale * time.seconds + each * time.count, _LEAST * time.seconds))

    return [
        replace(c, kernels={key: replace(time, seconds=seconds(time)) for key, time in c.kernels.items()})
        for c in configurations
    ], float(rest)


def _fit_kernel(key: str, configurations: Sequence[Configuration]) -> KernelTime | None:
    """The function of one kernel; None where it was hardly ever seen."""
    present = [c for c in configurations if key in c.kernels]
    if len(present) < min(_FEWEST, len(configurations)):
        return None
    widths = np.array([c.widths for c in present])
    seconds = np.array([c.kernels[key].seconds for c in present])
    if not seconds.any():  # below what the profiler's clock tells
        return KernelTime((), (), 1)
    shapes = [c.kernels[key].shapes for c in present]
    groups = _groups(widths, shapes)
    padded = _padded(widths, shapes, groups)
    sizes = widths.astype(np.float64)
    for one in padded:
        sizes[:, one.group] = one.of(widths[:, one.group])
    owners = _owners(np.array([c.widths for c in configurations]), np.array([key in c.kernels for c in configurations]))
    best: tuple[float, KernelTime] | None = None
    for block in BLOCKS if groups else BLOCKS[:1]:
        parts, error = _fit_parts(np.ceil(sizes / block) * block, groups, seconds)
        if best is None or error < _CLEARLY_BETTER * best[0]:
            best = error, KernelTime(parts, owners, block, padded)
    return best[1] if best else None


def _fit_parts(sizes: FloatArray, groups: Sequence[int], seconds: FloatArray) -> tuple[tuple[Part, ...], float]:
    """Non-negative least squares of relative errors; the parts, and the error."""
    products = [(), *((group,) for group in groups), *combinations(groups, 2)]
    terms: list[tuple[tuple[int, ...], float]] = []
    columns: list[FloatArray] = []
    for chosen in products:
        values = np.prod(sizes[:, list(chosen)], axis=1)
        bends = chosen and len(chosen) == min(len(groups), 2)
        for knot in sorted({0.0, *(map(float, np.quantile(values, KNOTS)) if bends else ())}):
            terms.append((chosen, float(knot)))
            columns.append(np.maximum(values - knot, 0))
    weights = 1 / np.maximum(seconds, 0.3 * seconds.mean())
    slopes, error = nnls(np.column_stack(columns) * weights[:, None], seconds * weights)
    slope_of = dict(zip(terms, map(float, slopes), strict=True))
    parts = (
        Part(chosen, tuple((knot, slope) for (of, knot), slope in slope_of.items() if of == chosen and slope > 0))
        for chosen in products
    )
    return tuple(part for part in parts if part.slopes), float(error)


def _groups(widths: IntArray, shapes: Sequence[tuple[tuple[int, ...], ...]]) -> tuple[int, ...]:
    """The groups that most sizes follow, by number; configurations that ran other kernels are left out."""
    rows, sizes = next(_sizes(shapes))
    votes = Counter(group for size in sizes.T for group in _followed(widths[rows], size))
    return tuple(sorted(group for group, _ in votes.most_common(_MOST_GROUPS)))


def _padded(
    widths: IntArray, shapes: Sequence[tuple[tuple[int, ...], ...]], groups: Sequence[int]
) -> tuple[Sizes, ...]:
    """Sizes above the widths of groups, where they are not in proportion; those of the usual kernel first."""
    padded = []
    for group in groups:
        pairs: dict[int, int] = {}
        for rows, sizes in _sizes(shapes):
            width = widths[rows, group]
            following = [size for size in sizes.T if _rises(width, size) and (size >= width).all()]
            widest = max(following, key=np.sum, default=width)
            pairs = {**dict(zip(width.tolist(), widest.astype(int).tolist(), strict=True)), **pairs}
        seen = tuple(sorted(pairs))
        found = np.maximum.accumulate([pairs[width] for width in seen])
        if np.ptp(found) > 0 and not np.array_equal(found * seen[-1], np.array(seen) * found[-1]):
            padded.append(Sizes(group, seen, tuple(map(int, found))))
    return tuple(padded)


def _sizes(shapes: Sequence[tuple[tuple[int, ...], ...]]) -> Iterator[tuple[list[int], FloatArray]]:
    """For each kernel that ran under one key, the usual one first: in which configurations, and its sizes there."""
    forms = [tuple(map(len, listed)) for listed in shapes]
    for form, _ in Counter(forms).most_common():
        rows = [number for number, other in enumerate(forms) if other == form]
        yield rows, np.array([[size for shape in shapes[row] for size in shape] for row in rows], np.float64)


def _followed(widths: IntArray, size: FloatArray) -> list[int]:
    """The groups whose widths explain a size: one that it is a rising function of, or a few that add up to it."""
    chosen: list[int] = []
    spread = size - size.mean()
    rest, total = spread, float(spread @ spread)
    if total == 0:
        return []
    centred = widths - widths.mean(0)
    norms = np.sqrt(np.square(centred).sum(0))
    likeness = (centred.T @ spread) / np.where(norms > 0, norms, np.inf)
    best = int(np.argmax(likeness))
    if _rises(widths[:, best], size):
        return [best]
    while len(chosen) < _MOST_GROUPS and float(rest @ rest) > _EXPLAINED * total:
        likeness = (centred.T @ rest) / np.where(norms > 0, norms, np.inf)
        likeness[chosen] = 0
        best = int(np.argmax(likeness))
        if likeness[best] <= 0:
            break
        chosen.append(best)
        design = centred[:, chosen]
        rest = spread - design @ np.linalg.lstsq(design, spread, rcond=None)[0]
    return chosen


def _rises(width: IntArray, size: FloatArray) -> bool:
    """Whether a size is a function of a width that never falls."""
    order = np.lexsort((size, width))
    width, size = width[order], size[order]
    same = np.diff(width) == 0
    return bool((np.diff(size) >= 0).all() and (np.diff(size)[same] == 0).all())


def _owners(widths: IntArray, present: BoolArray) -> tuple[int, ...]:
    """The fewest groups whose absence explains that of a kernel, each of them never seen without it."""
    gone, missing = widths == 0, ~present
    gone[:, (gone & present[:, None]).any(0)] = False
    owners: list[int] = []
    while (explained := (gone & missing[:, None]).sum(0)).any():
        owners.append(int(np.argmax(explained)))
        missing = missing & ~gone[:, owners[-1]]
    return tuple(owners)
