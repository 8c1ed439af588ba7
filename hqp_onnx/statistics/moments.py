"""Second moments of what each weight reads: the statistics behind closed-form compensation.

A weight multiplies feature vectors x_p, one per sample and position p; over calibration data,

    gram = E_p[x_p x_p^T],   mean = E_p[x_p].

The features of a Gemm or MatMul are its C input channels; those of a Conv are its patches, C channels times T taps
(zero where a tap meets padding), in the weight's own order. Where that is more than ``LARGEST``, and for a
ConvTranspose, they are the C channels of the input, at every position. Where C itself is more than that, correlations
are measured within blocks of ``BLOCK`` channels only, and each block has moments of its own (``block_names``).

The products are computed inside the model, by nodes appended to it (patches by a depthwise Conv with one-hot
kernels), so activations are never copied out or kept. Sums over a batch are float32, over batches float64.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.helper import make_node

from hqp_onnx.archives import read_arrays
from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.data.dataset import Batch, Dataset
from hqp_onnx.errors import DataError
from hqp_onnx.files import write_arrays
from hqp_onnx.graphs.nodes import operator, reads
from hqp_onnx.graphs.weight_axes import CONVOLUTIONS, WEIGHTED, weight_axes
from hqp_onnx.progress import StageProgress
from hqp_onnx.runtimes.session import Session

LARGEST = 4096  # features: a larger matrix is not worth its memory and its solve
BLOCK = 1024  # channels of a part of a wider input
WORKSPACE = 1 << 26  # bytes of patches in one run; larger batches are run in parts
_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")

_Total = tuple[FloatArray, FloatArray, float]
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
class Features:
    """The vectors that a node makes of ``tensor``.

    Attributes:
        tensor: the activation.
        channels: of the activation, from ``start`` on, along axis 1 of ``rank``, or the last where ``rank`` is 0.
        rank: see there.
        window: attributes of the Conv that cuts patches; empty if the features are the channels.
        beside: a tensor of the same positions whose channels are features too, after those of ``tensor``; "" if none.
        beside_channels: its channels.
        start: the first channel that is a feature.
        part: whether other channels of ``tensor`` are left out.
    """

    tensor: str
    channels: int
    rank: int
    window: tuple[tuple[str, Any], ...] = ()
    beside: str = ""
    beside_channels: int = 0
    start: int = 0
    part: bool = False

    @property
    def size(self) -> int:
        """All features."""
        return self.channels * self.taps + self.beside_channels

    @property
    def taps(self) -> int:
        """Features per channel."""
        return math.prod(dict(self.window).get("kernel_shape", ()))


@dataclass(frozen=True, slots=True)
class Contraction:
    """A weight whose every use multiplies its ``axis`` (0 or 1; the other is its output axis) with ``features``."""

    weight: str
    axis: int
    features: tuple[Features, ...]


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
        if not axes and axis is not None:
            features = dict.fromkeys(_features(node, weight.shape[axis]) for node in weight.outputs)
            contractions[name] = Contraction(name, axis, tuple(features))
    return contractions


def takes_bias(weight: gs.Constant) -> bool:
    """Whether the only reader of ``weight`` has a constant bias, one value per output, or room for one."""
    node = weight.outputs[0]
    if len(weight.outputs) != 1 or node.op not in ("Conv", "Gemm"):
        return False
    if any(node.attrs.get(factor, 1) != 1 for factor in ("alpha", "beta")):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias is None or (isinstance(bias, gs.Constant) and bias.values.size == _outputs(node))


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
    """Moments by weight name, in one pass over ``data``; weights that read the same features share one object.

    A weight used by several nodes gets the moments of all their inputs together. Weights that do not mix
    channels (see ``contractions``) are left out, with a line in the log; one that reads more than ``LARGEST`` channels
    has the moments of each block of them instead, under ``block_names``.
    In a model of fixed batch size, a short batch is completed by its own samples in turn.

    Args:
        model: canonical, opset 13 or newer.
        weights: initializers to measure; None for all.
        data: batches of the model's inputs.
        progress: called with (samples done, samples in all or 0 if unknown) after each batch.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the model.
    """
    uses = _measurable(gs.import_onnx(model), weights)
    features = list(dict.fromkeys(each for use in uses for each in use.features))
    if not features:
        return {}
    totals = dict(zip(features, _totals(model, features, data, progress, threads), strict=True))
    groups = {use.features: _moments([totals[each] for each in use.features]) for use in uses}
    return {use.weight: groups[use.features] for use in uses}


def feature_moments(
    model: onnx.ModelProto, features: Sequence[Features], data: Iterable[Batch], *, threads: int = 0
) -> list[Moments]:
    """Moments of each of ``features``, in one pass over ``data``; see ``input_moments``."""
    return [_moments([total]) for total in _totals(model, features, data, None, threads)]


def _measurable(graph: gs.Graph, weights: Sequence[str] | None) -> list[Contraction]:
    known = contractions(graph)
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


def _instrumented(model: onnx.ModelProto, features: Sequence[Features]) -> onnx.ModelProto:
    """``model`` plus nodes that give, for the n-th features as a matrix, its gram, sum and number of positions."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = [_constant("axis", 0, [0]), _constant("axis", 1, [1])]
    for n, x in enumerate(features):
        nodes, rows = [], x.rank == 0  # a matrix [positions, features], else [features, positions]
        source, flat = x.tensor, _name("flat" if x.beside else "own", n)
        if x.part:
            ends = [("start", x.start), ("stop", x.start + x.channels), ("along", -1 if rows else 1)]
            constants += [_constant(part, n, [value]) for part, value in ends]
            nodes.append(make_node("Slice", [source, *(_name(part, n) for part, _ in ends)], [_name("block", n)]))
            source = _name("block", n)
        if x.window:
            constants.append(_one_hot(x, n))
            nodes.append(make_node("Conv", [source, _name("taps", n)], [_name("patches", n)], group=x.channels))
            nodes[-1].attribute.extend(onnx.helper.make_attribute(key, value) for key, value in x.window)
            source = _name("patches", n)
        parts = [(source, x.channels * x.taps, "own"), (x.beside, x.beside_channels, "beside")]
        parts = parts if x.beside else parts[:1]
        for tensor, size, part in parts:
            if not rows:
                turned = _name(f"{part}.turned", n)
                nodes.append(make_node("Transpose", [tensor], [turned], perm=[1, 0, *range(2, x.rank)]))
                tensor = turned
            constants.append(_constant(f"{part}.matrix", n, [-1, size] if rows else [size, -1]))
            nodes.append(make_node("Reshape", [tensor, constants[-1].name], [_name(part, n)]))
        if x.beside:
            nodes.append(make_node("Concat", [_name(part, n) for *_, part in parts], [flat], axis=int(rows)))
        nodes += [
            make_node("Gemm", [flat, flat], [_name("gram", n)], transA=int(rows), transB=int(not rows)),
            make_node("ReduceSum", [flat, _name("axis", int(not rows))], [_name("sum", n)], keepdims=0),
            make_node("Shape", [flat], [_name("shape", n)]),
            make_node("Gather", [_name("shape", n), _name("axis", int(not rows))], [_name("positions", n)]),
        ]
        copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constants)
    return copy


