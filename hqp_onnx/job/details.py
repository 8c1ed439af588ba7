"""What a report says about single layers and units: θ per layer, saliencies, frozen units, inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from hqp_onnx.arrays import Array, BoolArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.gradients.filters import weight_uses
from hqp_onnx.graphs import model_io
from hqp_onnx.job.results import Details, Frozen, Layer, ModelInput, SaliencyHistogram
from hqp_onnx.model import Model

BINS = 24


def describe(
    model: Model,
    channels: ChannelMap,
    plan: PruningPlan,
    saliency: NDArray[np.float64],
    sample: Mapping[str, Array],
) -> Details:
    """Describe a removal.

    Args:
        model: the original.
        channels: its units.
        plan: the removed units.
        saliency: float64 [units].
        sample: feeds of one sample.
    """
    gone = channels.removed(plan)
    return Details(
        _layers(model.graph, channels, gone),
        _histogram(saliency[channels.prunable], gone[channels.prunable]),
        _frozen(channels),
        tuple(ModelInput(x.name, x.dtype.name, x.shape, sample[x.name].shape) for x in model.session.inputs),
    )


def _layers(graph: gs.Graph, channels: ChannelMap, gone: BoolArray) -> tuple[Layer, ...]:
    proto = model_io.to_proto(graph).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.initializer}
    free = np.zeros(channels.units + 1, bool)
    free[channels.prunable] = True
    layers: dict[str, Layer] = {}
    for use in weight_uses(proto):
        shape = shapes[use.weight]
        labels = channels.members.get(ParamAxis(use.weight, use.axis), np.full(shape[use.axis], -1))
        counts = (len(labels), int(free[labels].sum()), int(gone[labels].sum()))
        layers.setdefault(use.weight, Layer(use.weight, use.node.op_type, shape, *counts))
    return tuple(layers.values())


def _histogram(scores: NDArray[np.float64], gone: BoolArray) -> SaliencyHistogram:
    known = np.isfinite(scores)
    positive = known & (scores > 0)
    logs = np.log10(scores, where=positive, out=np.zeros_like(scores))
    edges = np.histogram_bin_edges(logs[positive], BINS) if positive.any() else np.linspace(0, 1, BINS + 1)

    def counts(mask: BoolArray) -> tuple[int, ...]:
        return tuple(np.histogram(logs[mask], edges)[0].tolist())

    def split(mask: BoolArray) -> tuple[int, int]:
        return int((mask & ~gone).sum()), int((mask & gone).sum())

    kept, removed = counts(positive & ~gone), counts(positive & gone)
    return SaliencyHistogram(tuple(edges.tolist()), kept, removed, split(known & ~positive), split(~known))


def _frozen(channels: ChannelMap) -> tuple[Frozen, ...]:
    reasons = list(dict.fromkeys(channels.frozen.values()))
    numbers = {reason: number for number, reason in enumerate(reasons)}
    why = np.full(channels.units + 1, -1)
    why[list(channels.frozen)] = [numbers[reason] for reason in channels.frozen.values()]
    tensors: list[dict[str, None]] = [{} for _ in reasons]
    for axis, labels in channels.members.items():
        for number in np.unique(why[labels]).tolist():
            if number >= 0:
                tensors[number][axis.tensor] = None
    counts = np.bincount(why[why >= 0], minlength=len(reasons)).tolist()
    causes = (
        Frozen(reason, count, tuple(names)) for reason, count, names in zip(reasons, counts, tensors, strict=True)
    )
    return tuple(sorted(causes, key=lambda frozen: -frozen.units))
