"""Saliencies of the weights alone, which need no data.

l1, l2: norms of W_f (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017).
bn-gamma: |gamma| of the BatchNormalization behind f (Liu et al., "Network Slimming", ICCV 2017).
random: uniform in [0, 1), the control.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.errors import ModelError
from hqp_onnx.gradients import filter_weights
from hqp_onnx.gradients.filters import stored, weight_uses
from hqp_onnx.passes.lowering.inline_constants import inline_constants
from hqp_onnx.ranking.saliencies.scoring import SALIENCIES, Execution, FilterScores, Saliency, Samples, Scoring


@SALIENCIES.register("l1")
def l1(model: onnx.ModelProto, data: Samples | None = None) -> FilterScores:
    """Sum of |w| of each filter."""
    return {name: np.abs(rows).sum(1) for name, rows in _filters(model)}


@SALIENCIES.register("l2")
def l2(model: onnx.ModelProto, data: Samples | None = None) -> FilterScores:
    """Euclidean norm of each filter."""
    return {name: np.sqrt(np.square(rows).sum(1)) for name, rows in _filters(model)}


@SALIENCIES.register("bn-gamma")
def bn_gamma(model: onnx.ModelProto, data: Samples | None = None) -> FilterScores:
    """|gamma| of the BatchNormalization that reads a weight's output; weights without one are absent.

    Raises:
        ModelError: the model has no such BatchNormalization.
    """
    graph = inline_constants(model).graph
    values = _values(graph)
    gamma = {node.input[0]: node.input[1] for node in graph.node if node.op_type == "BatchNormalization"}
    scores = {
        use.weight: np.abs(values[gamma[use.node.output[0]]].astype(np.float64))
        for use in weight_uses(graph)
        if gamma.get(use.node.output[0]) in values
    }
    if not scores:
        raise ModelError(
            "no BatchNormalization follows a convolution (it may be folded into the weights): use another saliency, "
            "such as l2"
        )
    return scores


@SALIENCIES.register("random")
class Random(Saliency):
    """Uniform numbers."""

    def filters(
        self, model: onnx.ModelProto, data: Samples | None, scoring: Scoring, execution: Execution
    ) -> FilterScores:
        """Weight -> float64 [filters], by the seed."""
        rng = np.random.default_rng(scoring.seed)
        return {name: rng.random(len(rows)) for name, rows in _filters(model)}


def _filters(model: onnx.ModelProto) -> Iterator[tuple[str, FloatArray]]:
    """Each weight as float64 [filters, rest]."""
    constants = _values(inline_constants(model).graph)
    for name, axis in filter_weights(model).items():
        weight = np.moveaxis(constants[name].astype(np.float64), axis, 0)
        yield name, weight.reshape(len(weight), prod(weight.shape[1:]))


def _values(graph: onnx.GraphProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in stored(graph)}
