"""Random flips and moves of images, one draw per sample; never a guess that data are images."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.preprocess import image_axes
from hqp_onnx.errors import UsageError

SHARE = 8  # images move by up to 1 / SHARE of their size


def spatial_axes(data: Dataset) -> tuple[int, int]:
    """Axes of height and width, as the model's input has them.

    Raises:
        UsageError: the data are not images [samples, ., ., .] of one input.
    """
    if len(data.specs) != 1 or len(data.specs[0].shape) != 4:
        raise UsageError("{--augment} is for images: the model must have one input, [samples, channels, height, width]")
    axes = image_axes(data.specs[0])
    return (1, 2) if axes is not None and axes[0] == "NHWC" else (2, 3)


def augmented(
    feeds: Mapping[str, Array], kinds: Collection[str], axes: tuple[int, int], rng: np.random.Generator
) -> dict[str, Array]:
    """Each image mirrored with probability 1/2 (``flip``), and moved over its repeated edge (``crop``)."""
    return {name: np.stack([_drawn(x, kinds, axes, rng) for x in images]) for name, images in feeds.items()}


def _drawn(image: Array, kinds: Collection[str], axes: tuple[int, int], rng: np.random.Generator) -> Array:
    for axis in axes if "crop" in kinds else ():
        size = image.shape[axis - 1]
        reach = size // SHARE
        moved = np.arange(size) + rng.integers(-reach, reach + 1)
        image = image.take(np.clip(moved, 0, size - 1), axis - 1)
    if "flip" in kinds and rng.random() < 0.5:
        image = np.flip(image, axes[1] - 1)
    return image
