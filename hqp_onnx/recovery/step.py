"""The gradient of a loss, and the loss itself, part by part: here, or by workers (``hqp_onnx.workers``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import onnx

from hqp_onnx.arrays import Array, Float32Array, IntArray
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.recovery.objective import Objective
from hqp_onnx.recovery.points import Point
from hqp_onnx.recovery.samples import Feeds, gather
from hqp_onnx.recovery.teacher import Teacher
from hqp_onnx.runtimes.session import set_provider, work_provider, work_session
from hqp_onnx.workers import active
from hqp_onnx.workers.parcels import packed


class Part(NamedTuple):
    """Samples of one run: their numbers, None if they were augmented; ``feeds``, None for those of the data."""

    weights: Mapping[str, Array]
    rows: IntArray | None
    feeds: Feeds | None
    gradient: bool


Teach = Callable[[Feeds, "IntArray | None"], Feeds]
"""Targets of an objective for feeds; rows say which samples these are, None if they were augmented."""


@dataclass(frozen=True, eq=False)
class Teaching:
    """A ``Teacher`` that is not open yet, and the student's ``inputs`` for its answers."""

    model: onnx.ModelProto
    points: Sequence[Point]
    inputs: Mapping[str, str]
    samples: int

    def opened(self, threads: int) -> Teach:
        """What teaches."""
        teacher = Teacher(self.model, self.points, threads, self.samples)
        return lambda feeds, rows: {self.inputs[name]: x for name, x in teacher(feeds, rows).items()}


@dataclass(frozen=True, eq=False)
class Step:
    """``Work``: of each part the sum of gradients, flat, or of losses.

    Attributes:
        objective: of the student.
        teach: its targets.
        data: all samples; None where parts bring their feeds.
        provider: where it is computed.
    """

    objective: Objective
    teach: Teaching
    data: Dataset | None
    provider: str

    @classmethod
    def of(cls, objective: Objective, teach: Teaching, data: Dataset) -> Step:
        """As workers can do it, if there are any, and on ``work_provider()``."""
        step = cls(objective, teach, data, work_provider())
        return step if active() is None or packed(step) is not None else replace(step, data=None)

    def opened(self, threads: int) -> Callable[[Part], Any]:
        """See ``Work``."""
        set_provider(self.provider)
        return self.taught_by(self.teach.opened(threads), threads)

    def taught_by(self, teach: Teach, threads: int) -> Callable[[Part], Any]:
        """The same in this context."""
        built = self.objective
        session = work_session(built.model, built.outputs, threads, integer_kernels=False)
        judge = work_session(built.model, [built.loss], threads, integer_kernels=False)

        def run(part: Part) -> Any:
            feeds = part.feeds
            if feeds is None:
                assert self.data is not None and part.rows is not None
                feeds = gather(self.data, part.rows)
            fed = {**feeds, **part.weights, **teach(feeds, part.rows)}
            if not part.gradient:
                return float(next(iter(judge.run(fed).values())))
            _, *gradients = session.run(fed).values()
            return flat(gradients)

        return run


def flat(arrays: Iterable[Array]) -> Float32Array:
    """One after the other."""
    return np.concatenate([x.ravel() for x in arrays]).astype(np.float32)


def parts_of(rows: IntArray, size: int) -> Sequence[IntArray]:
    """``rows``, ``size`` at a time."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
