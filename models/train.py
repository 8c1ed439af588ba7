"""Train a network, export it to ONNX and record what it reached.

    python models/train.py resnet18|mobilenet_v3_small                   on Fashion-MNIST: the bundled files
    python models/train.py NETWORK --data cifar10 --source PATH          on CIFAR-10: build/cifar10/ (models/cifar10.py)
    python models/train.py NETWORK_long ... --device cuda                longer, meant for a GPU

PyTorch 2.13, seeded; the recorded figures are of one CPU thread unless they name more. On a GPU, sums are not always
taken in the same order, so that another training gives other weights. SGD with Nesterov momentum
(AdamW for the transformer), one-cycle learning rate, random flips and shifts; float32, or products in bfloat16 where
the recipe says so (twice as fast on processors that have them). Each epoch ends in a checkpoint (NETWORK.pt), from
which the next start goes on. Writes NETWORK.onnx, and its entry in models/MANIFEST.json (accuracy, settings, sha256).
ResNets keep their BatchNormalization nodes; in MobileNetV3 they are folded into the convolutions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cifar10
import fashion_mnist
import torch
from architectures import Network, Normalized, mobilenet_v3_large, mobilenet_v3_small, resnet18, resnet56, vit
from torch import Tensor, nn

MANIFEST = Path(__file__).parent / "MANIFEST.json"
SEED = 0
DATA = {"fashion_mnist": fashion_mnist, "cifar10": cifar10}


@dataclass(frozen=True)
class Recipe:
    """Settings of one network.

    Epochs, peak learning rate, largest shift in pixels, form of the export, optimizer, products in bfloat16, images of
    a step, decay of weights but not of biases and scales.
    """

    epochs: int
    peak_rate: float
    shift: int
    keep_batch_norm: bool
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
    bfloat16: bool = False
    batch: int = 128
    weight_decay: float = 5e-4


RECIPES: dict[str, dict[str, tuple[Network, Recipe]]] = {
    "fashion_mnist": {
        "resnet18": (partial(resnet18, width=24, pool=True), Recipe(18, 0.1, 1, True)),
        "mobilenet_v3_small": (mobilenet_v3_small, Recipe(14, 0.2, 2, False)),
    },
    "cifar10": {
        "resnet18": (resnet18, Recipe(8, 0.1, 3, True, bfloat16=True)),
        "resnet18_w16": (partial(resnet18, width=16), Recipe(12, 0.1, 3, True)),
        "resnet56": (resnet56, Recipe(12, 0.1, 3, True, bfloat16=True)),
        "mobilenet_v3_small": (mobilenet_v3_small, Recipe(16, 0.2, 3, False)),
        "mobilenet_v3_large": (mobilenet_v3_large, Recipe(8, 0.2, 3, False)),
        "vit": (vit, Recipe(8, 1e-3, 3, False, torch.optim.AdamW, bfloat16=True)),
        "resnet18_long": (resnet18, Recipe(35, 0.4, 4, True, bfloat16=True, batch=512)),
        "resnet56_long": (resnet56, Recipe(80, 0.4, 4, True, bfloat16=True, batch=512)),
        "mobilenet_v3_large_long": (mobilenet_v3_large, Recipe(60, 0.4, 4, False, bfloat16=True, batch=512)),
        "vit_long": (vit, Recipe(100, 2e-3, 4, False, torch.optim.AdamW, bfloat16=True, batch=512, weight_decay=0.05)),
    },
}


def augment(pixels: Tensor, shift: int) -> Tensor:
    """Each image [N, C, H, W] flipped with probability 1/2 and moved by up to ``shift`` pixels."""
    count, _, height, width = pixels.shape
    flip = torch.rand(count) < 0.5
    pixels = torch.where(flip[:, None, None, None].to(pixels.device), pixels.flip(3), pixels)
    padded = nn.functional.pad(pixels, (shift, shift, shift, shift))
    top, left = torch.randint(0, 2 * shift + 1, (2, count))
    rows = (top[:, None] + torch.arange(height))[:, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in 0..1."""
    model.eval()
    hits = sum(
        int((model(x.float()).argmax(1) == y).sum()) for x, y in zip(pixels.split(500), labels.split(500), strict=True)
    )
    return hits / len(labels)


