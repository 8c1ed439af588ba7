"""Adam (Kingma and Ba 2015, arXiv:1412.6980) on one flat vector, and a learning rate that warms up and decays.

m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w -= rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import Float32Array

FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-8
WARM_UP = 0.1  # share of the steps


@dataclass
class Adam:
    """Moments of ``step`` steps, float32 [weights]; updated in place."""

    m: Float32Array
    v: Float32Array
    step: int = 0

    @classmethod
    def zeros(cls, size: int) -> Adam:
        """Before the first step."""
        return cls(np.zeros(size, np.float32), np.zeros(size, np.float32))

    def update(self, weights: Float32Array, gradient: Float32Array, rate: Float32Array | float) -> None:
        """Take one step on ``weights``, in place; ``rate`` may differ from weight to weight."""
        self.step += 1
        self.m *= FIRST
        self.m += (1 - FIRST) * gradient
        self.v *= SECOND
        self.v += (1 - SECOND) * np.square(gradient)
        size = np.sqrt(self.v / (1 - SECOND**self.step))
        size += EPSILON
        weights -= rate * (self.m / (1 - FIRST**self.step)) / size


def cosine(step: float, steps: int, peak: float) -> float:
    """Learning rate of step 0 .. steps - 1, or of a place between: linear up to ``peak``, then half a cosine to 0."""
    warm = math.ceil(WARM_UP * steps)
    if step < warm:
        return peak * min(step + 1, warm) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
