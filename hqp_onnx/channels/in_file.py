"""Units by the names and axes that weights have in the file that was given.

A weight may be a part of an initializer (queries of a packed matrix), or one whose axes were joined (heads, and what is
inside them). Where it is a part, an index of the file is said to be removed only if nothing that it names stays: parts
that are cut apart along that axis each say theirs, parts that are cut along another must agree, and be all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.labels import compress, varied
from hqp_onnx.graphs.origin import Home

Place: TypeAlias = "tuple[str, int]"
"""A tensor and an axis."""


@dataclass(frozen=True, eq=False)
class _Part:
    """What a weight says of an axis of its initializer: ``labels`` along all of it, and what it holds of each axis."""

    weight: Place
    labels: IntArray
    region: tuple[IntArray, ...] | None

    def partial(self, axis: int, shape: Sequence[int]) -> bool:
        """Whether an index along ``axis`` names more than this weight holds."""
        lines = enumerate(self.region or ())
        return any(len(line) < shape[number] for number, line in lines if number != axis)


def in_file(members: Mapping[Place, IntArray], homes: Mapping[str, Home]) -> dict[Place, IntArray]:
    """``members`` by places in the file; those that it has no place for keep their own."""
    parts: dict[Place, list[_Part]] = {}
    for (name, axis), labels in members.items():
        home = homes.get(name)
        found = None if home is None else _placed(home, axis, labels)
        named, own = ((name, axis), labels) if home is None or found is None else ((home.name, found[0]), found[1])
        region = None if home is None or found is None else _region(home)
        parts.setdefault(named, []).append(_Part((name, axis), own, region))
    shapes = {home.name: home.shape for home in homes.values()}
    result: dict[Place, IntArray] = {}
    for named, given in parts.items():
        joined = _joined(given, named[1], shapes.get(named[0], ()))
        result.update({part.weight: members[part.weight] for part in given} if joined is None else {named: joined})
    return result


def _placed(home: Home, axis: int, labels: IntArray) -> tuple[int, IntArray] | None:
    """The axis of the file that labels along an axis of a weight are along, and labels along all of it."""
    place, index = home.axes[axis], home.indices[axis]
    if isinstance(place, tuple):
        grid = compress(labels.reshape([home.shape[number] for number in place]))
        along = varied(grid)
        return (place[along[0]], grid.ravel()) if len(along) == 1 else None
    if place is None or index is None or len(np.unique(index)) < len(index):
        return None
    line = np.full(home.shape[place], -1)
    line[index] = labels
    return place, line


def _region(home: Home) -> tuple[IntArray, ...]:
    """Indices of each axis of the initializer that a weight holds; only what is along an axis of its own is cut."""
    region = list(map(np.arange, home.shape))
    for place, index in zip(home.axes, home.indices, strict=True):
        if isinstance(place, int) and index is not None:
            region[place] = np.unique(index)
    return tuple(region)


def _joined(parts: Sequence[_Part], axis: int, shape: Sequence[int]) -> IntArray | None:
    """What all parts say together; None where that is not true of the initializer."""
    line = np.full(len(parts[0].labels), -1)
    for part in parts:
        both = (line >= 0) & (part.labels >= 0)
        if (line[both] != part.labels[both]).any():
            return None
        line = np.maximum(line, part.labels)
    if not any(part.partial(axis, shape) for part in parts):
        return line
    held = np.zeros(shape, bool)
    for part in parts:
        lines = list(part.region or map(np.arange, shape))
        lines[axis] = lines[axis][part.labels[lines[axis]] >= 0]
        held[np.ix_(*lines)] = True
    return line if np.moveaxis(held, axis, 0)[line >= 0].all() else None
