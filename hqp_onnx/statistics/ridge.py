"""Least squares that always has an answer: a ridge with a floor, and solves that do not fail.

Moments are sums of float32 products, so a covariance S = E[x x^T] - E[x] E[x]^T is uncertain by about ``NOISE`` of the
second moments, however small it is: features that hardly vary (one sample, saturated activations, large means) have one
that is all noise, and may have negative eigenvalues. The ridge is never below that uncertainty.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from hqp_onnx.arrays import FloatArray

NOISE = float(np.finfo(np.float32).eps)  # of second moments, as a share


def ridge_strength(covariance: FloatArray, gram: FloatArray, share: float) -> float:
    """What is added to every variance: a ``share`` of their mean, at least the noise of ``gram``; 1 if all is zero.

    Args:
        covariance: float64 [F, F].
        gram: the second moments that it was made of.
        share: above 0.
    """
    count = max(len(covariance), 1)
    return float(max(share * np.trace(covariance) / count, NOISE * np.trace(gram) / count)) or 1.0


def solve(matrix: FloatArray, target: FloatArray) -> FloatArray:
    """matrix^-1 target of a symmetric ``matrix``, or the solution of least norm where it is finite and singular."""
    if target.size:
        with suppress(np.linalg.LinAlgError):  # half of the time where it is positive
            return np.asarray(cho_solve(cho_factor(matrix, lower=True, check_finite=False), target, check_finite=False))
    try:
        return np.asarray(np.linalg.solve(matrix, target), np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(matrix, hermitian=True) @ target, np.float64)


def inverse(matrix: FloatArray) -> FloatArray:
    """matrix^-1, or its pseudo-inverse where a finite ``matrix`` (or one of a stack) is singular."""
    try:
        return np.asarray(np.linalg.inv(matrix), np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(matrix, hermitian=True), np.float64)