def _needed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``model``, in place, without the nodes that ``names`` do not depend on."""
    wanted, kept = set(names), []
    for node in reversed(model.graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads(node))
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model


def _one_hot(x: Features, number: int) -> onnx.TensorProto:
    """Depthwise kernels that copy tap t of channel c to output c * taps + t."""
    kernel = dict(x.window)["kernel_shape"]
    taps = np.tile(np.eye(x.taps, dtype=np.float32), (x.channels, 1))
    return onnx.numpy_helper.from_array(taps.reshape(-1, 1, *kernel), _name("taps", number))


def _constant(part: str, number: int, values: Sequence[int]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, np.int64), _name(part, number))


def _name(part: str, number: int) -> str:
    return f"hqp.moments.{part}.{number}"


def _results(count: int) -> list[str]:
    return [_name(part, n) for part in ("gram", "sum", "positions") for n in range(count)]


def _totals(
    model: onnx.ModelProto,
    features: Sequence[Features],
    data: Iterable[Batch],
    progress: StageProgress | None,
    threads: int,
) -> list[_Total]:
    """Sum of x x^T, sum of x, positions: for each features, over all batches."""
    names = _results(len(features))
    session = Session(_needed(_instrumented(model, features), names), names, threads=threads)
    totals: list[FloatArray] = []
    rows = samples = 0
    for batch in data:
        rows = rows or session.batch or _affordable(session.run(_slice(batch, 0, 1, 1)), features)
        for start in range(0, len(batch), rows):
            values = session.run(_slice(batch, start, rows, session.batch or 0))
            totals = totals or [np.zeros(values[name].shape, np.float64) for name in names]
            for total, name in zip(totals, names, strict=True):
                total += values[name]
        samples += len(batch)
        if progress is not None:
            progress(samples, len(data) if isinstance(data, Dataset) else 0)
    if not samples:
        raise DataError("no calibration data: moments need at least one batch")
    n = len(features)
    return list(zip(totals[:n], totals[n : 2 * n], [float(size[0]) for size in totals[2 * n :]], strict=True))


def _affordable(one: Mapping[str, Array], features: Sequence[Features]) -> int:
    """Samples whose matrices fit ``WORKSPACE``, given the results for one sample."""
    floats = sum(x.size * int(one[_name("positions", n)][0]) for n, x in enumerate(features))
    return max(1, WORKSPACE // (4 * floats))


def _slice(batch: Batch, start: int, rows: int, least: int) -> dict[str, Array]:
    """``rows`` samples from ``start`` on, repeated in turn if fewer than ``least``."""
    parts = {name: x[start : start + rows] for name, x in batch.feeds.items()}
    return {name: np.resize(x, (max(least, len(x)), *x.shape[1:])) for name, x in parts.items()}


def _moments(totals: Sequence[_Total]) -> Moments:
    gram, total, count = (sum(parts) for parts in zip(*totals, strict=True))
    return Moments(gram / count, total / count, int(count))


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
