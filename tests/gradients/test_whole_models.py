"""The native engine on exported networks of many kinds, against torch autograd of the networks themselves.

torch never sees the ONNX file: the oracle is the module, in float64 and one sample at a time. A weight of the file is
matched with the parameter that has its values, transposed where the exporter transposed it.
"""

import io
import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hqp_onnx.errors import GradientError
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.gradients.training.engine import TrainingPerSample, find

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402  needs torch
from torch.nn import functional as F  # noqa: E402, N812

torch.set_num_threads(1)
CLASSES, COUNT = 5, 3
TOLERANCE = 1e-4  # float32 against float64, relative to the largest norm of a weight


def conv(inputs, outputs, kernel=3, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class DenseNet(nn.Module):
    """Pre-activation layers whose inputs are all that came before, and a transition that halves both."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.layers = nn.ModuleList(self.layer(8 + 4 * i) for i in range(3))
        self.transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2))
        self.more = nn.ModuleList(self.layer(10 + 4 * i) for i in range(2))
        self.norm, self.head = nn.BatchNorm2d(18), nn.Linear(18, CLASSES)

    @staticmethod
    def layer(inputs):
        norms = nn.BatchNorm2d(inputs), nn.BatchNorm2d(12)
        return nn.Sequential(
            norms[0], nn.ReLU(), nn.Conv2d(inputs, 12, 1), norms[1], nn.ReLU(), nn.Conv2d(12, 4, 3, padding=1)
        )

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        x = self.transition(x)
        for layer in self.more:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.adaptive_avg_pool2d(torch.relu(self.norm(x)), 1).flatten(1))


class ShuffleUnit(nn.Module):
    """Half of the channels pass; the halves are then interleaved."""

    def __init__(self, channels, stride):
        super().__init__()
        self.stride, inner = stride, channels if stride == 2 else channels // 2
        self.branch = nn.Sequential(
            conv(inner, inner, 1),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            conv(inner, inner, 1),
        )
        if stride == 2:
            self.other = nn.Sequential(nn.Conv2d(inner, inner, 3, 2, 1, groups=inner), conv(inner, inner, 1))

    def forward(self, x):
        left, right = (self.other(x), x) if self.stride == 2 else x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.units = conv(3, 8, 3, 2), nn.Sequential(ShuffleUnit(8, 2), ShuffleUnit(16, 1))
        self.last, self.head = conv(16, 20, 1), nn.Linear(20, CLASSES)

    def forward(self, x):
        return self.head(self.last(self.units(self.stem(x))).mean([2, 3]))


class UNet(nn.Module):
    """Skips into ConvTranspose, bilinear and nearest upsampling; the map of classes is averaged."""

    def __init__(self, scale=1):
        super().__init__()
        a, b, c, d = (scale * width for width in (6, 8, 10, 12))
        self.down = nn.ModuleList([conv(3, a), conv(a, b), conv(b, c), conv(c, d)])
        self.up = nn.ConvTranspose2d(d, c, 2, 2)
        self.merge = nn.ModuleList([conv(c + c, c), conv(c + b, b), conv(b + a, a)])
        self.out = nn.Conv2d(a, CLASSES, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            skips.append(block(F.max_pool2d(skips[-1], 2) if skips else x))
        x = self.merge[0](torch.cat([self.up(skips[3]), skips[2]], 1))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.merge[1](torch.cat([x, skips[1]], 1))
        x = self.merge[2](torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips[0]], 1))
        return self.out(x).mean([2, 3])


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, length, width))


class Encoder(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norms, self.attention = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class ViT(nn.Module):
    """Patches, a class token, learned positions, pre-norm encoders."""

    def __init__(self, width=16, patch=4, count=16, heads=(2, 4)):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token, self.positions = (nn.Parameter(torch.randn(1, n, width)) for n in (1, count + 1))
        self.encoders = nn.Sequential(*(Encoder(width, some) for some in heads))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.encoders(x))[:, 0])


class Ocr(nn.Module):
    """Convolutions that shrink the height first, a mixer along the line, 1-D convolutions; time steps are averaged."""

    def __init__(self, scale=1):
        super().__init__()
        a, b, c = (scale * width for width in (8, 12, 14))
        self.stem, self.block = conv(3, a), conv(a, a, groups=a)
        self.wide = nn.Conv2d(a, b, (3, 5), (2, 1), (1, 2))
        self.act, self.slope = nn.Hardswish(), nn.PReLU(b)
        self.mixer = Encoder(b, 2)
        self.line = nn.Conv1d(b, c, 3, padding=2, dilation=2)
        self.norm, self.head = nn.GroupNorm(2, c), nn.Linear(c, CLASSES)

    def forward(self, x):
        x = self.block(F.max_pool2d(self.stem(x), (2, 1)))
        x = self.slope(self.act(self.wide(x)))
        x = self.mixer(x.mean(2).transpose(1, 2)).transpose(1, 2)
        x = F.leaky_relu(self.norm(self.line(x)))
        return self.head(x.transpose(1, 2)).mean(1)


NETWORKS = {"DenseNet": DenseNet, "ShuffleNetV2": ShuffleNetV2, "U-Net": UNet, "ViT": ViT, "OCR": Ocr}


def network(make):
    """A seeded network in inference mode whose normalisations do something."""
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def exported(net, opset=17, sides=(16, 16)):
    """The file that torch writes, normalisations kept."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, *sides),),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            opset_version=opset,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def parameter_of(weight, net):
    """(parameter, axis of filters in it) for a weight of the file: filters come first in Conv and Linear."""
    for parameter in net.parameters():
        values = parameter.detach().numpy().astype(np.float32)
        if values.shape == weight.shape and np.array_equal(values, weight):
            return parameter, False
        if values.ndim == 2 and values.T.shape == weight.shape and np.array_equal(values.T, weight):
            return parameter, True
    raise AssertionError("the file has a weight that the network has not")


def torch_norms(net, model, x, labels, dtype=torch.float64):
    """{weight: squared norms [N, filters]} by autograd, one sample at a time."""
    axes = filter_weights(model)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values |= {
        n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"
    }
    found = {name: parameter_of(values[name], net) for name in axes}
    net.to(dtype)
    rows = {name: [] for name in axes}
    for i in range(len(x)):
        loss = F.cross_entropy(net(torch.from_numpy(x[i : i + 1]).to(dtype)), torch.tensor(labels[i : i + 1]))
        grads = torch.autograd.grad(loss, [parameter for parameter, _ in found.values()])
        for (name, (_, turned)), grad in zip(found.items(), grads, strict=True):
            grad = grad.T if turned else grad
            rows[name].append(
                np.square(np.moveaxis(grad.double().numpy(), axes[name], 0)).reshape(grad.shape[axes[name]], -1).sum(1)
            )
    return {name: np.stack(some) for name, some in rows.items()}


def case(name):
    """(model, x, labels, what torch finds)."""
    net = network(NETWORKS[name])
    model = exported(net)
    weighted = sum(isinstance(m, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear) for m in net.modules())
    assert len(filter_weights(model)) == weighted  # nothing was folded away
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((COUNT, 3, 16, 16)).astype(np.float32), rng.integers(0, CLASSES, COUNT)
    return model, {"x": x}, labels, torch_norms(net, model, x, labels)


def assert_close(got, want):
    assert got.keys() == want.keys()
    for weight in want:
        assert np.abs(got[weight] - want[weight]).max() <= TOLERANCE * want[weight].max(), weight


@pytest.mark.parametrize("name", NETWORKS)
def test_native_engine(name):
    model, feeds, labels, want = case(name)
    assert_close(PerSample(model, feeds)(feeds, labels), want)


@pytest.mark.skipif(find() is None, reason="onnxruntime-training is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_training_engine(name):
    model, feeds, labels, want = case(name)
    if name == "U-Net":
        with pytest.raises(
            GradientError, match=r"(Resize|ConvTranspose) node .* has no gradient in onnxruntime-training"
        ):
            TrainingPerSample(model, feeds)
        return
    with TrainingPerSample(model, feeds) as net:
        assert_close(net(feeds, labels), want)
