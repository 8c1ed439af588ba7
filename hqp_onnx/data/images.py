"""Images as model inputs: decoded when asked for, resized, cropped and normalised.

The usual convention of image classification: the shorter side is resized to ``size`` (bilinear, antialiased), the
centre ``crop`` is cut, and pixels become (pixel * scale - mean) / std.

Files come from anywhere: the formats of ``FORMATS`` are read, whatever a file is called, and no other decoder of Pillow
sees it (one of them starts Ghostscript). Pixels are 8 bits a channel; 16-bit grey becomes that, v / 257 rounded, and
what has no such scale (32-bit and float images) is refused. So are images of more than ``LARGEST`` pixels, before they
are decoded and after they would be resized, and pipes and devices.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.data.batch import LABELS, Batch
from hqp_onnx.errors import DataError, FileError, UsageError, one_line
from hqp_onnx.files import read_text, require_regular

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LARGEST = 1 << 26  # pixels, 8192 x 8192
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_HUGE = 1e30  # of a number that pixels are computed with; NaN is not below it
_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes an array; a JSON object with these keys.

    Attributes:
        size: pixels; a number resizes the shorter side, [height, width] resizes both; None keeps the size.
        crop: pixels cut from the centre, a number or [height, width]; None cuts nothing.
        mean: subtracted from each channel after ``scale``; one number per channel, in the order of ``color``.
        std: divides each channel after that.
        scale: factor on pixel values 0..255.
        layout: ``NCHW`` or ``NHWC``.
        color: ``RGB``, ``BGR`` or ``L`` (grey).

    Raises:
        UsageError: a value of the wrong type or range.
    """

    size: int | Sequence[int] | None = None
    crop: int | Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scale: float = 1 / 255
    layout: str = "NCHW"
    color: str = "RGB"

    def __post_init__(self) -> None:
        _require("layout", self.layout, self.layout in ("NCHW", "NHWC"), "'NCHW' or 'NHWC'")
        _require("color", self.color, self.color in tuple(_CHANNELS), "'RGB', 'BGR' or 'L'")
        for key, value in (("size", self.size), ("crop", self.crop)):
            good = value is None or _pixels(value) or (isinstance(value, list | tuple) and len(value) == 2)
            good = good and (not isinstance(value, list | tuple) or all(map(_pixels, value)))
            _require(key, value, good, "pixels: a whole number above 0, or [height, width]")
        channels = _CHANNELS[self.color]
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            good = numbers is None or (isinstance(numbers, list | tuple) and len(numbers) == channels)
            good = good and (numbers is None or all(map(_number, numbers)))
            _require(key, numbers, good, f"a list of {channels} numbers for color {self.color}")
        _require("std", self.std, self.std is None or all(value > 0 for value in self.std), "numbers above 0")
        _require("scale", self.scale, _number(self.scale), "a number")

    def __call__(self, image: Image.Image) -> Array:
        """``image`` as an array [C, H, W] or [H, W, C]: uint8 where pixels stay as they are, else float32."""
        image = self._crop(self._resize(_in_8_bits(image).convert("L" if self.color == "L" else "RGB")))
        pixels = np.asarray(image).reshape(image.height, image.width, _CHANNELS[self.color])
        if self.color == "BGR":
            pixels = pixels[:, :, ::-1]
        if (self.scale, self.mean, self.std) != (1, None, None):
            mean = np.asarray(0 if self.mean is None else self.mean, np.float32)
            std = np.asarray(1 if self.std is None else self.std, np.float32)
            pixels = (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std
        return pixels.transpose(2, 0, 1) if self.layout == "NCHW" else pixels

    def _resize(self, image: Image.Image) -> Image.Image:
        if self.size is None:
            return image
        if isinstance(self.size, int):
            short = min(image.size)
            width, height = (int(self.size * side / short) for side in image.size)
        else:
            height, width = self.size
        if width * height > LARGEST:
            raise DataError(f"becomes {height}x{width} pixels: expected {LARGEST} at most. Give another 'size'")
        return image.resize((width, height), Image.Resampling.BILINEAR)

    def _crop(self, image: Image.Image) -> Image.Image:
        if self.crop is None:
            return image
        height, width = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if height > image.height or width > image.width:
            raise DataError(f"is {image.height}x{image.width} pixels, smaller than the crop of {height}x{width}")
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        return image.crop((left, top, left + width, top + height))


def read_preprocess(file: Path) -> Preprocess:
    """The ``Preprocess`` that a JSON file describes.

    Raises:
        UsageError: unreadable file, invalid JSON, an unknown key, a value of the wrong type.
    """
    known = list(Preprocess.__dataclass_fields__)
    try:
        values = json.loads(read_text(file))
    except (FileError, ValueError, RecursionError) as e:
        raise UsageError(f"{file}: not a readable JSON file: {one_line(e)}") from e
    if not isinstance(values, dict) or (unknown := sorted(values.keys() - known)):
        problem = f"unknown key '{unknown[0]}'" if isinstance(values, dict) else f"a JSON {type(values).__name__}"
        raise UsageError(f"{file}: {problem}; expected an object with keys among {', '.join(known)}")
    try:
        return Preprocess(**values)
    except UsageError as e:
        raise UsageError(f"{file}: {e}") from e


def _require(key: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise UsageError(f"preprocess '{key}' is {json.dumps(value)}, expected {expected}")


def _pixels(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE


def _in_8_bits(image: Image.Image) -> Image.Image:
    """``image`` with 8 bits a channel.

    Raises:
        DataError: its values have no scale that says what white is.
    """
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if wide:
        values = np.asarray(image).astype(np.uint32)  # of white: 65535
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"has 32-bit pixels (mode {image.mode}), expected 8 or 16 bits: convert it, or give arrays")
    return image


@dataclass(frozen=True)
class ImageSource:
    """Image files, decoded when their rows are asked for; ``labels`` int64 [files], or None."""

    name: str
    files: Sequence[Path]
    labels: IntArray | None
    preprocess: Preprocess
    input_name: str

    @property
    def count(self) -> int:
        """Images."""
        return len(self.files)

    def rows(self, start: int, stop: int) -> Batch:
        """Images ``start`` to ``stop`` (exclusive), decoded; ``DataError`` names the image that is wrong."""
        files = self.files[start:stop]
        images: list[Array] = []
        for file in files:
            images.append(self._decode(file))
            if images[-1].shape != images[0].shape:
                raise DataError(
                    f"{file}: shape {list(images[-1].shape)} differs from {list(images[0].shape)} of {files[0]}; "
                    "give {--preprocess} with 'size' and 'crop'"
                )
        targets = {} if self.labels is None else {LABELS: self.labels[start:stop]}
        return Batch({self.input_name: np.stack(images)}, targets)

    def _decode(self, file: Path) -> Array:
        require_regular(file, "an image")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own, on sizes that are checked here
                with Image.open(file, formats=FORMATS) as image:
                    if image.width * image.height > LARGEST:
                        raise DataError(f"is {image.height}x{image.width} pixels: expected {LARGEST} at most")
                    return self.preprocess(image)
        except DataError as e:
            raise DataError(f"{file}: {e}") from e
        except UnidentifiedImageError as e:
            raise DataError(f"{file}: not a readable image: expected {', '.join(FORMATS)}") from e
        except MemoryError:
            raise
        except Exception as e:  # decoders raise anything on damaged files, struct.error and IndexError among it
            raise DataError(f"{file}: not a readable image: {one_line(e)}") from e


def open_folder(folder: Path, preprocess: Preprocess, input_name: str) -> ImageSource:
    """The images of ``folder``: one sub-folder per class, or images and no labels.

    Raises:
        DataError: no images, or images beside sub-folders.
    """
    loose = _images(folder.iterdir())
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if loose and classes:
        raise DataError(f"{folder}: images beside sub-folders; expected either one sub-folder per class or none")
    groups = [_images(entry.rglob("*")) for entry in classes]
    files = loose + [file for group in groups for file in group]
    if not files:
        raise DataError(f"{folder}: no images; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups]) if classes else None
    return ImageSource(str(folder), files, labels, preprocess, input_name)


def _images(entries: Iterator[Path]) -> list[Path]:
    return sorted(
        e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and not e.name.startswith(".") and not e.is_dir()
    )
