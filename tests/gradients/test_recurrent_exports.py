"""Recurrent networks as torch's exporters write them: units against the masked original, gradients against torch.

torch never sees the ONNX file; a weight of the file is matched with the parameters that it is made of.
"""

import copy
import functools
import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from oracle import worst_error

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import UsageError
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.gradients.loss import Draw
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402  needs torch

torch.set_num_threads(1)
COUNT, TOLERANCE = 3, 1e-4
ORDERS = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}  # of ONNX's gates among torch's


class Tagger(nn.Module):
    """Two layers in both directions; ``steps_first`` turns tokens and outputs around."""

    def __init__(self, steps_first=False):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 6), nn.Linear(14, 5)
        self.body = nn.LSTM(6, 7, 2, batch_first=not steps_first, bidirectional=True)
        self.steps_first = steps_first

    def forward(self, x):
        return self.head(self.body(self.table(x.t() if self.steps_first else x))[0])


class Denoiser(nn.Module):
    """Two GRU layers that give a mask for each frame."""

    def __init__(self):
        super().__init__()
        self.first, self.body, self.head = nn.Linear(9, 8), nn.GRU(8, 7, 2, batch_first=True), nn.Linear(7, 9)

    def forward(self, x):
        return torch.sigmoid(self.head(self.body(torch.relu(self.first(x)))[0])) * x


class Crnn(nn.Module):
    """Convolutions, then two layers with a map between, through rows of all steps as the first CRNN has them."""

    def __init__(self, flat):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, (4, 3)))
        self.one, self.map = nn.LSTM(6, 7, bidirectional=True), nn.Linear(14, 8)
        self.two, self.head, self.flat = nn.LSTM(8, 7, bidirectional=True), nn.Linear(14, 4), flat

    def mapped(self, layer, x):
        if not self.flat:
            return layer(x)
        steps, samples, size = x.size()
        return layer(x.view(steps * samples, size)).view(steps, samples, -1)

    def forward(self, x):
        steps = self.body(x).squeeze(2).permute(2, 0, 1)
        return torch.log_softmax(self.mapped(self.head, self.two(self.mapped(self.map, self.one(steps)[0]))[0]), 2)


class LastState(nn.Module):
    """Only the states after the last step are read."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.GRU(6, 7, batch_first=True, bidirectional=True), nn.LSTM(14, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.two(self.one(x)[0])[1][0][-1])


def tokens():
    return torch.randint(0, 20, (COUNT, 6), generator=torch.Generator().manual_seed(1))


def normal(*shape):
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "tagger": (Tagger, tokens()),
    "tagger, steps first": (lambda: Tagger(True), tokens()),
    "denoiser": (Denoiser, normal(6, 9)),
    "CRNN": (lambda: Crnn(False), normal(1, 8, 16)),
    "CRNN through rows": (lambda: Crnn(True), normal(1, 8, 16)),
    "last state": (LastState, normal(6, 6)),
}
EXPORTERS = ("script", "dynamo")


@functools.cache
def exported(name, exporter):
    make, x = NETWORKS[name]
    torch.manual_seed(0)
    net, file = make().eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "script":
            options = {"dynamo": False, "opset_version": 17, "dynamic_axes": {"x": {0: "n"}}}
            torch.onnx.export(net, (x,), file, input_names=["x"], output_names=["y"], **options)
            model = onnx.load_from_string(file.getvalue())
        else:
            pytest.importorskip("onnxscript")
            sizes = ({0: torch.export.Dim("n")},)
            options = {"dynamo": True, "dynamic_shapes": sizes, "verbose": False, "optimize": True}
            program = torch.onnx.export(net, (x,), input_names=["x"], output_names=["y"], **options)
            model = program.model_proto
    return net, canonicalize(to_graph(model)).graph, x


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_units(name, exporter):
    net, graph, x = exported(name, exporter)
    channels, rng, errors = analyze(graph), np.random.default_rng(0), []
    hidden = [part.hidden_size * part.num_layers for part in net.modules() if isinstance(part, nn.RNNBase)]
    assert len(channels.prunable) >= sum(hidden)
    for _ in range(6):
        plan = PruningPlan(rng.permutation(channels.prunable)[: rng.integers(1, len(channels.prunable))])
        try:
            pruned = to_proto(prune_channels(graph, channels, plan).graph)
        except UsageError:
            continue  # it would empty a tensor
        errors.append(worst_error(to_proto(graph), pruned, channels.removed_slices(plan), {"x": x.numpy()}))
    assert errors
    assert max(errors) <= 1e-5


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_fisher(name, exporter):
    """Of projections of the outputs."""
    net, graph, x = exported(name, exporter)
    model = to_proto(graph)
    feeds = {"x": x.numpy()}
    opened = PerSample(model, feeds, loss="gauss-newton")
    (draws,) = opened.loss.rounds(range(COUNT), None, Draw(1, COUNT, 0))
    got = opened(feeds, draws)
    want = torch_norms(copy.deepcopy(net).double(), model, x, draws)
    assert got.keys() == want.keys() == filter_weights(model).keys()
    for weight, values in want.items():
        assert np.abs(got[weight] - values).max() <= TOLERANCE * values.max(), weight


def torch_norms(net, model, x, draws):
    """Squared norms by weight of the file, [samples, filters]."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {weight: [] for weight in filter_weights(model)}
    parameters = dict(net.named_parameters())
    for i, draw in enumerate(draws):
        one = x[i : i + 1].double() if x.is_floating_point() else x[i : i + 1]
        along = (net(one).flatten() * torch.from_numpy(draw).double()).sum()
        gradients = dict(zip(parameters, torch.autograd.grad(along, parameters.values()), strict=True))
        for weight, axis in filter_weights(model).items():
            parts = [_matching(part, parameters, gradients) for part in _parts(values[weight])]
            found[weight].append(sum((np.moveaxis(part, axis - (part.ndim < values[weight].ndim), 0) ** 2)
                                     .reshape(values[weight].shape[axis], -1).sum(1) for part in parts))  # fmt: skip
    return {weight: np.stack(rows) for weight, rows in found.items()}


def _parts(weight):
    """The directions of a recurrent weight, or the weight."""
    return list(weight) if weight.ndim == 3 else [weight]


def _matching(weight, parameters, gradients):
    """The gradient of the parameter that has the values of ``weight``: transposed, or its gates in another order."""
    for name, parameter in parameters.items():
        known, gradient = parameter.detach().numpy(), gradients[name].numpy()
        for order in ORDERS.values():
            if known.ndim == 2 and len(known) % len(order) == 0:
                moved = [
                    np.concatenate([np.split(each, len(order))[gate] for gate in order]) for each in (known, gradient)
                ]
                if moved[0].shape == weight.shape and np.allclose(moved[0], weight, atol=1e-6):
                    return moved[1]
        for turn in (lambda each: each, lambda each: each.T) if known.ndim == 2 else (lambda each: each,):
            if turn(known).shape == weight.shape and np.allclose(turn(known), weight, atol=1e-6):
                return turn(gradient)
    raise AssertionError(f"no parameter has the values of a weight {weight.shape}")
