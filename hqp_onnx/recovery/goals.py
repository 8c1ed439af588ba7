"""What a student is trained towards: the outputs of the original, and features of it where the two are alike.

    judged outputs   those that the metric reads: the one that was named; of classes and decisions the first; else all
    their loss       kl where they are logits of classes, at any positions, or of decisions; else mse (``objective``)
    other outputs    count as features do, and always

Without a metric, a model whose one float output has classes is a classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hqp_onnx.arrays import IntArray
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import GradientError
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients.loss import is_classifier, logits_of
from hqp_onnx.gradients.task_loss import logits_of_task
from hqp_onnx.gradients.trace import reachable
from hqp_onnx.recovery.net import Net
from hqp_onnx.recovery.objective import Logits
from hqp_onnx.recovery.points import Kept, Point, choose, cuts
from hqp_onnx.recovery.samples import gather
from hqp_onnx.recovery.settings import Recovery
from hqp_onnx.recovery.teacher import Teacher
from hqp_onnx.runtimes.session import work_session

UNLIKE = 1.0  # squared difference, of the original's variance, from which a feature says nothing


@dataclass(frozen=True)
class Goals:
    """What ``objective`` takes of a student.

    Attributes:
        logits: of the student, whose divergence counts, or None.
        squares: factor of the squared difference of each of the student's tensors.
        points: all tensors that the teacher answers for.
        notes: what is learned, and which features are not.
    """

    logits: Logits | None
    squares: Mapping[str, float]
    points: Sequence[Point]
    notes: tuple[str, ...]


def find_goals(
    student: Net, teacher: Net, trained: Sequence[str], data: Dataset, rows: IntArray, kept: Kept, settings: Recovery
) -> Goals:
    """Choose them, from the samples ``rows``, a multiple of a fixed batch.

    Raises:
        GradientError: the models' outputs differ, do not fit the loss, or depend on nothing that is trained.
    """
    outputs = _outputs(student, teacher, trained)
    judged = _judged(outputs, student, settings)
    task = _task(judged, outputs, student, settings)
    logits = None if task is None else Logits(*logits_of_task(student.tape, task))
    divergent = [Point(logits_of_task(teacher.tape, task)[0], logits.tensor, {})] if task and logits else []
    others = [point for point in outputs if point not in judged and point.mine not in [d.mine for d in divergent]]
    without = {point.name for point in divergent} | {value.name for value in teacher.model.graph.output}
    names = [name for name in cuts(teacher.model, teacher.traced) if name not in without]
    features = choose(names, student.traced, teacher.traced, kept, settings.features)
    squared = [] if divergent else judged
    measured = _measure(student, teacher, [*squared, *others, *features], data, rows)
    alike = [p for p in features if measured[p].variance > 0 and measured[p].error <= UNLIKE * measured[p].variance]
    squares = {p.mine: 1 / len(judged) / measured[p].whole for p in squared}
    led = [*others, *alike]
    squares |= {p.mine: settings.beta / len(led) / measured[p].whole for p in led}
    notes = _notes(judged, others, "kl" if divergent else "mse", alike, features)
    return Goals(logits, squares, [*divergent, *squared, *led], tuple(notes))


def _outputs(student: Net, teacher: Net, trained: Sequence[str]) -> list[Point]:
    """Outputs that depend on what is trained."""
    reached = reachable(student.model.graph, trained, student.traced.types)
    points = [Point(value.name, value.name, {}) for value in student.model.graph.output if value.name in reached]
    known = {value.name for value in teacher.model.graph.output}
    if not points:
        raise GradientError(
            "no floating-point output depends on a weight, so there is nothing to train"
            if trained
            else "the model has no weights in float32, which alone are trained. Export it in float32"
        )
    if missing := [point.name for point in points if point.name not in known]:
        raise GradientError(f"the teacher has no output '{missing[0]}': give the model that the student was made from")
    return points


def _judged(outputs: Sequence[Point], student: Net, settings: Recovery) -> list[Point]:
    """Those that the metric reads."""
    name = settings.task.output
    if not name and (settings.task.kind in ("classes", "decisions") or settings.loss == "kl"):
        name = student.model.graph.output[0].name
    if name and name not in (known := [point.name for point in outputs]):
        raise GradientError(f"output '{name}' holds no floats that depend on a weight; there are {', '.join(known)}")
    return [point for point in outputs if name in ("", point.name)]


def _task(judged: Sequence[Point], outputs: Sequence[Point], student: Net, settings: Recovery) -> Task | None:
    """Whose logits the judged output has; None where its loss is mse."""
    name, kind = judged[0].name, settings.task.kind
    if settings.loss == "mse" or len(judged) > 1:
        return None
    if kind in ("classes", "decisions"):
        return replace(settings.task, output=name) if student.traced.rows.get(name) == 1 else None
    if settings.loss == "kl":
        logits_of(student.tape, name)  # raises where it has none
    elif kind == "values" or len(outputs) > 1 or not is_classifier(student.tape):
        return None
    return Task("classes", name)


def _notes(
    judged: Sequence[Point], others: Sequence[Point], loss: str, alike: Sequence[Point], features: Sequence[Point]
) -> Iterator[str]:
    said = f"trained towards {', '.join(point.name for point in judged)} ({loss})"
    yield said + (f", and as features {', '.join(point.name for point in others)}" if others else "")
    yield f"features matched: {', '.join(point.name for point in alike) or 'none'}"
    yield from (f"feature '{point.name}' is too unlike" for point in features if point not in alike)


@dataclass
class _Measured:
    """Of a tensor of the teacher: its variance, the student's squared error, elements per sample."""

    variance: float
    error: float
    size: float

    @property
    def whole(self) -> float:
        """Squared difference of a sample that predicts nothing but the mean."""
        return (self.variance or 1.0) * self.size


def _measure(
    student: Net, teacher: Net, points: Sequence[Point], data: Dataset, rows: IntArray
) -> dict[Point, _Measured]:
    if not points:
        return {}
    original = Teacher(teacher.model, points)
    own = work_session(student.model, [point.mine for point in points], integer_kernels=False)
    sums = np.zeros((len(points), 4))  # count, sum, squares, squared differences
    part = student.part(len(rows))
    for start in range(0, len(rows), part):
        feeds = gather(data, rows[start : start + part])
        answers, answered = original.answers(feeds), own.run(feeds)
        for i, point in enumerate(points):
            t, s = answers[point.name].astype(np.float64), answered[point.mine]
            if t.shape != s.shape:
                theirs = f"'{point.name}' is {list(t.shape)} in the teacher"
                raise GradientError(f"{theirs} and {list(s.shape)} in the student")
            sums[i] += t.size, t.sum(), np.square(t).sum(), np.square(t - s).sum()
    counts, (means, squares, errors) = sums[:, 0], sums[:, 1:].T / sums[:, 0]
    statistics = zip(np.maximum(squares - means**2, 0), errors, counts / len(rows), strict=True)
    return {point: _Measured(*map(float, row)) for point, row in zip(points, statistics, strict=True)}
