"""Inputs that give the BatchNormalization layers of a model the means and variances that they hold.

These are running statistics of the training data (DeepInversion, Yin et al. 2020, arXiv:1912.08795; ZeroQ, Cai et al.
2020, arXiv:2001.00281). With gamma and beta, the output y of a layer had mean beta and standard deviation |gamma| in
each of its C channels; where our inputs give it mean m and standard deviation s, Adam lowers

    L = sum over layers of 1/C sum_c [((m - beta) / gamma)^2 + ((s - |gamma|) / gamma)^2]

starting from noise. Its gradient by one of the n values of a channel is linear in y:

    dL/dy = shift + slope y,   slope = 2 e_s / (C n gamma s),   shift = 2 e_m / (C n gamma) - slope m,

e the two bracketed ratios. So a batch of any size is done in parts, in two passes: moments, then gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.reverse import backward
from hqp_onnx.gradients.tape import Tape
from hqp_onnx.gradients.trace import reachable
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.progress import StageProgress
from hqp_onnx.recovery.adam import Adam, cosine
from hqp_onnx.recovery.net import Net
from hqp_onnx.runtimes.session import Session, work_session
from hqp_onnx.synthesis.prior import Prior

STEPS, RATE = 60, 0.1  # the rate in standard deviations of the input
_SMALLEST = 1e-3  # of the largest |gamma| of a layer: channels with less are judged by this
Feeds = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Layer:
    """A tensor whose channels, along axis 1, had this mean and standard deviation."""

    tensor: str
    mean: FloatArray
    std: FloatArray

    @property
    def unit(self) -> FloatArray:
        """What errors are measured in, [C]."""
        return np.maximum(self.std, max(_SMALLEST * float(self.std.max()), 1e-12))


def layers_of(graph: gs.Graph) -> list[Layer]:
    """The outputs of the BatchNormalization nodes that hold statistics."""
    found = []
    for node in graph.nodes:
        constant = all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:5])
        if operator(node) == "BatchNormalization" and constant and not node.attrs.get("training_mode", 0):
            gamma, beta = (np.asarray(tensor.values, np.float64) for tensor in node.inputs[1:3])
            if np.any(gamma) and np.isfinite([gamma, beta]).all():
                found.append(Layer(node.outputs[0].name, beta, np.abs(gamma)))
    return found


class Matching:
    """The layers of a model, and sessions that give their moments and the gradient by inputs.

    Args:
        graph: with its BatchNormalization.
        layers: of it.
        feeds: a batch of inputs.
        varied: names of those that change.

    Raises:
        GradientError: no layer depends on these, or an operator on the way has no gradient.
    """

    def __init__(self, graph: gs.Graph, layers: Sequence[Layer], feeds: Feeds, varied: Sequence[str]) -> None:
        net = Net.of(to_proto(fold_batchnorm(graph).graph), feeds)
        flowing, dims = reachable(net.model.graph, varied, net.traced.types), net.traced.dims
        self.layers = [x for x in layers if x.tensor in flowing and None not in dims[x.tensor][1:]]
        if not self.layers:
            raise GradientError("no layer with statistics depends on the inputs")
        self.varied = varied
        self._part = net.part(_count(feeds))
        self._values = {x.tensor: prod(n or 1 for n in dims[x.tensor][2:]) for x in self.layers}
        self._moments = self._moments_session(net.tape)
        self._gradients, self._given = self._gradients_session(net.tape)

    def _moments_session(self, t: Tape) -> Session:
        outputs = []
        for layer in self.layers:
            axes = [0, *range(2, len(t.dims(layer.tensor)))]
            squares = t.mul(layer.tensor, layer.tensor)
            outputs += [t.reduce("ReduceMean", x, axes) for x in (layer.tensor, squares)]
        return work_session(t.model, outputs, integer_kernels=False)

    def _gradients_session(self, t: Tape) -> tuple[Session, Feeds]:
        """The session, and its inputs for slope and shift of each layer, all 0."""
        given: dict[str, Array] = {}
        seeds: dict[str, str] = {}
        for layer in self.layers:
            shape = [1, len(layer.mean), *[1] * (len(t.dims(layer.tensor)) - 2)]
            slope, shift = names = [f"{t.prefix}{kind}.{len(given)}" for kind in ("slope", "shift")]
            for name in names:
                given[name] = np.zeros(shape, t.traced.types[layer.tensor])
                element = onnx.helper.np_dtype_to_tensor_dtype(given[name].dtype)
                t.model.graph.input.append(onnx.helper.make_tensor_value_info(name, element, shape))
            seeds[layer.tensor] = t.add(t.mul(layer.tensor, slope), shift)
        by_name = backward(t, seeds, self.varied)
        self.varied = [name for name in self.varied if name in by_name]
        if not self.varied:
            raise GradientError("no layer with statistics has a gradient by the inputs")
        outputs = [by_name[name] for name in self.varied]
        return work_session(t.model, outputs, integer_kernels=False), given

    def error(self, feeds: Feeds) -> float:
        """Root mean square, over layers and channels, of the errors of mean and standard deviation, in the latter."""
        loss, _ = self._judged(feeds)
        return float(np.sqrt(loss / (2 * len(self.layers))))

    def gradients(self, feeds: Feeds) -> dict[str, Array]:
        """dL/dx of each input that changes; 0 where there is none, as of sqrt(x) by x = 0."""
        _, seeds = self._judged(feeds)
        parts = [list(self._gradients.run({**part, **seeds}).values()) for part in self._parts(feeds)]
        found = [np.concatenate(each) for each in zip(*parts, strict=True)]
        return dict(zip(self.varied, (np.where(np.isfinite(x), x, 0).astype(x.dtype) for x in found), strict=True))

    def _judged(self, feeds: Feeds) -> tuple[float, dict[str, Array]]:
        """L, and slopes and shifts."""
        loss, seeds, given = 0.0, {}, iter(self._given)
        count = _count(feeds)
        sums = [_count(part) / count * self._run(part) for part in self._parts(feeds)]
        moments = iter(np.split(np.sum(sums, 0), np.cumsum([len(x.mean) for x in self.layers for _ in "ab"])[:-1]))
        for layer in self.layers:
            mean, squares, unit = next(moments), next(moments), layer.unit
            std = np.sqrt(np.maximum(squares - np.square(mean), np.square(1e-6 * unit)))
            of_mean, of_std = (mean - layer.mean) / unit, (std - layer.std) / unit
            loss += float(np.mean(np.square(of_mean) + np.square(of_std)))
            each = 2 / (mean.size * count * self._values[layer.tensor] * unit)
            slope = each * of_std / std
            for values in (slope, each * of_mean - slope * mean):
                name = next(given)
                seeds[name] = values.astype(self._given[name].dtype).reshape(self._given[name].shape)
        return loss, seeds

    def _run(self, feeds: Feeds) -> FloatArray:
        """Means, and means of squares, of all layers, one after the other."""
        return np.concatenate([np.ravel(x).astype(np.float64) for x in self._moments.run(feeds).values()])

    def _parts(self, feeds: Feeds) -> Iterator[Feeds]:
        for start in range(0, _count(feeds), self._part):
            yield {name: x[start : start + self._part] for name, x in feeds.items()}


def _count(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))


def matched(matching: Matching, feeds: Feeds, priors: Mapping[str, Prior], progress: StageProgress) -> Feeds:
    """``feeds``, those that change led to where layers have their statistics, within the bounds of ``priors``."""
    found = dict(feeds)
    states = {name: Adam.zeros(found[name].size) for name in matching.varied}
    for step in range(STEPS):
        gradients = matching.gradients(found)
        for name, adam in states.items():
            prior, x = priors[name], found[name]
            std = np.broadcast_to(prior.std, x.shape).astype(np.float32)
            values = np.zeros(x.size, np.float32)
            adam.update(values, (gradients[name] * std).ravel(), cosine(step, STEPS, RATE))
            found[name] = np.clip(x + std * values.reshape(x.shape), prior.low, prior.high).astype(x.dtype)
        progress(step + 1, STEPS)
    return found
