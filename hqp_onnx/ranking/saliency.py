"""Saliency: how much the loss would suffer without a filter, one float64 per filter, then per unit.

fisher: S_f = 1/|D| sum_i ||dL(x_i, y_i) / dW_f||^2, each sample's own gradient. The gradient of a batch is a sum over
samples whose cross terms do not belong to S; ``gradients`` computes the exact value in batches.
taylor: 1/|D| sum_i <W_f, dL_i/dW_f>^2, the squared first-order change of the loss if f is removed (Molchanov et al.,
"Importance Estimation for Neural Network Pruning", CVPR 2019).
obs: the growth of the loss after the refit of what reads f (``surgeon``); here, what each filter's output weighs,
1/|D| sum_i ||dL_i/dy_f||^2, by default of projections of the outputs: trained losses are flat.
All three stand on the loss: cross-entropy of the labels, the model's own distribution, random projections of the
outputs (Gauss-Newton, for models that are no classifiers), or a loss model of the user's; see ``gradients.loss``.
l1, l2: norms of W_f (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017).
bn-gamma: |gamma| of the BatchNormalization behind f (Liu et al., "Network Slimming", ICCV 2017).
random: uniform in [0, 1), the control.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hqp_onnx.arrays import Array
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.data.dataset import Batch
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.gradients import PerSample, filter_weights
from hqp_onnx.gradients.filters import weight_uses
from hqp_onnx.gradients.loss import LOSSES, Draw, LossName
from hqp_onnx.gradients.per_sample import Kind
from hqp_onnx.gradients.running_sums import RunningSums, run_key
from hqp_onnx.gradients.training.engine import TrainingPerSample
from hqp_onnx.passes.lowering.inline_constants import inline_constants
from hqp_onnx.progress import StageProgress

__all__ = [
    "ENGINES",
    "LOSSES",
    "SALIENCIES",
    "bn_gamma",
    "filter_scores",
    "filter_weights",
    "fisher",
    "l1",
    "l2",
    "random_scores",
    "unit_scores",
]

ENGINES: dict[str, type[PerSample] | type[TrainingPerSample]] = {"native": PerSample, "ort-training": TrainingPerSample}
GRADIENT_KINDS: dict[str, Kind] = {"fisher": "fisher", "taylor": "taylor", "obs": "output"}
SALIENCIES = (*GRADIENT_KINDS, "l1", "l2", "bn-gamma", "random")
_LOG = logging.getLogger(__name__)
Scores = dict[str, NDArray[np.float64]]


class Samples(Protocol):
    """A re-iterable sequence of batches; ``len`` counts samples. ``Dataset`` is one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


def fisher(
    model: onnx.ModelProto,
    data: Samples,
    *,
    threads: int = 0,
    progress: StageProgress | None = None,
    checkpoint: Path | None = None,
    kind: Kind = "fisher",
    loss: LossName | onnx.ModelProto | None = None,
    draws: int = 1,
    seed: int = 0,
    engine: str = "native",
) -> Scores:
    """Mean over samples of ||dL_i/dW_f||^2, or of what else ``kind`` says.

    Args:
        model: a classifier, its first output [N, classes], for the losses that need one; else any model.
        data: samples, all with labels or all without.
        threads: of onnxruntime; 0 is its own choice.
        progress: called with (samples done, samples in all) after each batch.
        checkpoint: file for partial sums, written every few seconds and when interrupted, removed at the end. The
            same call resumes from it, to the same bits; one of another model, data or batch size is ignored.
        kind: see ``PerSample``; only the native engine has "output".
        loss: a name of ``LOSSES`` or a loss model. None takes cross-entropy where there are labels, else labels
            sampled from a classifier's own distribution, else Gauss-Newton by random projections of the outputs.
        draws: labels sampled, or projections, per sample; each costs one pass. Other losses draw nothing.
        seed: of the draws.
        engine: a name of ``ENGINES``: "native", or "ort-training" (labels given or sampled only).

    Returns:
        Weight -> float64 [filters].

    Raises:
        DataError: no samples, a missing label, or one that is no class.
        UsageError: ``draws`` below 1, an unknown engine, or one without ``kind``.
        GradientError: the model cannot be differentiated.
        MissingRuntimeError: the engine is not installed.
    """
    first = _first(data, draws, engine, kind)
    labeled = first.labels is not None
    chosen = loss if loss is not None or not labeled else "cross-entropy"
    net = ENGINES[engine](model, first.feeds, kind=kind, loss=chosen, threads=threads)
    _LOG.info("%s on the loss %s", kind, net.loss.name)
    draw = Draw(draws, len(data), seed)
    sums = {name: np.zeros(count) for name, count in net.filters.items()}
    own = loss.SerializeToString(deterministic=True) if isinstance(loss, onnx.ModelProto) else net.loss.name
    with RunningSums(checkpoint, run_key(model, first, engine, kind, own, draw, net.batch), sums) as saved:
        for start, batch in _micro_batches(data, net.batch, saved.done):
            part = range(start, start + len(batch))
            if labeled and batch.labels is None:
                raise DataError(f"sample {start} has no label, but the first samples have: label all or none")
            rounds = (net(batch.feeds, targets) for targets in net.loss.rounds(part, batch.labels, draw))
            saved.add(_mean(rounds, draws if net.loss.random else 1), part.stop)
            if progress:
                progress(saved.done, len(data))
    return {name: total / saved.done for name, total in saved.sums.items()}


