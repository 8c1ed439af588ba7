"""Saliencies of the loss: the mean over samples of what each sample's own gradient says about a filter.

fisher: S_f = 1/|D| sum_i ||dL(x_i, y_i) / dW_f||^2, each sample's own gradient. The gradient of a batch is a sum over
samples whose cross terms do not belong to S; ``gradients`` computes the exact value in batches.
taylor: 1/|D| sum_i <W_f, dL_i/dW_f>^2, the squared first-order change of the loss if f is removed (Molchanov et al.,
"Importance Estimation for Neural Network Pruning", CVPR 2019).
Both stand on the loss: cross-entropy of the labels, the model's own distribution, random projections of the outputs
(Gauss-Newton, for models that are not classifiers), or the user's own loss model; see ``gradients.loss``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.shards import Numbered, each_batch, summed
from hqp_onnx.errors import DataError, GradientError, ModelError
from hqp_onnx.evaluation.metrics.sample_axis import BySample
from hqp_onnx.evaluation.metrics.task import Task, task_of_targets
from hqp_onnx.gradients.engines import ENGINES, OpenEngine
from hqp_onnx.gradients.loss import Draw, LossName
from hqp_onnx.gradients.per_sample import Kind
from hqp_onnx.gradients.running_sums import RunningSums, run_key
from hqp_onnx.gradients.tape import INSTEAD
from hqp_onnx.gradients.task_loss import NAMES
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.passes.lowering.fix_inputs import fix_inputs
from hqp_onnx.ranking.saliencies.scoring import SALIENCIES, Execution, FilterScores, Saliency, Samples, Scoring
from hqp_onnx.runtimes.session import Session

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfGradients(Saliency):
    """The mean over samples of ``gradients``, a kind of ``PerSample``; ``loss`` is taken where none is chosen."""

    gradients: Kind
    loss: LossName | None = None
    needs_data: ClassVar[bool] = True

    def filters(
        self, model: onnx.ModelProto, data: Samples | None, scoring: Scoring, execution: Execution
    ) -> FilterScores:
        """Weight -> float64 [filters].

        Args:
            model: a classifier, its first output [N, classes], for the losses that need one; else any model.
            data: samples, all with labels or all without.
            scoring: the engine, the loss and its draws.
            execution: threads, progress and checkpoint.

        Raises:
            DataError: no samples, a missing label, or one that is not a class.
            GradientError: the model cannot be differentiated.
            MissingRuntimeError: the engine is not installed.
        """
        opened, work = self._opened(model, data, scoring, execution)
        assert data is not None  # else nothing opens
        _LOG.info("gradients of the loss %s", opened.loss.name)
        loss = scoring.loss_model
        own = loss.SerializeToString(deterministic=True) if isinstance(loss, onnx.ModelProto) else opened.loss.name
        key = run_key(work.model, work.first, scoring.engine, self.gradients, own, work.draw, opened.batch)
        sums = {name: np.zeros(count) for name, count in opened.filters.items()}
        progress = partial(execution.progress, f"{scoring.name} saliency")
        with RunningSums(execution.checkpoint, key, sums) as saved:
            rest = replace(work, skip=saved.done)
            parts = each_batch(data, saved.done) if isinstance(data, Dataset) else None
            for done, values in summed(rest, data, parts, execution.threads, opened=partial(_sums, opened, rest)):
                saved.add(values, done)
                progress(done, len(data))
        return {name: total / saved.done for name, total in saved.sums.items()}

    def check(self, model: onnx.ModelProto, data: Samples | None, scoring: Scoring, execution: Execution) -> None:
        """Raise what ``filters`` would raise of the model, the loss and the first sample."""
        self._opened(model, data, scoring, execution)

    def _opened(
        self, model: onnx.ModelProto, data: Samples | None, scoring: Scoring, execution: Execution
    ) -> tuple[OpenEngine, _Gradients]:
        """The engine, and what opens it elsewhere."""
        first = None if data is None else next(iter(data), None)
        if data is None or first is None or not len(first):
            raise DataError("no samples: saliency needs at least one")
        model = fix_inputs(model, first.common)
        loss = self.loss if scoring.loss_model is None else scoring.loss_model
        try:
            chosen = _chosen(loss, scoring.task, model, first)
            draw = Draw(scoring.draws, len(data), scoring.seed)
            work = _Gradients(scoring.engine, model, first, self.gradients, chosen, draw)
            return work.engine(execution.threads), work
        except GradientError as e:
            raise GradientError(e.reason, e.advice or INSTEAD) from e
        except ModelError as e:
            both = any(operator(node) == "If" for node in model.graph.node)
            what = "the model with both branches of each If" if both else "the model"
            raise GradientError(f"{what} does not run on several samples at once ({e})", INSTEAD) from e


@dataclass(frozen=True, eq=False)
class _Gradients:
    """``Summing``: for each micro-batch, the samples that are done with it, and sums of values by weight.

    Attributes:
        name: of the engine.
        model: that it differentiates.
        first: batch of the data.
        kind: see ``PerSample``.
        loss: likewise.
        draw: of the rounds of the loss.
        skip: samples that are done already.
    """

    name: str
    model: onnx.ModelProto
    first: Batch
    kind: Kind
    loss: LossName | Task | onnx.ModelProto | None
    draw: Draw
    skip: int = 0

    def engine(self, threads: int) -> OpenEngine:
        """Opened."""
        engine = ENGINES.get(self.name)
        return engine(self.model, self.first.own, kind=self.kind, loss=self.loss, threads=threads)

    def opened(self, threads: int) -> Callable[[Iterable[Numbered]], Iterator[tuple[int, FilterScores]]]:
        return partial(_sums, self.engine(threads), self)


def _sums(engine: OpenEngine, what: _Gradients, batches: Iterable[Numbered]) -> Iterator[tuple[int, FilterScores]]:
    labeled, common = what.first.labels is not None, what.first.common
    for start, batch in _micro_batches(batches, engine.batch, what.skip):
        if any(not np.array_equal(value, common[name]) for name, value in batch.common.items()):
            raise GradientError("a state of the model has no axis of samples in front", "take {--saliency} l2")
        if labeled and batch.labels is None:
            raise DataError(f"sample {start} has no label, but the first samples have: label all or none")
        values = _values(engine, batch, start, what.draw)
        yield start + len(batch), {name: x.sum(0, dtype=np.float64) for name, x in values.items()}


SALIENCIES.register("fisher")(OfGradients("fisher"))
SALIENCIES.register("taylor")(OfGradients("taylor"))


def _chosen(
    asked: LossName | onnx.ModelProto | None, task: Task | None, model: onnx.ModelProto, first: Batch
) -> LossName | Task | onnx.ModelProto | None:
    """The loss that was asked for, or that follows from the task and the targets.

    Raises:
        DataError: targets and outputs do not fit the loss that was asked for.
    """
    kind = next((kind for kind, name in NAMES.items() if name == asked), None)
    if asked is not None and kind is None:
        return asked
    if asked is None and task is not None and task.kind == "any":
        return "gauss-newton"
    rows = task is None or (task.kind == "classes" and task.axis is None and not task.output)
    if kind in (None, "classes") and (first.labels is not None or not first.targets) and rows:
        return asked if first.labels is None else "cross-entropy"
    outputs = {name: y for name, y in BySample(Session(model)).run(first.feeds).items() if isinstance(y, np.ndarray)}
    output = task.output if task is not None else ""
    found = task_of_targets({output: outputs[output]} if output in outputs else outputs, first.targets)
    wanted = kind or (task.kind if task is not None else found.kind)
    if found.kind == "decisions" and wanted == "values":
        found = Task("values", found.output, None, found.target)
    if found.kind == wanted != "any":
        return found
    if asked is not None:
        shapes = ", ".join(
            f"'{name}' {x.dtype}{list(x.shape)}" for name, x in (*outputs.items(), *first.targets.items())
        )
        raise DataError(f"the loss {asked} does not fit the outputs and targets, {shapes}: leave out {{--loss}}")
    return None


def _values(opened: OpenEngine, batch: Batch, start: int, draw: Draw) -> Mapping[str, Array]:
    """Values [n, filters] by weight: the sum over the rounds of the loss, or their mean where they are drawn."""
    task = opened.loss.task
    labels = batch.labels if task is None else batch.targets.get(task.target)
    rounds = opened.loss.rounds(range(start, start + len(batch)), labels, draw)
    each = (opened(batch.own, targets) for targets in rounds)  # one after the other: "expected" has many
    count = draw.count if opened.loss.random else 1
    total = dict(next(each))
    for values in each:
        total = {name: x + values[name].astype(np.float64) for name, x in total.items()}
    return total if count == 1 else {name: x / count for name, x in total.items()}


def _micro_batches(batches: Iterable[Numbered], size: int, skip: int) -> Iterator[Numbered]:
    """At most ``size`` samples at a time, without the first ``skip`` samples."""
    for first, batch in batches:
        for start in range(0, len(batch), size):
            if first + start >= skip:
                yield first + start, batch.part(slice(start, start + size))
