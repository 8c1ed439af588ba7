"""Correlation r_t = sum over l of delta_l x_{l s + t d - p} as matrix products: r = C^T ((A^T x) * (B^T delta)).

Along one axis, A and B are real discrete Fourier transforms of length M, the smallest in which no lag that is wanted
aliases with another that occurs. A frequency takes three real products: with X = a + ib and D = u + iv,
Re(X conj(D) e^{iwt}) = a u (cos + sin) + b v (cos - sin) - (a + b)(u - v) sin. Several axes are Kronecker products.
"""

from __future__ import annotations

from functools import reduce
from itertools import count

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.graphs.windows import Window


def correlation_tables(w: Window) -> tuple[Array, Array, Array]:
    """A [P, q], B [L, q] and C [q, T] in float64, for the pixels, outputs and taps of a window."""
    sizes = zip(w.inner, w.outer, w.kernel, w.stride, w.dilation, w.begin, strict=True)
    axes = [_axis_tables(*size) for size in sizes]
    a, b, c = (reduce(np.kron, tables) for tables in zip(*axes, strict=True))
    return a, b, c


def correlation_rank(w: Window) -> int:
    """q, the products per channel."""
    sizes = zip(w.inner, w.outer, w.kernel, w.stride, w.dilation, w.begin, strict=True)
    return int(np.prod([3 * ((_length(*size) + 1) // 2) - 2 + (_length(*size) % 2 == 0) for size in sizes]))


def _axis_tables(inner: int, outer: int, k: int, s: int, d: int, p: int) -> tuple[Array, Array, Array]:
    m = _length(inner, outer, k, s, d, p)
    columns: list[tuple[Array, Array, Array]] = []
    for f in range(m // 2 + 1):
        w = 2 * np.pi * f / m
        x, y, lag = w * np.arange(inner), w * s * np.arange(outer), w * (d * np.arange(k) - p)
        if 2 * f % m == 0:  # a real frequency
            columns.append((np.cos(x), np.cos(y), np.cos(lag) / m))
            continue
        a, b, u, v = np.cos(x), -np.sin(x), np.cos(y), -np.sin(y)
        cos, sin = 2 / m * np.cos(lag), 2 / m * np.sin(lag)
        columns += [(a, u, cos + sin), (b, v, cos - sin), (a + b, u - v, -sin)]
    left, right, back = zip(*columns, strict=True)
    return np.stack(left, 1), np.stack(right, 1), np.stack(back)


def _length(inner: int, outer: int, k: int, s: int, d: int, p: int) -> int:
    """The smallest M that keeps the wanted lags apart from every other."""
    occurring = {i - s * j for i in range(inner) for j in range(outer)}
    wanted = {d * t - p for t in range(k)}
    return next(
        m for m in count(1) if all((lag - other) % m for lag in wanted for other in occurring | wanted if lag != other)
    )
