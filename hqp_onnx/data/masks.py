"""Masks of images: for each a PNG of class indices in another folder, of the same name but for the ending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import LABELS
from hqp_onnx.data.geometry import Geometry
from hqp_onnx.data.images import images_among, opened
from hqp_onnx.errors import DataError
from hqp_onnx.files import fingerprint

UNLABELED = 255
"""The class of what padding adds around a mask, and by convention of pixels that nobody labeled."""
_INDICES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # modes whose values are indices; of P: into a palette


@dataclass(frozen=True)
class Masks:
    """The masks of ``images`` in ``folder``: target 'labels', int32 [samples, height, width] of the model's input."""

    folder: Path
    files: Sequence[Path]
    per_sample: Mapping[str, Array] = field(default_factory=dict)

    def of(self, position: int, geometry: Geometry) -> Mapping[str, Array]:
        """The mask of one image, moved as that was, each pixel that of its nearest neighbour."""
        return {LABELS: opened(self.files[position], partial(_mask, geometry=geometry))}

    def digest(self) -> str:
        """Of the names and bytes of the folder."""
        return fingerprint(self.folder)


def open_masks(folder: Path, images: Sequence[Path], root: Path) -> Masks:
    """The masks of ``images``, which lie under ``root``: at the same place under ``folder``, or by their name alone.

    Raises:
        DataError: an image has no mask, or two.
    """
    found = images_among(folder.rglob("*"))
    places: dict[Path, list[Path]] = {}
    names: dict[str, list[Path]] = {}
    for file in found:
        places.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
        names.setdefault(file.stem, []).append(file)
    masks = []
    for image in images:
        own = places.get(image.relative_to(root).with_suffix("")) or names.get(image.stem, [])
        if len(own) != 1:
            many = f"several masks, {own[0].name} and {own[1].name}" if own else f"no mask {image.stem}.png"
            raise DataError(f"{folder}: {many} for {image}: expected one of the same name as each image")
        masks.append(own[0])
    return Masks(folder, masks)


def _mask(image: Image.Image, geometry: Geometry) -> Array:
    if image.mode not in _INDICES:
        raise DataError(f"is a picture in colours (mode {image.mode}), expected one channel of class indices")
    if image.size != (geometry.width, geometry.height):
        have, want = f"{image.height}x{image.width}", f"{geometry.height}x{geometry.width}"
        raise DataError(f"is a mask of {have} pixels for an image of {want}: expected the same size")
    indices = Image.fromarray(np.asarray(image).astype(np.int32))
    return np.asarray(geometry.image(indices, Image.Resampling.NEAREST, UNLABELED))
