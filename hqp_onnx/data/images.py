"""Image files as samples: decoded when asked for, with the targets that belong to each file.

Files come from anywhere: the formats of ``FORMATS`` are read, whatever a file is called, and no other decoder of Pillow
sees it (one of them starts Ghostscript). Pixels are 8 bits a channel; 16-bit grey becomes that, v / 257 rounded, and
what has no such scale (32-bit and float images) is refused. So are images of more than ``LARGEST`` pixels, before they
are decoded and after they would be resized, and pipes and devices.

Images of different sizes can go into one model, if its input leaves height and width open: samples are then sorted by
the shape that they take, since a batch is of one shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.data.batch import LABELS, Batch, class_numbers
from hqp_onnx.data.geometry import Geometry
from hqp_onnx.data.preprocess import LARGEST, Preprocess
from hqp_onnx.errors import DataError, one_line
from hqp_onnx.files import digest_of, fingerprint, require_regular

T = TypeVar("T")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_READERS = 4  # threads that decode ahead


class FileTargets(Protocol):
    """What belongs to each image file."""

    @property
    def per_sample(self) -> Mapping[str, Array]:
        """Targets of all files that need no image, first axis = files."""

    def of(self, position: int, geometry: Geometry) -> Mapping[str, Array]:
        """The other targets of one file, in pixels of the model's input."""

    def digest(self) -> str:
        """Of everything that decides them."""


@dataclass(frozen=True)
class PlainTargets:
    """Targets that need no image; none, or class numbers."""

    per_sample: Mapping[str, Array] = field(default_factory=dict)
    digested: str = ""

    def of(self, position: int, geometry: Geometry) -> Mapping[str, Array]:
        """Nothing."""
        return {}

    def digest(self) -> str:
        """As it was given."""
        return self.digested


@dataclass(frozen=True)
class ImageSource:
    """Image files, decoded when their rows are asked for.

    Attributes:
        folder: what errors call them.
        files: in the order of the samples.
        preprocess: how each becomes an array.
        input_name: of the model.
        targets: of each file.
        cuts: sample numbers where another shape begins.
    """

    folder: Path
    files: Sequence[Path]
    preprocess: Preprocess
    input_name: str
    targets: FileTargets = field(default_factory=PlainTargets)
    cuts: tuple[int, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)
    readers: int = _READERS

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def count(self) -> int:
        """Images."""
        return len(self.files)

    @property
    def labels(self) -> IntArray | None:
        """Class numbers, int64 [count], or None."""
        return class_numbers(self.targets.per_sample)

    def digest(self) -> str:
        """Of the names and bytes of everything in the folder, how it is read, and of targets from elsewhere."""
        return digest_of(fingerprint(self.folder), repr(self.preprocess), self.targets.digest())

    def rows(self, start: int, stop: int) -> Batch:
        """Images ``start`` to ``stop`` (exclusive), decoded; ``DataError`` names the image that is wrong."""
        images: list[Array] = []
        found: list[Mapping[str, Array]] = []
        for position in range(start, min(stop, self.count)):
            file = self.files[position]
            image, geometry = opened(file, lambda x: (self.preprocess(x), self.preprocess.geometry(*x.size)))
            if images and image.shape != images[0].shape:
                raise DataError(
                    f"{file}: shape {list(image.shape)} differs from {list(images[0].shape)} of {self.files[start]}; "
                    "give {--preprocess} with 'size' and 'crop'"
                )
            images.append(image)
            found.append(self.targets.of(position, geometry))
        targets = {name: values[start:stop] for name, values in self.targets.per_sample.items()}
        targets |= {name: np.stack([each[name] for each in found]) for name in (found[0] if found else ())}
        return Batch({self.input_name: np.stack(images)}, targets)


def opened(file: Path, use: Callable[[Image.Image], T]) -> T:
    """What ``use`` makes of an image; everything that is wrong with it is a ``DataError`` with its name."""
    require_regular(file, "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, on sizes that are checked here
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > LARGEST:
                    raise DataError(f"is {image.height}x{image.width} pixels: expected {LARGEST} at most")
                return use(image)
    except DataError as e:
        raise DataError(f"{file}: {e}") from e
    except UnidentifiedImageError as e:
        raise DataError(f"{file}: not a readable image: expected {', '.join(FORMATS)}") from e
    except MemoryError:
        raise
    except Exception as e:  # decoders raise anything on damaged files, struct.error and IndexError among it
        raise DataError(f"{file}: not a readable image: {one_line(e)}") from e


def image_files(folder: Path) -> tuple[list[Path], list[int] | None]:
    """The images of ``folder`` and their class numbers: one sub-folder per class, in sorted order, or no classes.

    Raises:
        DataError: no images, or images beside sub-folders.
    """
    loose = images_among(folder.iterdir())
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if loose and classes:
        raise DataError(f"{folder}: images beside sub-folders; expected either one sub-folder per class or none")
    groups = [images_among(entry.rglob("*")) for entry in classes]
    files = loose + [file for group in groups for file in group]
    if not files:
        raise DataError(f"{folder}: no images; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files, [number for number, group in enumerate(groups) for _ in group] if classes else None


def by_shape(files: Sequence[Path], preprocess: Preprocess) -> tuple[list[int], tuple[int, ...]]:
    """An order of the files in which equal shapes are neighbours, and where another shape begins."""
    shapes = [opened(file, lambda x: preprocess.geometry(*x.size).size) for file in files]
    first = {shape: number for number, shape in reversed(list(enumerate(shapes)))}
    order = sorted(range(len(files)), key=lambda i: (first[shapes[i]], i))
    return order, tuple(i for i in range(1, len(order)) if shapes[order[i]] != shapes[order[i - 1]])


def with_labels(numbers: Sequence[int] | None) -> PlainTargets:
    """Class numbers as the targets of files."""
    return PlainTargets() if numbers is None else PlainTargets({LABELS: np.array(numbers, np.int64)})


def images_among(entries: Iterable[Path]) -> list[Path]:
    """Files that are called like images, sorted."""
    return sorted(
        e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and not e.name.startswith(".") and not e.is_dir()
    )
