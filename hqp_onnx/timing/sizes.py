"""Which groups the shapes of a kernel follow, and what it pads their widths to.

A size that follows a group's width through all configurations is that group's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.timing.table import Sizes

_MOST_GROUPS = 3
_EXPLAINED = 0.05  # of a size's spread that may remain


def followed_groups(widths: IntArray, shapes: Sequence[tuple[tuple[int, ...], ...]]) -> tuple[int, ...]:
    """The groups that most sizes follow, by number; configurations that ran other kernels are left out."""
    rows, sizes = next(_sizes(shapes))
    votes = Counter(group for size in sizes.T for group in _followed(widths[rows], size))
    return tuple(sorted(group for group, _ in votes.most_common(_MOST_GROUPS)))


def padded_sizes(
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
