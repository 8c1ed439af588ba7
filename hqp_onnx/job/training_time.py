"""The time of ``--recover-time``, shared among the trainings of a search.

A search trains about log2(candidates) float models, and then what it found once more in INT8, and others if that fails.
Each float model has an equal share of the time that is left for those still expected, and for two more where INT8 comes
after them; each INT8 model has a third of what is left. What one does not need, others have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.ledger import Trial

_LEAST = 1.0  # seconds, of which a start is judged


class TrainingTime:
    """Shares of ``limit`` seconds; None is no limit.

    ``trials`` are those of the ledger: what trained ones took is over, in an interrupted run as well.
    """

    def __init__(self, limit: float | None, trials: Mapping[str, Trial]) -> None:
        self._limit, self._trials, self._expected, self._more = limit, trials, 1, 0

    def expect(self, candidates: int, precision: Precision) -> None:
        """A search over so many candidates of a precision begins."""
        self._expected, self._more = math.ceil(math.log2(candidates)), 2 * (precision is Precision.INT8)

    def share(self, precision: Precision) -> float | None:
        """Seconds of the next training."""
        if self._limit is None:
            return None
        trained = [trial for trial in self._trials.values() if trial.trained]
        left = max(self._limit - sum(trial.seconds for trial in trained), 0.0)
        if precision is Precision.INT8:
            return max(left / 3, _LEAST)
        floats = sum(trial.precision == Precision.FP32.value for trial in trained)
        return max(left / (max(self._expected - floats, 1) + self._more), _LEAST)
