"""Pink noise: the spectrum of natural images falls as 1 / f (Field 1987), so neighbours are alike; colours mostly are.

White noise has no smooth areas: its sums over a filter's window are smaller than those of images, and so are ranges.
"""

from __future__ import annotations

import numpy as np

from hqp_onnx.arrays import FloatArray
from hqp_onnx.synthesis.prior import Prior, is_image

_SHARED = 0.9  # of the variance of a pixel's colours


def drawn(rng: np.random.Generator, prior: Prior, shape: tuple[int, ...]) -> FloatArray:
    """A batch of noise with the mean, standard deviation and bounds of ``prior``, float64."""
    return np.clip(prior.mean + prior.std * pink(rng, shape), prior.low, prior.high)


def pink(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """A batch [N, ...] of mean 0 and standard deviation 1; white where there are no axes of space or time."""
    channels, axes = _axes(shape)
    white = rng.standard_normal(shape)
    if not axes:
        return white
    if is_image(shape):
        white = np.sqrt(1 - _SHARED) * white + np.sqrt(_SHARED) * white.take([0], channels)
    squares = np.zeros([1] * len(shape))
    for axis in axes:
        frequency = np.fft.fftfreq(shape[axis])
        squares = squares + np.square(frequency).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    squares[squares == 0] = squares[squares > 0].min()
    noise: FloatArray = np.fft.ifftn(np.fft.fftn(white, axes=axes) / np.sqrt(squares), axes=axes).real
    noise -= noise.mean()
    noise /= noise.std()
    return noise


def _axes(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The axis of channels, and those of space or time."""
    last = is_image(shape) and shape[1] not in (1, 3)
    channels = len(shape) - 1 if last else 1
    return channels, tuple(axis for axis in range(1, len(shape)) if axis != channels and shape[axis] > 1)
