"""What the original answers: its outputs and features, cut to the channels that the student has.

They are kept for all samples where they fit into ``CACHE`` bytes, and else computed again for every batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from hqp_onnx.dataset import Dataset
from hqp_onnx.recovery.points import Point
from hqp_onnx.recovery.samples import Feeds, Ints, gather
from hqp_onnx.runtime import Array, Session

CACHE = 1 << 28


class Teacher:
    """The original.

    Args:
        model: the original.
        points: tensors of it that are asked for, one row a sample.
        threads: of onnxruntime.
    """

    def __init__(self, model: onnx.ModelProto, points: Sequence[Point], threads: int = 0) -> None:
        self.points = points
        self._session = Session(model, [point.name for point in points], threads=threads)
        self._known: dict[str, Array] = {}

    def answers(self, feeds: Feeds) -> dict[str, Array]:
        """By tensor name."""
        found = self._session.run(feeds)
        return {point.name: point.cut(found[point.name]) for point in self.points}

    def keep(self, data: Dataset, rows: Ints, part: int) -> None:
        """Answer for the samples ``rows`` once and for all, if that takes no more than ``CACHE`` bytes."""
        for start in range(0, len(rows), part):
            some = rows[start : start + part]
            for name, values in self.answers(gather(data, some)).items():
                if name not in self._known:
                    self._known[name] = np.empty((len(data), *values.shape[1:]), values.dtype)
                self._known[name][some] = values
            if sum(x.nbytes for x in self._known.values()) > CACHE:
                self._known.clear()
                return

    def __call__(self, feeds: Feeds, rows: Ints | None) -> dict[str, Array]:
        """Answers for ``feeds``, which are the samples ``rows`` unless that is None."""
        if rows is None or not self._known:
            return self.answers(feeds)
        return {name: values[rows] for name, values in self._known.items()}
