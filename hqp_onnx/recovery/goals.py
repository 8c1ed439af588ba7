"""What a student is trained towards: the outputs of the original, and features of it where the two are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hqp_onnx.arrays import IntArray
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.loss import is_classifier, logits_of
from hqp_onnx.gradients.trace import reachable
from hqp_onnx.recovery.net import Net
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
        logits: tensor of the student whose divergence counts, or None.
        squares: factor of the squared difference of each of the student's tensors.
        points: all tensors that the teacher answers for.
        notes: which features are matched, and which are not.
    """

    logits: str | None
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
    outputs = _outputs(student, teacher, trained, settings)
    divergent = _diverges(student, outputs, settings)
    if divergent:
        outputs = [Point(logits_of(teacher.tape), logits_of(student.tape), {})]
    without = {point.name for point in outputs} | {value.name for value in teacher.model.graph.output}
    names = [name for name in cuts(teacher.model, teacher.traced) if name not in without]
    features = choose(names, student.traced, teacher.traced, kept, settings.features)
    measured = _measure(student, teacher, [*([] if divergent else outputs), *features], data, rows)
    alike = [p for p in features if measured[p].variance > 0 and measured[p].error <= UNLIKE * measured[p].variance]
    squares = {} if divergent else {p.mine: 1 / len(outputs) / measured[p].whole for p in outputs}
    squares |= {p.mine: settings.beta / len(alike) / measured[p].whole for p in alike}
    matched = ", ".join(p.name for p in alike) or "none"
    notes = f"features matched: {matched}", *(f"feature '{p.name}' is too unlike" for p in features if p not in alike)
    return Goals(outputs[0].mine if divergent else None, squares, [*outputs, *alike], notes)


def _outputs(student: Net, teacher: Net, trained: Sequence[str], settings: Recovery) -> list[Point]:
    """Outputs that depend on what is trained."""
    reached = reachable(student.model.graph, trained, student.traced.types)
    points = [Point(value.name, value.name, {}) for value in student.model.graph.output if value.name in reached]
    known = {value.name for value in teacher.model.graph.output}
    if not points:
        raise GradientError("no floating-point output depends on a weight; leave out {--recover}")
    if missing := [point.name for point in points if point.name not in known]:
        raise GradientError(f"the teacher has no output '{missing[0]}': give the model that the student was made from")
    return points


def _diverges(student: Net, outputs: Sequence[Point], settings: Recovery) -> bool:
    """Whether the loss is that of a classifier."""
    if settings.loss is None:
        return len(outputs) == 1 and is_classifier(student.tape)
    return settings.loss == "kl"


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
            if t.shape != s.shape or len(t) != len(feeds[next(iter(feeds))]):
                theirs = f"'{point.name}' is {list(t.shape)} in the teacher"
                raise GradientError(f"{theirs} and {list(s.shape)} in the student")
            sums[i] += t.size, t.sum(), np.square(t).sum(), np.square(t - s).sum()
    counts, (means, squares, errors) = sums[:, 0], sums[:, 1:].T / sums[:, 0]
    statistics = zip(np.maximum(squares - means**2, 0), errors, counts / len(rows), strict=True)
    return {point: _Measured(*map(float, row)) for point, row in zip(points, statistics, strict=True)}
