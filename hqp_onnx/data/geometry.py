"""Where the pixels of an image go: one resize, then one window, which cuts, or pads where it is larger.

    x' = x * resized width / width - left          and the same for y

An image, its mask and its boxes go through the same transformation, so that they still fit each other afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hqp_onnx.arrays import Array


@dataclass(frozen=True, slots=True)
class Geometry:
    """The way of one image into the model.

    Attributes:
        width: of the image as it is stored.
        height: likewise.
        resized: width and height after the resize.
        window: left, top, right and bottom of what is taken from that; beyond its edges there is padding.
    """

    width: int
    height: int
    resized: tuple[int, int]
    window: tuple[int, int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the model's input."""
        left, top, right, bottom = self.window
        return right - left, bottom - top

    def image(self, image: Image.Image, resample: Image.Resampling, fill: int) -> Image.Image:
        """``image`` as it enters the model, padded with ``fill``."""
        if image.size != self.resized:
            image = image.resize(self.resized, resample)
        left, top, right, bottom = self.window
        if self.window == (0, 0, *self.resized):
            return image
        if left >= 0 and top >= 0 and right <= self.resized[0] and bottom <= self.resized[1]:
            return image.crop(self.window)
        color = fill if len(image.getbands()) == 1 else (fill,) * len(image.getbands())
        padded = Image.new(image.mode, self.size, color)
        padded.paste(image, (-left, -top))
        return padded

    def boxes(self, boxes: Array) -> Array:
        """``boxes`` [n, 4], x1, y1, x2, y2 in pixels of the stored image, in those of the model's input; cut there."""
        left, top, _, _ = self.window
        scale = np.array([self.resized[0] / self.width, self.resized[1] / self.height] * 2)
        moved = boxes * scale - np.array([left, top] * 2)
        return np.asarray(np.clip(moved, 0, np.array(self.size * 2)))
