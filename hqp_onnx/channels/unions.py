"""Union-find over label arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hqp_onnx.arrays import IntArray


def components(count: int, ties: Iterable[tuple[IntArray, IntArray]]) -> IntArray:
    """Smallest label of each label's connected component, int64 [count], by pointer jumping."""
    roots = np.arange(count)
    pairs = [np.concatenate(side) for side in zip(*ties, strict=True)]
    if not pairs:
        return roots
    left, right = pairs
    while True:
        low = np.minimum(roots[left], roots[right])
        before = roots.copy()
        for side in (roots[left], roots[right]):
            np.minimum.at(roots, side, low)
        while not np.array_equal(roots, jumped := roots[roots]):
            roots = jumped
        if np.array_equal(roots, before):
            return roots


def find(roots: IntArray, labels: IntArray) -> IntArray:
    """Roots of ``labels`` while ``roots`` may still point to what was merged; these pointers are cut short."""
    parents = roots[labels]
    while not np.array_equal(parents, further := roots[parents]):
        parents = further
    roots[labels] = parents
    return parents


def merge(roots: IntArray, left: IntArray, right: IntArray) -> None:
    """Point tied roots, ``left`` to ``right``, to the smallest of their component."""
    names, numbers = np.unique(find(roots, np.concatenate([left, right])), return_inverse=True)
    pairs = numbers[: len(left)], numbers[len(left) :]
    roots[names] = names[components(len(names), [pairs])]


def freedom(labels: IntArray, axis: int) -> int:
    """Units that remain when labels are tied along every axis but ``axis``, and to -1 (which stays) where they meet."""
    numbers = np.unique(np.append(-1, labels), return_inverse=True)[1][1:].reshape(labels.shape)
    lines = np.moveaxis(numbers, axis, 0).reshape(labels.shape[axis], -1)
    roots = components(int(lines.max()) + 1, [(lines[:, :1].repeat(lines.shape[1], 1).ravel(), lines.ravel())])
    return len(np.unique(roots[1:][roots[1:] != roots[0]]))


def first_seen(labels: IntArray) -> IntArray:
    """Distinct labels other than -1, in order of first appearance."""
    distinct, first = np.unique(labels[labels >= 0], return_index=True)
    return distinct[np.argsort(first)]
