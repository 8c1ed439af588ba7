"""What the original answers: its outputs and features, cut to the channels that the student has.

Answers for a sample are kept where those for all samples fit into ``CACHE`` bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.recovery.points import Point
from hqp_onnx.recovery.samples import Feeds
from hqp_onnx.runtimes.session import work_session

CACHE = 1 << 28


class Teacher:
    """The original.

    Args:
        model: the original.
        points: tensors of it that are asked for, one row a sample.
        threads: of onnxruntime.
        samples: of the data, if their answers may be kept; else 0.
    """

    def __init__(self, model: onnx.ModelProto, points: Sequence[Point], threads: int = 0, samples: int = 0) -> None:
        self.points, self._samples = points, samples
        self._session = work_session(model, [point.name for point in points], threads)
        self._known: dict[str, Array] = {}
        self._has = np.zeros(samples, bool)

    def answers(self, feeds: Feeds) -> dict[str, Array]:
        """By tensor name."""
        answers = self._session.run(feeds)
        return {point.name: point.cut(answers[point.name]) for point in self.points}

    def __call__(self, feeds: Feeds, rows: IntArray | None) -> dict[str, Array]:
        """Answers for ``feeds``, which are the samples ``rows`` unless that is None."""
        if rows is None or not self._samples:
            return self.answers(feeds)
        if self._has[rows].all():
            return {name: values[rows] for name, values in self._known.items()}
        answers = self.answers(feeds)
        if self._samples * sum(x[0].nbytes for x in answers.values()) <= CACHE:
            for name, values in answers.items():
                if name not in self._known:
                    self._known[name] = np.empty((self._samples, *values.shape[1:]), values.dtype)
                self._known[name][rows] = values
            self._has[rows] = True
        return answers
