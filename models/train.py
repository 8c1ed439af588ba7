"""Train a bundled network on Fashion-MNIST, export it to ONNX and record what it reached.

    python models/train.py resnet18|mobilenet_v3_small [--source DIR]

PyTorch 2.13 on the CPU, one thread, float32, seeded: SGD with Nesterov momentum, one-cycle learning rate,
random flips and shifts. Writes ``models/NETWORK.onnx`` and its entry in
``models/MANIFEST.json`` (test accuracy, settings, sha256). ResNet-18 keeps its BatchNormalization nodes;
in MobileNetV3-Small they are folded into the convolutions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from architectures import NETWORKS
from fashion_mnist import SOURCE, split
from torch import Tensor, nn

FOLDER = Path(__file__).parent
BATCH, WEIGHT_DECAY, SEED = 128, 5e-4, 0


@dataclass(frozen=True)
class Recipe:
    """Settings of one network: epochs, peak learning rate, largest shift in pixels, form of the export."""

    epochs: int
    peak_rate: float
    shift: int
    keep_batch_norm: bool


RECIPES = {"resnet18": Recipe(18, 0.1, 1, True), "mobilenet_v3_small": Recipe(14, 0.2, 2, False)}


def augment(pixels: Tensor, shift: int) -> Tensor:
    """Each image flipped with probability 1/2 and moved by up to ``shift`` pixels."""
    count, _, height, width = pixels.shape
    flip = torch.rand(count) < 0.5
    pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
    padded = nn.functional.pad(pixels, (shift, shift, shift, shift))
    top, left = torch.randint(0, 2 * shift + 1, (2, count))
    rows = (top[:, None] + torch.arange(height))[:, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


@torch.no_grad()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in 0..1."""
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(pixels.split(500), labels.split(500), strict=True))
    return hits / len(labels)


def train(model: nn.Module, pixels: Tensor, labels: Tensor, recipe: Recipe) -> None:
    """One-cycle SGD on cross-entropy, in place."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recipe.peak_rate, momentum=0.9, nesterov=True)
    steps = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    for epoch in range(recipe.epochs):
        model.train()
        total, start = 0.0, time.time()
        for rows in torch.randperm(len(labels))[: steps * BATCH].view(steps, BATCH):
            loss = nn.functional.cross_entropy(model(augment(pixels[rows], recipe.shift)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{recipe.epochs}: loss {total / steps:.4f}, {time.time() - start:.0f} s", flush=True)


def export(model: nn.Module, path: Path, keep_batch_norm: bool) -> None:
    """ONNX with a dynamic batch; ``keep_batch_norm`` leaves BatchNormalization as nodes."""
    mode = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 1, 28, 28),),
        str(path),
        dynamo=False,
        training=mode,
        opset_version=17,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )


def main() -> None:
    """Train, export, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--source", type=Path, default=SOURCE)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    parts = {
        k: (torch.from_numpy(x).float(), torch.from_numpy(y).long()) for k, (x, y) in split(options.source).items()
    }
    model = NETWORKS[options.network]().to(memory_format=torch.channels_last)
    start = time.time()
    recipe = RECIPES[options.network]
    train(model, *parts["train"], recipe)
    seconds = time.time() - start
    path = FOLDER / f"{options.network}.onnx"
    export(model, path, recipe.keep_batch_norm)
    manifest_path = FOLDER / "MANIFEST.json"
    manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
    manifest[path.name] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "accuracy": {name: round(accuracy(model, *parts[name]), 4) for name in ("calib", "val", "test")},
        "recipe": {**asdict(recipe), "batch": BATCH, "weight_decay": WEIGHT_DECAY, "seed": SEED},
        "training_seconds": round(seconds),
        "torch": torch.__version__,
    }
    manifest_path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    print(json.dumps(manifest[path.name]))


if __name__ == "__main__":
    main()
