"""Second moments of what each weight reads: the statistics behind closed-form compensation.

A weight multiplies feature vectors x_p, one per sample and position p; over calibration data,

    gram = E_p[x_p x_p^T],   mean = E_p[x_p].

The features of a Gemm or MatMul are its C input channels; those of a Conv are its patches, C channels times T taps
(zero where a tap meets padding), in the weight's own order. Where that is more than ``LARGEST``, and for a
ConvTranspose, they are the C channels of the input, at every position. Where C itself is more than that, correlations
are measured within blocks of ``BLOCK`` channels only, and each block has moments of its own (``block_names``).

``statistics.feature_sums`` computes the sums.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.archives import read_arrays
from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError
from hqp_onnx.files import write_arrays
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.graphs.weight_axes import CONVOLUTIONS, WEIGHTED, weight_axes
from hqp_onnx.progress import StageProgress
from hqp_onnx.statistics.feature_sums import Sums, feature_sums
from hqp_onnx.statistics.summing import Features

LARGEST = 4096  # features: a larger matrix is not worth its memory and its solve
BLOCK = 1024  # channels of a part of a wider input
_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Moments:
    """``gram`` float64 [F, F] and ``mean`` float64 [F] of F features over ``count`` positions."""

    gram: FloatArray
    mean: FloatArray
    count: int

    def __post_init__(self) -> None:
        if self.gram.shape != (len(self.mean), len(self.mean)) or self.count < 1:
            raise ValueError(f"gram {self.gram.shape} and mean {self.mean.shape} over {self.count} do not fit")


@dataclass(frozen=True, slots=True)
class Contraction:
    """A weight whose every use multiplies its ``axis`` with ``features``: 0 or 1 of the first two, 2 if recurrent."""

    weight: str
    axis: int
    features: tuple[Features, ...]

    @property
    def outputs(self) -> int:
        """The axis of outputs."""
        return 1 if self.axis == 2 else 1 - self.axis


def contractions(graph: gs.Graph) -> dict[str, Contraction]:
    """The weights that mix channels: Conv and ConvTranspose of one group, Gemm, MatMul by a constant matrix.

    A weight that anything else reads too (another operator, a grouped Conv, a subgraph) is left out.
    """
    contractions: dict[str, Contraction] = {}
    nodes = {id(node) for node in graph.nodes}
    weights = {t.name: t for node in graph.nodes for t in node.inputs[1:2] if isinstance(t, gs.Constant)}
    for name, weight in weights.items():
        axes = {_input_axis(node, weight) if id(node) in nodes else None for node in weight.outputs}
        axis = axes.pop()
        if not axes and axis is not None and weight.values.size:
            features = dict.fromkeys(_features(node, weight.shape[axis]) for node in weight.outputs)
            contractions[name] = Contraction(name, axis, tuple(features))
    return contractions


def recurrences(graph: gs.Graph, index: int) -> dict[str, Contraction]:
    """The weights W (``index`` 1) of LSTM, GRU and RNN, which read the data, or R (2), which read the states.

    Both directions of R are one weight of what both read. One that anything else reads too is left out.
    """
    found = {}
    for node in (node for node in graph.nodes if operator(node) in GATES):
        weight, tensor = node.inputs[index], node.inputs[0] if index == 1 else node.outputs[0]
        if isinstance(weight, gs.Constant) and len(weight.outputs) == 1 and not tensor.is_empty():
            found[weight.name] = Contraction(weight.name, 2, (Features(tensor.name, weight.shape[2], 0),))
    return found


def reading_weights(graph: gs.Graph) -> dict[str, Contraction]:
    """Weights that read features; of recurrent nodes, those that read data, and those that read states."""
    return contractions(graph) | recurrences(graph, 1) | recurrences(graph, 2)


def takes_bias(weight: gs.Constant) -> bool:
    """Whether the only reader of ``weight`` has a constant bias, one value per output, or room for one."""
    node = weight.outputs[0]
    if len(weight.outputs) != 1 or node.op not in ("Conv", "Gemm"):
        return False
    if any(node.attrs.get(factor, 1) != 1 for factor in ("alpha", "beta")):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias is None or (isinstance(bias, gs.Constant) and bias.values.size == _outputs(node))


def bias_of(node: gs.Node) -> FloatArray | float:
    """The constant bias of a node, float64 [outputs]; 0 where it has none."""
    if len(node.inputs) < 3:
        return 0.0
    values: FloatArray = node.inputs[2].values.reshape(-1).astype(np.float64)
    return values


def _outputs(node: gs.Node) -> int:
    """Output channels of a Conv or Gemm."""
    shape = node.inputs[1].shape
    return int(shape[weight_axes(node, len(shape)).output])


def _input_axis(node: gs.Node, weight: gs.Constant) -> int | None:
    """The axis of ``weight`` that ``node`` contracts with channels of an activation; None if it does not."""
    if [t is weight for t in node.inputs] != [False, True, False][: len(node.inputs)]:
        return None
    if isinstance(node.inputs[0], gs.Constant) or operator(node) not in WEIGHTED:
        return None
    if node.attrs.get("group", 1) != 1 or node.attrs.get("transA", 0):
        return None
    rank = len(weight.shape)
    return weight_axes(node, rank).input if rank == 2 or node.op in CONVOLUTIONS else None


def _features(node: gs.Node, channels: int) -> Features:
    tensor, weight = node.inputs[0].name, node.inputs[1]
    rank = len(weight.shape) if node.op in CONVOLUTIONS else 0
    kernel = tuple(weight.shape[2:])
    plain = math.prod(kernel) == 1 and max(node.attrs.get("strides", [1])) == 1 and not any(node.attrs.get("pads", []))
    if node.op != "Conv" or plain or channels * math.prod(kernel) > LARGEST:
        return Features(tensor, channels, rank)
    attributes = {**node.attrs, "kernel_shape": kernel}
    window = ((k, tuple(v) if isinstance(v, list) else v) for k, v in sorted(attributes.items()) if k in _WINDOW)
    return Features(tensor, channels, rank, tuple(window))


def input_moments(
    model: onnx.ModelProto,
    weights: Sequence[str] | None,
    data: Iterable[Batch],
    *,
    progress: StageProgress | None = None,
    threads: int = 0,
) -> dict[str, Moments]:
    """Moments by weight name; weights that read the same features share one object.

    A weight used by several nodes gets the moments of all their inputs together. Weights that do not mix
    channels (see ``contractions``), or read what is not finite, are left out, with a line in the log; one that reads
    more than ``LARGEST`` channels
    has the moments of each block of them instead, under ``block_names``.
    In a model of fixed batch size, a short batch is completed by its own samples in turn.

    Args:
        model: canonical, opset 13 or newer.
        weights: initializers to measure; None for all.
        data: batches of the model's inputs, re-iterable: read once, or more often where grams are large.
        progress: called with (samples done, samples in all or 0 if unknown) after each batch.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the model.
    """
    uses = _measurable(gs.import_onnx(model), weights)
    groups = list(dict.fromkeys(use.features for use in uses))
    sums = feature_sums(model, groups, data, progress=progress, threads=threads)
    moments = dict(zip(groups, map(_moments, sums), strict=True))
    known = [use for use in uses if np.isfinite(moments[use.features].gram).all()]
    for use in uses:
        if use not in known:
            _logger.info("%s: no moments: its input is NaN or infinite on some samples", use.weight)
    return {use.weight: moments[use.features] for use in known}


def feature_moments(
    model: onnx.ModelProto, features: Sequence[Features], data: Iterable[Batch], *, threads: int = 0
) -> list[Moments]:
    """Moments of each of ``features``, in one pass over ``data``; see ``input_moments``."""
    return [_moments(each) for each in feature_sums(model, [(one,) for one in features], data, threads=threads)]


def _measurable(graph: gs.Graph, weights: Sequence[str] | None) -> list[Contraction]:
    known = reading_weights(graph)
    chosen = []
    for name in known if weights is None else weights:
        if name not in known:
            _logger.info("%s: no moments: not a weight that mixes channels", name)
        elif known[name].features[0].channels > LARGEST:
            chosen += _blocks(known[name])
        else:
            chosen.append(known[name])
    return chosen


def block_names(weight: str, channels: int) -> list[str]:
    """What the moments of a wide weight's input are called, block by block."""
    return [f"{weight}[{start}:{min(start + BLOCK, channels)}]" for start in range(0, channels, BLOCK)]


