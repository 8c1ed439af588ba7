"""Verdicts on candidates: each is built, evaluated on D_val and held to the budget, once."""

from __future__ import annotations

import logging
import math
import time

from hqp_onnx.evaluation.budget import Budget
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.ledger import Ledger, Trial
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.setup import Setup

log = logging.getLogger(__name__)


class Judge:
    """Holds candidates to a budget.

    Args:
        setup: what the optimization was given.
        ledger: records verdicts, and returns those already paid for.
        budget: what they are held to.
        models: makes the candidates.
    """

    def __init__(self, setup: Setup, ledger: Ledger, budget: Budget, models: CandidateModels) -> None:
        self.budget, self.models = budget, models
        self._asked: dict[str, Candidate] = {}
        self._setup, self._ledger = setup, ledger

    def admits(self, candidate: Candidate) -> bool:
        """Whether a candidate is inside the budget."""
        return self.trial(candidate).accepted

    def trial(self, candidate: Candidate) -> Trial:
        """The verdict, from the ledger if it was paid for already."""
        self._asked.setdefault(candidate.key, candidate)
        trial = self._ledger.trials.get(candidate.key)
        if trial is None:
            trial = self._judged(candidate)
            self._ledger.add(trial)
            log.info("%s, %4.1f %% of the units removed: %s", trial.kind, 100 * trial.sparsity, trial.why)
        return trial

    @property
    def judged(self) -> int:
        """How many candidates have a verdict."""
        return sum(key in self._ledger.trials for key in self._asked)

    @property
    def admitted(self) -> list[Candidate]:
        """Those that are inside the budget, of all that it was asked for, in order."""
        trials = self._ledger.trials
        return [one for key, one in self._asked.items() if key in trials and trials[key].accepted]

    def sparsity(self, candidate: Candidate) -> float:
        """Units that are removed, as a share of the prunable ones."""
        return len(candidate.plan) / max(len(self._setup.channels.prunable), 1)

    def size(self, candidate: Candidate) -> dict[str, int]:
        """MACs and parameters, the same in every precision."""
        return self._setup.size(self.models.graph(candidate.in_float32))

    def _judged(self, candidate: Candidate) -> Trial:
        start = time.perf_counter()
        scores = self._scores(candidate)
        return Trial(
            key=candidate.key,
            precision=candidate.precision.value,
            floats=len(candidate.floats),
            trained=candidate.trained,
            removed=len(candidate.plan),
            sparsity=self.sparsity(candidate),
            metric=scores.metric if math.isfinite(scores.metric) else None,
            complete=scores.complete,
            **self.size(candidate),
            accepted=self.budget.admits(scores),
            why=self.budget.words(scores),
            seconds=round(time.perf_counter() - start, 3),
        )

    def _scores(self, candidate: Candidate) -> Scores:
        return self._setup.scores(self.models.session(candidate), "val", self.budget.required)
