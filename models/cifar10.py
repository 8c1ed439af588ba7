"""CIFAR-10 (Krizhevsky 2009) as .npz files that the commands read.

    python models/cifar10.py --source FILE.npz|FOLDER [--out build/cifar10]

The source is the folder of the canonical files, in their Python or binary version (``data_batch_1`` or
``data_batch_1.bin``), or an .npz of JPEG files: ``{train,test}_{jpeg,offsets,labels}``, where image n is
``jpeg[offsets[n]:offsets[n + 1]]``. JPEG costs accuracy: figures on it are of "CIFAR-10 (JPEG)".

``input`` is uint8 [N, 3, 32, 32], ``labels`` uint8 [N]. Calibration is 2,000 images that the networks were trained on;
validation is 5,000 images of the training split that they never saw; test is the official split.
"""

from __future__ import annotations

import argparse
import io
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
from architectures import Images
from numpy.typing import NDArray
from PIL import Image

Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]

IMAGES = Images(32, (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
FOLDER = Path("build/cifar10")
SEED = 20261123
VALIDATION, CALIBRATION = 5_000, 2_000
TRAIN_FILES, TEST_FILES = [f"data_batch_{n}" for n in range(1, 6)], ["test_batch"]


def split(source: Path) -> dict[str, Part]:
    """``train`` (45,000), ``calib`` (2,000 of them), ``val`` (5,000 others) and ``test`` (10,000)."""
    read = read_folder if source.is_dir() else read_jpeg
    images, labels = read(source, "train")
    order = np.random.default_rng(SEED).permutation(len(images))
    rows = {"val": order[:VALIDATION], "train": order[VALIDATION:], "calib": order[VALIDATION:][:CALIBRATION]}
    return {**{name: (images[row], labels[row]) for name, row in rows.items()}, "test": read(source, "test")}


def read_jpeg(source: Path, part: str) -> Part:
    """Images and labels of an .npz of JPEG files."""
    with np.load(source) as data:
        jpeg, ends = data[f"{part}_jpeg"].tobytes(), data[f"{part}_offsets"]
        labels = data[f"{part}_labels"]
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg[a:b])).convert("RGB")) for a, b in pairwise(ends)]
    return np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)), labels


def read_folder(source: Path, part: str) -> Part:
    """Images and labels of the canonical files."""
    files = [read_file(source / name) for name in (TRAIN_FILES if part == "train" else TEST_FILES)]
    images, labels = (np.concatenate(parts) for parts in zip(*files, strict=True))
    return images.reshape(-1, 3, 32, 32), labels


def read_file(path: Path) -> Part:
    """Rows of pixels, and labels: the file itself is a pickle, ``path``.bin has rows of a label and 3,072 pixels."""
    if path.exists():
        content = pickle.loads(path.read_bytes(), encoding="bytes")
        return content[b"data"], np.array(content[b"labels"], np.uint8)
    rows = np.fromfile(path.with_suffix(".bin"), np.uint8).reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0]


def write(parts: dict[str, Part], folder: Path) -> None:
    """``cifar10_calib.npz``, ``_val`` and ``_test`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("calib", "val", "test"):
        images, labels = parts[name]
        np.savez_compressed(folder / f"cifar10_{name}.npz", input=images, labels=labels)


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    write(split(options.source), options.out)


if __name__ == "__main__":
    main()