def train(model: nn.Module, pixels: Tensor, labels: Tensor, recipe: Recipe, checkpoint: Path) -> float:
    """One-cycle SGD on cross-entropy, in place, from ``checkpoint`` on if there is one; returns its seconds."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    settings = {"momentum": 0.9, "nesterov": True} if recipe.optimizer is torch.optim.SGD else {}
    optimizer = recipe.optimizer(groups, lr=recipe.peak_rate, **settings)
    steps = len(labels) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["rng"])
        first, seconds = saved["epoch"], saved["seconds"]
    for epoch in range(first, recipe.epochs):
        start = time.time()
        loss = one_epoch(model, pixels, labels, steps, recipe, optimizer, schedule)
        seconds += time.time() - start
        print(f"epoch {epoch + 1}/{recipe.epochs}: loss {loss:.4f}, {time.time() - start:.0f} s", flush=True)
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**state, "rng": torch.get_rng_state(), "epoch": epoch + 1, "seconds": seconds}, checkpoint)
    return seconds


def one_epoch(model, pixels, labels, steps, recipe, optimizer, schedule) -> float:
    """The mean loss of one pass in random order."""
    model.train()
    total = torch.zeros((), device=labels.device)
    for rows in torch.randperm(len(labels))[: steps * recipe.batch].view(steps, recipe.batch):
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            loss = nn.functional.cross_entropy(model(augment(pixels[rows].float(), recipe.shift)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
    return total.item() / steps


def export(model: nn.Module, example: Tensor, path: Path, keep_batch_norm: bool) -> None:
    """ONNX with a dynamic batch; ``keep_batch_norm`` leaves BatchNormalization as nodes."""
    mode = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        model.eval(),
        (example,),
        str(path),
        dynamo=False,
        training=mode,
        opset_version=17,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )


def record(name: str, entry: dict[str, object]) -> None:
    """Put ``entry`` into the manifest."""
    manifest = json.loads(MANIFEST.read_text())
    manifest[name] = entry
    MANIFEST.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    print(json.dumps(entry))


def main() -> None:
    """Train, export, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted({name for recipes in RECIPES.values() for name in recipes}))
    parser.add_argument("--data", choices=sorted(DATA), default="fashion_mnist")
    parser.add_argument("--source", type=Path, default=fashion_mnist.SOURCE)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.network not in RECIPES[options.data]:
        parser.error(f"{options.data} has recipes for {', '.join(RECIPES[options.data])}")
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)
    data, (network, recipe) = DATA[options.data], RECIPES[options.data][options.network]
    splits = data.split(options.source)
    data.write(splits, data.FOLDER)
    parts = {
        name: (torch.from_numpy(x).to(options.device), torch.from_numpy(y).long().to(options.device))
        for name, (x, y) in splits.items()
    }
    model = Normalized(network(data.IMAGES), data.IMAGES).to(options.device, memory_format=torch.channels_last)
    path = data.FOLDER / f"{options.network}.onnx"
    seconds = train(model, *parts["train"], recipe, path.with_suffix(".pt"))
    reached = {name: round(accuracy(model, *parts[name]), 4) for name in ("calib", "val", "test")}
    export(model.cpu(), parts["test"][0][:2].float().cpu(), path, recipe.keep_batch_norm)
    record(
        path.name if options.data == "fashion_mnist" else f"{options.data}/{path.name}",
        {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "accuracy": reached,
            "recipe": {
                **asdict(recipe),
                "optimizer": recipe.optimizer.__name__,
                "seed": SEED,
            },
            "training_seconds": round(seconds),
            "device": options.device,
            "threads": options.threads,
            "torch": torch.__version__,
        },
    )


if __name__ == "__main__":
    main()
