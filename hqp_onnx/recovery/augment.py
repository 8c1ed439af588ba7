"""Random flips and moves of images, one draw per sample.

``auto`` takes the kinds that are found harmless: images are varied so, and the original must answer as before. Of
classes, what it gives to the class that it answered counts, so doubtful images hardly do; of other outputs, the share
of each value's variance over the images that stays, whatever its unit. Where an answer moves with the image, as boxes
do, the kind is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.preprocess import image_axes
from hqp_onnx.errors import UsageError

SHARE = 8  # images move by up to 1 / SHARE of their size
SAME = 0.8  # of an answer, from which on a variation is harmless
CONSTANT = 1e-10  # variance of a value's mean square, up to which it is rounding
CHANNELS = 1, 3, 4  # of images


def spatial_axes(data: Dataset) -> tuple[int, int]:
    """Axes of height and width, as the model's input has them.

    Raises:
        UsageError: the data are not images [samples, ., ., .] of one input.
    """
    if len(data.specs) != 1 or len(data.specs[0].shape) != 4:
        raise UsageError("{--augment} is for images: the model must have one input, [samples, channels, height, width]")
    axes = image_axes(data.specs[0])
    return (1, 2) if axes is not None and axes[0] == "NHWC" else (2, 3)


def of_images(data: Dataset) -> bool:
    """Whether what the model takes can be nothing else than images: one input of 1, 3 or 4 channels."""
    axes = image_axes(data.specs[0]) if len(data.specs) == 1 else None
    return axes is not None and axes[1] in CHANNELS


def harmless(
    feeds: Mapping[str, Array],
    answer: Callable[[Mapping[str, Array]], Array],
    classes: int | None,
    axes: tuple[int, int],
    seed: int,
) -> dict[str, float]:
    """Each kind of augmentation, and how much of the original's answers stays under it, up to 1.

    Args:
        feeds: images.
        answer: the original's outputs for such, logits where there are ``classes``.
        classes: their axis.
        axes: of height and width.
        seed: of the draws.
    """
    before = answer(feeds)
    varied = {kind: augmented(feeds, (kind,), axes, np.random.default_rng((seed, 4))) for kind in ("crop",)}
    varied["flip"] = {name: np.flip(images, axes[1]) for name, images in feeds.items()}
    return {kind: _same(before, answer(images), classes) for kind, images in varied.items()}


def _same(before: Array, after: Array, classes: int | None) -> float:
    before, after = before.astype(np.float64), after.astype(np.float64)
    if classes is None:
        variance, moved = before.var(0), np.square(after - before).mean(0)
        varies = variance > CONSTANT * np.square(before).mean(0)
        return float(1 - (moved[varies] / variance[varies]).mean()) if varies.any() else 1.0
    p, q = (np.exp(z - z.max(classes, keepdims=True)) for z in (before, after))
    p, q = (x / x.sum(classes, keepdims=True) for x in (p, q))
    answered = p.argmax(classes, keepdims=True)
    kept, whole = (np.take_along_axis(x, answered, classes).sum() for x in (q, p))
    return float(kept / whole)


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
