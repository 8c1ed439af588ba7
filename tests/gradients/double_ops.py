"""Operators in double precision where the reference evaluator of onnx is single, wrong or silent."""

import math

import numpy as np
from onnx.reference.op_run import OpRun


class Erf(OpRun):
    """In double precision: that of the reference evaluator is single."""

    def _run(self, x):
        return (np.vectorize(math.erf)(x),)


class Gelu(OpRun):
    """As above."""

    def _run(self, x, approximate):
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),)


def normalized(x, axes, epsilon=0.0):
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)


class GroupNormalization(OpRun):
    """In double precision, as are those below; the standard's function has a single stage."""

    def _run(self, x, scale, bias, epsilon, num_groups, **_):
        grouped = normalized(x.reshape(len(x), num_groups, -1), 2, epsilon).reshape(x.shape)
        return (grouped * scale[:, None, None] + bias[:, None, None],)


class MeanVarianceNormalization(OpRun):
    def _run(self, x, axes):
        return (normalized(x, tuple(axes), 1e-18),)


class LpNormalization(OpRun):
    """That of the reference evaluator forgets the absolute value."""

    def _run(self, x, axis, p):
        return (x / np.linalg.norm(x, p, axis, keepdims=True),)


class LRN(OpRun):
    """That of the reference evaluator mixes up samples and channels."""

    def _run(self, x, alpha, beta, bias, size):
        half = size // 2
        sums = [(x[:, max(0, c - half) : c + half + 1] ** 2).sum(1) for c in range(x.shape[1])]
        return (x / (bias + alpha / size * np.stack(sums, 1)) ** beta,)


class GlobalLpPool(OpRun):
    def _run(self, x, p):
        return ((np.abs(x) ** p).sum((2, 3), keepdims=True) ** (1 / p),)


OURS = [Erf, Gelu, GroupNormalization, MeanVarianceNormalization, LpNormalization, LRN, GlobalLpPool]
