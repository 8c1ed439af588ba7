"""The time of ``--recover-time``, shared among the trainings of a search (``narrowing``).

    floats    F seconds: all of them, or three quarters where INT8 comes after
    stage 0   F / PROBES for each candidate
    stage k   of what is then left of F, an equal part for each of the stages k .. the last
    INT8      half of what is left of all

What one does not need, others have. A candidate that was trained before goes on: its share comes on top. A job that is
resumed with more time goes on as well: it has as many stages again, for what it was given on top.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hqp_onnx.errors import UsageError
from hqp_onnx.files import read_text, write_text
from hqp_onnx.job.candidate import Candidate, Precision
from hqp_onnx.job.ledger import Ledger, Trial

PROBES, STAGES = 32, 4
_FILE = "recover-times.json"
_FLOATS = 0.75  # of the time, where INT8 comes after
_LEAST = 1.0  # seconds, of which a start is judged


class TrainingTime:
    """Shares of a time in seconds.

    Args:
        limits: of all runs of a job, ascending; none is no limit.
        trials: of the ledger: what trained ones took is over, in an interrupted run as well.
    """

    def __init__(self, limits: Sequence[float], trials: Mapping[str, Trial]) -> None:
        self._limits, self._trials, self._floats = limits, trials, 1.0

    @property
    def last(self) -> int:
        """The last stage."""
        return STAGES * max(len(self._limits), 1)

    def expect(self, precision: Precision) -> None:
        """A search for a candidate of a precision begins."""
        self._floats = _FLOATS if precision is Precision.INT8 else 1.0

    def judged(self, candidate: Candidate) -> bool:
        """Whether there is a verdict on a candidate: its training is over."""
        return candidate.key in self._trials

    def share(self, candidate: Candidate) -> float | None:
        """Seconds of the next training, which is that of a candidate."""
        if not self._limits:
            return None
        trained = [trial for trial in self._trials.values() if trial.trained]
        if candidate.precision is Precision.INT8:
            return max((self._limits[-1] - sum(trial.seconds for trial in trained)) / 2, _LEAST)
        floats = [trial.seconds for trial in trained if trial.precision == Precision.FP32.value]
        run = (max(candidate.stage, 1) - 1) // STAGES
        whole = self._floats * self._limits[run]
        left = STAGES * (run + 1) + 1 - candidate.stage
        return max((whole - sum(floats)) / left if candidate.stage else whole / PROBES, _LEAST)


def limits_of(ledger: Ledger, limit: float | None) -> list[float]:
    """What the runs of a job were given, and ``limit`` seconds now.

    Raises:
        UsageError: it is less than before.
    """
    if limit is None:
        return []
    file = ledger.cache / _FILE
    limits: list[float] = json.loads(read_text(file)) if file.is_file() else []
    if limits and limit < limits[-1]:
        raise UsageError(
            f"{ledger.path}: cannot resume, {{--recover-time}} was {limits[-1]:g} s and is now {limit:g} s. Give as "
            "much or more, or leave out {--resume} to start anew"
        )
    limits = sorted({*limits, limit})
    write_text(file, json.dumps(limits))
    return limits