def _first(data: Samples, draws: int, engine: str, kind: Kind) -> Batch:
    """The first batch, once all arguments are known to make sense."""
    if engine not in ENGINES:
        raise UsageError(f"--gradients {engine}: expected one of {', '.join(ENGINES)}")
    if kind == "output" and engine != "native":
        raise UsageError(f"--gradients {engine}: --saliency obs needs native")
    if draws < 1:
        raise UsageError(f"draws is {draws}: expected at least 1")
    first = next(iter(data), None)
    if first is None or not len(first):
        raise DataError("no samples: saliency needs at least one")
    return first


def _mean(rounds: Iterator[Mapping[str, Array]], count: int) -> Mapping[str, Array]:
    """Sum of the rounds over ``count``."""
    total = dict(next(rounds))
    for values in rounds:
        total = {name: x + values[name].astype(np.float64) for name, x in total.items()}
    return total if count == 1 else {name: x / count for name, x in total.items()}


def l1(model: onnx.ModelProto) -> Scores:
    """Sum of |w| of each filter."""
    return {name: np.abs(rows).sum(1) for name, rows in _filters(model)}


def l2(model: onnx.ModelProto) -> Scores:
    """Euclidean norm of each filter."""
    return {name: np.sqrt(np.square(rows).sum(1)) for name, rows in _filters(model)}


def random_scores(model: onnx.ModelProto, seed: int = 0) -> Scores:
    """Uniform numbers."""
    rng = np.random.default_rng(seed)
    return {name: rng.random(len(rows)) for name, rows in _filters(model)}


def bn_gamma(model: onnx.ModelProto) -> Scores:
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
            "no BatchNormalization follows a convolution (it may be folded into the weights): use --saliency l2"
        )
    return scores


def filter_scores(
    kind: str,
    model: onnx.ModelProto,
    data: Samples | None = None,
    *,
    threads: int = 0,
    progress: StageProgress | None = None,
    checkpoint: Path | None = None,
    loss: LossName | onnx.ModelProto | None = None,
    draws: int = 1,
    seed: int = 0,
    engine: str = "native",
) -> Scores:
    """Filter scores by the name of a saliency; the other arguments are those of ``fisher``.

    Raises:
        UsageError: an unknown name, or no ``data`` where they are needed.
    """
    if kind in GRADIENT_KINDS:
        if data is None:
            raise UsageError(f"--saliency {kind} needs data: give some, or use l1, l2, bn-gamma or random")
        return fisher(
            model,
            data,
            threads=threads,
            progress=progress,
            checkpoint=checkpoint,
            kind=GRADIENT_KINDS[kind],
            loss="gauss-newton" if loss is None and kind == "obs" else loss,
            draws=draws,
            seed=seed,
            engine=engine,
        )
    if kind == "random":
        return random_scores(model, seed)
    without_data: dict[str, Callable[[onnx.ModelProto], Scores]] = {"l1": l1, "l2": l2, "bn-gamma": bn_gamma}
    if kind not in without_data:
        raise UsageError(f"unknown saliency '{kind}': expected one of {', '.join(SALIENCIES)}")
    return without_data[kind](model)


def unit_scores(
    filters: Mapping[str, NDArray[np.float64]], channels: ChannelMap, axes: Mapping[str, int]
) -> NDArray[np.float64]:
    """Sum of the scores of the filters that belong to each unit.

    Args:
        filters: weight -> float64 [filters].
        channels: the units; label -1 along a filter axis belongs to none.
        axes: weight -> filter axis, as ``filter_weights`` gives them.

    Returns:
        float64 [units]; a unit without a scored filter is +inf: nothing is known of it, so it ranks last to leave.
    """
    scores, known = np.zeros(channels.units), np.zeros(channels.units, bool)
    for weight, values in filters.items():
        labels = channels.members.get(ParamAxis(weight, axes[weight]))
        if labels is None:
            continue
        member = labels >= 0
        np.add.at(scores, labels[member], values[member])
        known[labels[member]] = True
    return np.where(known, scores, np.inf)


def _micro_batches(data: Iterable[Batch], size: int, skip: int) -> Iterator[tuple[int, Batch]]:
    """(position of the first sample, at most ``size`` samples), leaving out the first ``skip`` samples."""
    position = 0
    for batch in data:
        for start in range(0, len(batch), size):
            part = slice(start, min(start + size, len(batch)))
            if position >= skip:
                labels = None if batch.labels is None else batch.labels[part]
                yield position, Batch({name: x[part] for name, x in batch.feeds.items()}, labels)
            position += part.stop - part.start


def _filters(model: onnx.ModelProto) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each weight as float64 [filters, rest]."""
    constants = _values(inline_constants(model).graph)
    for name, axis in filter_weights(model).items():
        weight = np.moveaxis(constants[name].astype(np.float64), axis, 0)
        yield name, weight.reshape(len(weight), -1)


def _values(graph: onnx.GraphProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
