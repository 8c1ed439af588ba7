"""The time of ``--recover-time``, shared among the trainings of a search (``narrowing``).

    floats    F seconds: all of them, or three quarters where INT8 comes after
    stage 0   F / PROBES for each candidate
    stage k   of what is then left of F, an equal part for each of the stages k .. LAST
    INT8      half of what is left of all

What one does not need, others have. A candidate that was trained before goes on: its share comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping

from hqp_onnx.job.candidate import Candidate, Precision
from hqp_onnx.job.ledger import Trial

PROBES, LAST = 32, 4
_FLOATS = 0.75  # of the time, where INT8 comes after
_LEAST = 1.0  # seconds, of which a start is judged


class TrainingTime:
    """Shares of ``limit`` seconds; None is no limit.

    ``trials`` are those of the ledger: what trained ones took is over, in an interrupted run as well.
    """

    def __init__(self, limit: float | None, trials: Mapping[str, Trial]) -> None:
        self._limit, self._trials, self._floats = limit, trials, 1.0

    def expect(self, precision: Precision) -> None:
        """A search for a candidate of a precision begins."""
        self._floats = _FLOATS if precision is Precision.INT8 else 1.0

    def judged(self, candidate: Candidate) -> bool:
        """Whether there is a verdict on a candidate: its training is over."""
        return candidate.key in self._trials

    def share(self, candidate: Candidate) -> float | None:
        """Seconds of the next training, which is that of a candidate."""
        if self._limit is None:
            return None
        trained = [trial for trial in self._trials.values() if trial.trained]
        if candidate.precision is Precision.INT8:
            return max((self._limit - sum(trial.seconds for trial in trained)) / 2, _LEAST)
        floats = [trial.seconds for trial in trained if trial.precision == Precision.FP32.value]
        whole = self._floats * self._limit
        share = (whole - sum(floats)) / (LAST + 1 - candidate.stage) if candidate.stage else whole / PROBES
        return max(share, _LEAST)
