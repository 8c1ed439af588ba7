"""Fashion-MNIST (Xiao et al. 2017, MIT licence) as the compact .npz files that the commands read.

    python models/fashion_mnist.py [--source DIR]

``input`` is uint8 [N, 1, 28, 28], ``labels`` uint8 [N]. Calibration is 2,000 images that the networks were
trained on; validation is 5,000 images of the training split that they never saw; test is the official split.
The source folder is the one of Debian's package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from architectures import Images
from numpy.typing import NDArray

Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]

IMAGES = Images(28, (72.94,), (90.02,))
SOURCE = Path("/usr/share/datasets/fashion-mnist")
FOLDER = Path(__file__).parent
SEED = 20261123
VALIDATION, CALIBRATION = 5_000, 2_000


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, as it is stored."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, 4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def split(source: Path) -> dict[str, Part]:
    """``train`` (55,000), ``calib`` (2,000 of them), ``val`` (5,000 others) and ``test`` (10,000)."""
    images, labels = (read_idx(source / f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    order = np.random.default_rng(SEED).permutation(len(images))
    rows = {"val": order[:VALIDATION], "train": order[VALIDATION:], "calib": order[VALIDATION:][:CALIBRATION]}
    parts = {name: (images[row][:, None], labels[row]) for name, row in rows.items()}
    test = tuple(read_idx(source / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return {**parts, "test": (test[0][:, None], test[1])}


def write(parts: dict[str, Part], folder: Path) -> None:
    """``fashion_mnist_calib.npz``, ``_val`` and ``_test`` in ``folder``."""
    for name in ("calib", "val", "test"):
        images, labels = parts[name]
        np.savez_compressed(folder / f"fashion_mnist_{name}.npz", input=images, labels=labels)


def main() -> None:
    """Write the three bundled files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SOURCE)
    write(split(parser.parse_args().source), FOLDER)


if __name__ == "__main__":
    main()
