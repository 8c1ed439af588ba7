"""Tables of times fitted to measurements.

Times of kernels are corrected first, by a factor and a constant for each kernel, so that they add up to the measured
time of the whole model: profilers cost time themselves.

Which groups a kernel depends on is read from its shapes (``sizes``), so names of fused kernels do not matter. Kernels
that compute blocks of channels at a time show it: by padded shapes, whose sizes then stand for the widths, or by their
time, which follows sizes rounded up to blocks better than the sizes themselves. So do kernels that take longer for few
channels than for more, as those of INT8 do that fill no register. What fits best is taken.

Profiles say how times are spread, and the clock how long a whole model takes. So in the end every kernel's function has
a factor of its own, near 1, such that their sums meet the measured times of whole models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
from scipy.optimize import lsq_linear, nnls

from hqp_onnx.arrays import BoolArray, FloatArray, IntArray
from hqp_onnx.timing.kernel_times import KeyTime
from hqp_onnx.timing.sizes import followed_groups, padded_sizes
from hqp_onnx.timing.table import KernelTime, Part, TimeTable

BLOCKS = (1, 4, 8, 16, 32)
NARROW = (8, 16, 32)  # widths below which a kernel may be slower
KNOTS = (0.4, 0.75)  # quantiles of what was measured
_LEAST = 0.05  # of a kernel's time as profiled is its own
_TIE = 0.01  # weight of "no correction" where the times leave it open
_FEWEST = 6  # configurations that a kernel must have been seen in
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


def fit_table(configurations: Sequence[Configuration], folds: int) -> TimeTable:
    """A table of all configurations; its error is that of tables of the others on each of so many parts of them."""
    errors = [
        abs(trial.seconds(c.widths) / c.seconds - 1)
        for fold in range(folds)
        for trial in [_fit([c for place, c in enumerate(configurations) if place % folds != fold])]
        for c in configurations[fold::folds]
        if c.seconds
    ]
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
    factors, _ = _nonnegative(np.vstack([shares, np.diag(stiff)]), np.append(np.ones(len(telling)), stiff * before))
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
    above, _ = _nonnegative(rows, np.append(np.ones(len(measured)), [0, 0]) - rows @ least)
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
    groups = followed_groups(widths, shapes)
    padded = padded_sizes(widths, shapes, groups)
    sizes = widths.astype(np.float64)
    for one in padded:
        sizes[:, one.group] = one.of(widths[:, one.group])
    owners = _owners(np.array([c.widths for c in configurations]), np.array([key in c.kernels for c in configurations]))
    best: tuple[float, KernelTime] | None = None
    for narrow, block in product((0, *NARROW), BLOCKS) if groups else ((0, 1),):
        blocks = np.ceil(sizes / block) * block
        terms = [*_terms(blocks, groups), *_narrow_terms(widths, blocks, groups, narrow)]
        parts, error = _fit_parts(terms, seconds)
        if best is None or error < _CLEARLY_BETTER * best[0]:
            best = error, KernelTime(parts, owners, block, padded)
    return best[1] if best else None


_Term = tuple[Part, FloatArray]
"""A part with a slope of 1, and what it is in each configuration."""


def _terms(sizes: FloatArray, groups: Sequence[int]) -> Iterator[_Term]:
    """A constant, and rising functions of sizes and of their products."""
    for chosen in ((), *((group,) for group in groups), *combinations(groups, 2)):
        values = np.prod(sizes[:, list(chosen)], axis=1)
        bends = chosen and len(chosen) == min(len(groups), 2)
        for knot in sorted({0.0, *(map(float, np.quantile(values, KNOTS)) if bends else ())}):
            yield Part(chosen, ((knot, 1.0),)), np.maximum(values - knot, 0)


def _narrow_terms(widths: IntArray, sizes: FloatArray, groups: Sequence[int], narrow: int) -> Iterator[_Term]:
    """What is slower where a group is narrower than ``narrow``: a constant, and in proportion to another group."""
    for group in groups:
        few = widths[:, group] < narrow
        if few.any() and not few.all():
            for others in ((), *((other,) for other in groups if other != group)):
                yield Part(others, ((0.0, 1.0),), (group, narrow)), few * np.prod(sizes[:, list(others)], axis=1)


def _fit_parts(terms: Sequence[_Term], seconds: FloatArray) -> tuple[tuple[Part, ...], float]:
    """Non-negative least squares of relative errors; the parts, and the error."""
    weights = 1 / np.maximum(seconds, 0.3 * seconds.mean())
    columns = np.column_stack([values for _, values in terms])
    slopes, error = _nonnegative(columns * weights[:, None], seconds * weights)
    found: dict[tuple[tuple[int, ...], tuple[int, int] | None], tuple[tuple[float, float], ...]] = {}
    for (part, _), slope in zip(terms, slopes, strict=True):
        ((knot, _),), place = part.slopes, (part.groups, part.below)
        found[place] = (*found.get(place, ()), *([(knot, float(slope))] if slope > 0 else []))
    return tuple(Part(groups, slopes, below) for (groups, below), slopes in found.items() if slopes), float(error)


def _owners(widths: IntArray, present: BoolArray) -> tuple[int, ...]:
    """The fewest groups whose absence explains that of a kernel, each of them never seen without it."""
    gone, missing = widths == 0, ~present
    gone[:, (gone & present[:, None]).any(0)] = False
    owners: list[int] = []
    while (explained := (gone & missing[:, None]).sum(0)).any():
        owners.append(int(np.argmax(explained)))
        missing = missing & ~gone[:, owners[-1]]
    return tuple(owners)


def _nonnegative(matrix: FloatArray, values: FloatArray) -> tuple[FloatArray, float]:
    """Least squares without negative factors; these, and the norm of what is left."""
    scale = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(scale > 0, scale, 1)
    try:
        found = nnls(scaled, values)[0]
    except RuntimeError:  # its active set goes in circles where columns are nearly the same
        found = lsq_linear(scaled, values, (0, np.inf)).x
    return found / np.where(scale > 0, scale, 1), float(np.linalg.norm(scaled @ found - values))
