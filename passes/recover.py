"""Recover what pruning and quantization took: a short training towards the original's own answers, without labels.

    minimise over the weights   E [ D(teacher(x), student(x)) + beta mean_f |s_f - t_f|^2 / var(t_f) ]

on the calibration data: self-distillation of outputs and of a few features (``recovery.points``), by Adam on exact
batch gradients of the native engine, which run in onnxruntime. Statistics of BatchNormalization stay as they are. A
quantized student is trained as it is, straight through its Q/DQ pairs at their scales (``expose_masters``).

A held-out share of the samples judges: the weights of the best round are taken, and the start counts as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.counts import counted
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import GradientError
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.expose_masters import Exposed, expose_masters, store_masters
from hqp_onnx.passes.lowering.fix_inputs import fix_inputs
from hqp_onnx.progress import StageProgress
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.augment import SAME, harmless, of_images, spatial_axes
from hqp_onnx.recovery.goals import Goals, find_goals
from hqp_onnx.recovery.net import Net
from hqp_onnx.recovery.objective import objective
from hqp_onnx.recovery.points import Kept
from hqp_onnx.recovery.samples import Feeds, gather, split
from hqp_onnx.recovery.schedule import batch_for
from hqp_onnx.recovery.step import Teaching, parts_of
from hqp_onnx.recovery.teacher import Teacher
from hqp_onnx.recovery.trained import trained_constants
from hqp_onnx.recovery.trainer import Lesson, Trained, Trainer

__all__ = ["Recovered", "check_recoverable", "recover"]

JUDGES = 256  # training samples that variances are taken from
WORDS = {"crop": "shifts", "flip": "mirroring"}


@dataclass(frozen=True, kw_only=True)
class Recovered(PassResult):
    """``losses``: mean on the held-out samples before training and after each round."""

    losses: tuple[float, ...]


def recover(
    student: gs.Graph,
    teacher: gs.Graph,
    data: Dataset,
    settings: Recovery,
    *,
    kept: Kept | None = None,
    threads: int = 0,
    checkpoint: Path | None = None,
    final: bool = False,
    other: Mapping[str, Array] | None = None,
    progress: StageProgress | None = None,
) -> Recovered:
    """A copy of ``student`` that answers more like ``teacher`` on held-out samples, or is unchanged.

    Args:
        student: canonical; pruned, or quantized with Q/DQ, or both.
        teacher: the original, canonical, with the same inputs and outputs.
        data: samples; labels are not read.
        settings: see ``Recovery``.
        kept: what pruning kept of the teacher's activations (``recovery.points.kept_positions``); without it, only
            tensors of unchanged shape are compared.
        threads: of onnxruntime.
        checkpoint: file that is written after every round; a run that is repeated goes on from it.
        final: a checkpoint of a training that ended is its result, even if there is more time now.
        other: values of weights to start with, if they do better on the held-out samples; others stay as they are.
        progress: called with samples trained on, and in all.

    Raises:
        GradientError: an operator has no gradient rule, or outputs differ or do not fit the loss.
        DataError: too few samples, or a damaged checkpoint.
        UsageError: ``augment`` for data that are not images.
    """
    if not settings.epochs:
        return Recovered(student.copy(), False, losses=())
    began = perf_counter()
    exposed = expose_masters(student)
    trainer, notes = _open(exposed, teacher, data, settings, kept or {}, threads)
    weights = trainer.lesson.weights
    known = {name: x for name, x in (other or {}).items() if name in weights and x.shape == weights[name].shape}
    found = trainer.run(checkpoint, progress or (lambda done, total: None), began, final, known)
    stored = store_masters(student, exposed.masters, found.weights)
    return Recovered(stored.graph, stored.modified, (_told(found), *notes), losses=tuple(found.losses))


def _told(found: Trained) -> str:
    """What came of it, in words."""
    losses, epochs = found.losses, found.epochs
    best = int(np.nanargmin(losses)) if np.isfinite(losses[0]) else 0
    after = f"{losses[best]:.4g} at best, after {epochs[best]:.3g} of the {epochs[-1]:.3g} epochs trained"
    return f"recovery: held-out loss {losses[0]:.4g} before and {after}; training ended because {found.ended}"


def check_recoverable(graph: gs.Graph, data: Dataset, settings: Recovery) -> str:
    """What students that are made from ``graph`` are trained towards, in words; raises what ``recover`` would."""
    notes = _open(expose_masters(graph), graph, data, settings, {}, 0)[1]
    return "; ".join(note for note in notes if not note.startswith("feature"))


def _open(
    exposed: Exposed, original: gs.Graph, data: Dataset, settings: Recovery, kept: Kept, threads: int
) -> tuple[Trainer, tuple[str, ...]]:
    """``_trainer``, with other advice in its errors."""
    try:
        return _trainer(exposed, original, data, settings, kept, threads)
    except GradientError as e:
        advice = "leave out {--recover}, or take the loss mse" if e.advice else ""
        raise GradientError(f"recovery: {e.reason}", advice) from e


def _trainer(
    exposed: Exposed, original: gs.Graph, data: Dataset, settings: Recovery, kept: Kept, threads: int
) -> tuple[Trainer, tuple[str, ...]]:
    sample = data.rows(0, 1)
    if fed_alone := sorted(sample.shared & data.states.keys()):
        raise GradientError(f"state '{fed_alone[0]}' has no axis of samples in front", "leave out {--recover}")
    given, first = (fix_inputs(to_proto(graph), sample.common) for graph in (exposed.graph, original))
    student, origin = Net.of(given, sample.own, trained=True), Net.of(first, sample.own)
    trained = trained_constants(exposed.graph)
    train, held = split(len(data), settings, student.batch or 1)
    part = student.part(min(batch_for(settings, len(train)), len(train)))
    some = train[: max(min(JUDGES, len(train)) // part, 1) * part]
    goals = find_goals(student, origin, trained, data, some, kept, settings)
    settings, said = _varied(settings, data, origin, goals, some, part)
    built = objective(
        student.model,
        student.traced,
        trained,
        logits=goals.logits,
        temperature=settings.temperature,
        squares=goals.squares,
    )
    tensors = exposed.graph.tensors()
    weights = {name: tensors[name].values for name in built.gradients}
    bounds = {name: master.bounds for name, master in exposed.masters.items() if name in weights}
    apart = all(origin.traced.rows.get(point.name) == 1 for point in goals.points)
    inputs = {point.name: built.targets[point.mine] for point in goals.points}
    teach = Teaching(origin.model, goals.points, inputs, len(data) if apart else 0)
    lesson = Lesson(built, weights, bounds, teach)
    trainer = Trainer(lesson, data, (train, held), settings, part, threads)
    if settings.epochs == "auto":
        schedule = trainer.schedule
        epochs = counted(schedule.epochs, "epoch")
        said = f"up to {epochs} of {counted(len(train), 'sample')}, {schedule.batch} at a time{said}"
    return trainer, (*goals.notes, *([said] if said else []))


def _varied(
    settings: Recovery, data: Dataset, origin: Net, goals: Goals, rows: IntArray, part: int
) -> tuple[Recovery, str]:
    """How ``auto`` varies images, where nobody said how, and why."""
    if settings.epochs != "auto" or settings.augment or not of_images(data):
        return settings, ""
    judged, axes = goals.points[0], spatial_axes(data)
    teacher = Teacher(origin.model, [judged])

    def answer(feeds: Feeds) -> Array:
        parts = parts_of(np.arange(len(rows)), part)
        each = [teacher.answers({name: x[some] for name, x in feeds.items()})[judged.name] for some in parts]
        return np.concatenate(each)

    classes = None if goals.logits is None else goals.logits.axis
    same = harmless(gather(data, rows), answer, classes, axes, settings.seed)
    kinds = tuple(kind for kind, share in same.items() if share >= SAME)
    named = {kind: f"{'' if kind in kinds else 'no '}{WORDS[kind]}" for kind in same}
    each = (f"{named[kind]} ({100 * max(share, 0):.0f} % of the answers stay the same)" for kind, share in same.items())
    return replace(settings, augment=kinds), f"; augmentation: {', '.join(each)}"