def _blocks(use: Contraction) -> list[Contraction]:
    """``use`` as one contraction per block."""
    channels, parts = use.features[0].channels, []
    for number, name in enumerate(block_names(use.weight, channels)):
        start = number * BLOCK
        size = min(BLOCK, channels - start)
        features = tuple(replace(each, start=start, channels=size, part=True) for each in use.features)
        parts.append(Contraction(name, use.axis, features))
    return parts


def _moments(sums: Sums) -> Moments:
    return Moments(sums.gram / sums.count, sums.total / sums.count, int(sums.count))


def save_moments(moments: Mapping[str, Moments], path: Path) -> None:
    """Write ``path`` (.npz); moments that weights share are written once."""
    distinct = list({id(value): value for value in moments.values()}.values())
    index = {id(value): number for number, value in enumerate(distinct)}
    arrays: dict[str, Array] = {
        "weights": np.array(list(moments), np.str_),
        "index": np.array([index[id(value)] for value in moments.values()], np.int64),
        "counts": np.array([value.count for value in distinct], np.int64),
    }
    for number, value in enumerate(distinct):
        arrays |= {f"gram/{number}": value.gram, f"mean/{number}": value.mean}
    write_arrays(path, arrays)


def load_moments(path: Path) -> dict[str, Moments]:
    """What ``save_moments`` wrote.

    Raises:
        DataError: missing or damaged file.
    """
    try:
        stored = read_arrays(path)
        counts = stored["counts"].tolist()
        distinct = [Moments(stored[f"gram/{n}"], stored[f"mean/{n}"], count) for n, count in enumerate(counts)]
        return {str(name): distinct[n] for name, n in zip(stored["weights"], stored["index"], strict=True)}
    except (DataError, ValueError, KeyError, IndexError, TypeError) as e:
        raise DataError(f"{path}: not a file of moments ({type(e).__name__}): delete it and measure again") from e
