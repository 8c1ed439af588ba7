"""How an image becomes an array, said by a name, a JSON object or a file of one.

Pixels become (pixel * scale - mean) / std after a resize and a cut, or a resize and padding. The usual conventions have
names (``PRESETS``), which take the size and the layout from the model's input:

    imagenet   the shorter side to 8/7 of the input's size, the centre cut, mean and std of ImageNet
    clip       the shorter side to the input's size (bicubic), the centre cut, mean and std of CLIP
    tf         resized to the input's size, pixels in -1..1
    yolo       the longer side to the input's size, padded with grey, pixels in 0..1
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from hqp_onnx.arrays import Array
from hqp_onnx.data.geometry import Geometry
from hqp_onnx.errors import DataError, FileError, UsageError, one_line
from hqp_onnx.files import read_text
from hqp_onnx.runtimes.session import TensorSpec

LARGEST = 1 << 26  # pixels, 8192 x 8192
_HUGE = 1e30  # of a number that pixels are computed with; NaN is not below it
_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}
_RESAMPLE = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
_RESAMPLE |= {"bicubic": Image.Resampling.BICUBIC}
_USUAL = 224  # of a model whose input leaves its size open

KEYS = {
    "size": "pixels; a number resizes the shorter side, [height, width] resizes both; null keeps the size",
    "crop": "pixels cut from the centre afterwards, a number or [height, width]; null cuts nothing",
    "letterbox": "pixels; a number or [height, width] that the whole image is fitted into; instead of size and crop",
    "fill": "0..255, of what letterbox adds around the image (default 114)",
    "resample": "nearest, bilinear (default) or bicubic; the latter two with antialiasing",
    "scale": "factor on pixel values 0..255 (default 1/255)",
    "mean": "subtracted from each channel after scale; one number per channel, in the order of color",
    "std": "divides each channel after that",
    "layout": "NCHW or NHWC (default: the model's)",
    "color": "RGB, BGR or L, which is grey (default: L where the model takes one channel, else RGB)",
}
"""What a JSON object of preprocessing may hold, and what it means."""

PreprocessLike: TypeAlias = "str | Path | Mapping[str, Any] | Preprocess"
"""A name in ``PRESETS``, a JSON file, the JSON itself, a dictionary of ``KEYS``, or a ``Preprocess``."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes an array; the attributes are ``KEYS``.

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
    letterbox: int | Sequence[int] | None = None
    fill: int = 114
    resample: str = "bilinear"

    def __post_init__(self) -> None:
        _require("layout", self.layout, self.layout in ("NCHW", "NHWC"), "'NCHW' or 'NHWC'")
        _require("color", self.color, self.color in tuple(_CHANNELS), "'RGB', 'BGR' or 'L'")
        _require("resample", self.resample, self.resample in tuple(_RESAMPLE), f"one of {', '.join(_RESAMPLE)}")
        for key, value in (("size", self.size), ("crop", self.crop), ("letterbox", self.letterbox)):
            good = value is None or _pixels(value) or (isinstance(value, list | tuple) and len(value) == 2)
            good = good and (not isinstance(value, list | tuple) or all(map(_pixels, value)))
            _require(key, value, good, "pixels: a whole number above 0, or [height, width]")
        if self.letterbox is not None and (self.size is not None or self.crop is not None):
            raise UsageError("preprocess 'letterbox' takes the place of 'size' and 'crop': leave these out")
        if self.letterbox is not None and np.prod(_pair(self.letterbox)) > LARGEST:
            raise UsageError(f"preprocess 'letterbox' is {self.letterbox}, expected {LARGEST} pixels at most")
        channels = _CHANNELS[self.color]
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            good = numbers is None or (isinstance(numbers, list | tuple) and len(numbers) == channels)
            good = good and (numbers is None or all(map(_number, numbers)))
            _require(key, numbers, good, f"a list of {channels} numbers for color {self.color}")
        _require("std", self.std, self.std is None or all(value > 0 for value in self.std), "numbers above 0")
        _require("scale", self.scale, _number(self.scale), "a number")
        _require("fill", self.fill, _number(self.fill) and self.fill in range(256), "a whole number in 0..255")

    def __call__(self, image: Image.Image) -> Array:
        """``image`` as an array [C, H, W] or [H, W, C]: uint8 where pixels stay as they are, else float32."""
        geometry = self.geometry(*image.size)
        image = geometry.image(
            _in_8_bits(image).convert("L" if self.color == "L" else "RGB"), _RESAMPLE[self.resample], self.fill
        )
        pixels = np.asarray(image).reshape(image.height, image.width, _CHANNELS[self.color])
        if self.color == "BGR":
            pixels = pixels[:, :, ::-1]
        if (self.scale, self.mean, self.std) != (1, None, None):
            mean = np.asarray(0 if self.mean is None else self.mean, np.float32)
            std = np.asarray(1 if self.std is None else self.std, np.float32)
            pixels = (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std
        return pixels.transpose(2, 0, 1) if self.layout == "NCHW" else pixels

    def geometry(self, width: int, height: int) -> Geometry:
        """Where the pixels of an image of this size go; ``DataError`` where it becomes too large, or is too small."""
        if self.letterbox is not None:
            return _letterboxed(width, height, *_pair(self.letterbox))
        new_width, new_height = self._resized(width, height)
        if new_width * new_height > LARGEST:
            raise DataError(f"becomes {new_height}x{new_width} pixels: expected {LARGEST} at most. Give another 'size'")
        rows, columns = (new_height, new_width) if self.crop is None else _pair(self.crop)
        if rows > new_height or columns > new_width:
            raise DataError(f"is {new_height}x{new_width} pixels, smaller than the crop of {rows}x{columns}")
        top, left = round((new_height - rows) / 2), round((new_width - columns) / 2)
        return Geometry(width, height, (new_width, new_height), (left, top, left + columns, top + rows))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.size is None:
            return width, height
        if isinstance(self.size, int):
            short = min(width, height)
            return int(self.size * width / short), int(self.size * height / short)
        return self.size[1], self.size[0]


def _letterboxed(width: int, height: int, rows: int, columns: int) -> Geometry:
    share = min(columns / width, rows / height)
    resized = max(1, round(width * share)), max(1, round(height * share))
    left, top = (columns - resized[0]) // 2, (rows - resized[1]) // 2
    return Geometry(width, height, resized, (-left, -top, columns - left, rows - top))


def read_preprocess(value: PreprocessLike, spec: TensorSpec | None = None) -> Preprocess:
    """The ``Preprocess`` that a value describes; layout and channels that it leaves open are those of ``spec``.

    Raises:
        UsageError: unreadable file, invalid JSON, an unknown key, a value of the wrong type.
    """
    if isinstance(value, Preprocess):
        return value
    if isinstance(value, Mapping):
        return _checked(value, "{--preprocess}", spec)
    text = str(value)
    if text in PRESETS:
        return _checked(_preset(text, spec), f"{{--preprocess}} {text}", spec)
    if text.lstrip().startswith("{"):
        return _checked(_parsed(text, "{--preprocess}"), "{--preprocess}", spec)
    try:
        content = read_text(Path(text))
    except FileError as e:
        expected = f"expected one of {', '.join(PRESETS)}, a JSON object in quotes, or a file of one"
        raise UsageError(f"{text}: not a readable JSON file: {one_line(e)}; {expected}") from e
    return _checked(_parsed(content, text), text, spec)


def is_file(value: PreprocessLike) -> bool:
    """Whether ``value`` names a file."""
    return isinstance(value, (str, Path)) and str(value) not in PRESETS and not str(value).lstrip().startswith("{")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{where}: not a readable JSON file: {one_line(e)}") from e


def _checked(values: Any, where: str, spec: TensorSpec | None) -> Preprocess:
    if not isinstance(values, Mapping) or (unknown := sorted(map(str, values.keys() - KEYS))):
        problem = f"unknown key '{unknown[0]}'" if isinstance(values, Mapping) else f"a JSON {type(values).__name__}"
        raise UsageError(f"{where}: {problem}; expected an object with keys among {', '.join(KEYS)}")
    try:
        return Preprocess(**{**_of_model(spec), **values})
    except UsageError as e:
        raise UsageError(f"{where}: {e}") from e


def image_axes(spec: TensorSpec) -> tuple[str, int | None, int | None, int | None] | None:
    """Layout, channels, height and width of an input of images; None where it takes none."""
    if len(spec.shape) != 4:
        return None
    _, first, second, last = spec.shape
    if last in (1, 3, 4) and first not in (1, 3, 4):
        return "NHWC", last, first, second
    return "NCHW", first, second, last


def _of_model(spec: TensorSpec | None) -> dict[str, Any]:
    """Layout and colours that the input ``spec`` asks for."""
    layout, channels, *_ = (spec and image_axes(spec)) or ("NCHW", None)
    return {"layout": layout, **({"color": "L"} if channels == 1 else {})}


def _preset(name: str, spec: TensorSpec | None) -> dict[str, Any]:
    _, channels, height, width = (spec and image_axes(spec)) or ("NCHW", None, None, None)
    size = [height or _USUAL, width or _USUAL]
    values = dict(PRESETS[name])
    for key in ("mean", "std"):
        if channels == 1 and key in values:
            values[key] = [sum(values[key]) / 3]
    if name == "imagenet":
        return values | {"size": round(max(size) * 8 / 7), "crop": size}
    if name == "clip":
        return values | {"size": max(size), "crop": size}
    return values | {"letterbox" if name == "yolo" else "size": size}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "clip": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "resample": "bicubic",
    },
    "tf": {"scale": 1 / 127.5, "mean": [1.0, 1.0, 1.0]},
    "yolo": {"scale": 1 / 255},
}
"""Usual preprocessing by name, but for what the model's input says."""


def _require(key: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise UsageError(f"preprocess '{key}' is {json.dumps(value, default=str)}, expected {expected}")


def _pixels(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


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
