"""An optimization that has so much time: when it is over, what was admitted so far is the result.

The search ends where work reports progress next, whatever it is at, but for the baseline, without which there is no
verdict. Time is set aside for what comes after the search: the models are quantized, written, evaluated and timed; how
long the original takes to be quantized is measured first. A verdict that was not reached is not recorded, so a resumed
run with more time finds what an unlimited one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from hqp_onnx.errors import ModelError, OutOfTime
from hqp_onnx.evaluation.latency import fastest
from hqp_onnx.job.candidate import ORIGINAL, Candidate, Precision
from hqp_onnx.job.evidence import Evidence, no_evidence
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.path import PlanPath
from hqp_onnx.job.precision import fails
from hqp_onnx.job.rows import SECONDS
from hqp_onnx.job.setup import Setup

_ROWS, _QUANTIZED = 4, 2
"""Models that are evaluated as they were written, and how many of them are quantized first."""

_WRITING_SECONDS = 8.0
"""Of verification, the times of layers and the pages, about."""

_COMPARISON_SECONDS = 1.0
_TIGHT = 4  # times as long as what comes after the search, below which a note says so
OVER = "the time limit of"
"""How the note begins that says so."""


class Deadline:
    """Progress that raises ``OutOfTime`` when the time of a search is over, until it is lifted.

    Args:
        setup: of the job, with its limit, if it has any.
        began: when the job did, by ``perf_counter``.
        baseline: seconds that the original took on D_val.
        narrow: seconds until the original was in the precision that was asked for.
    """

    def __init__(self, setup: Setup, began: float, baseline: float, narrow: float) -> None:
        limit = setup.options.time_limit
        self._progress = setup.progress
        self._end = math.inf if limit is None else began + limit - _aside(setup, baseline, narrow)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``Progress``."""
        self._progress(stage, done, total)
        if perf_counter() > self._end:
            raise OutOfTime(stage)

    def lift(self) -> None:
        """What follows may take its time."""
        self._end = math.inf


def _aside(setup: Setup, baseline: float, narrow: float) -> float:
    """Seconds of what comes after a search."""
    sizes = {name: len(part) for name, part in setup.data.items()}
    evaluated = baseline / sizes["val"] * (sizes["val"] + sizes.get("test", 0))
    return _WRITING_SECONDS + SECONDS + _ROWS * evaluated + _QUANTIZED * narrow


@dataclass(frozen=True)
class SoFar:
    """The best candidates that were admitted, as in ``run.SearchResult``."""

    evidence: Evidence
    pruned: Candidate
    chosen: Candidate | None
    recovered: Candidate | None
    path: PlanPath
    note: str


def so_far(setup: Setup, judge: Judge, evidence: Evidence | None, stage: str) -> SoFar:
    """What a search found until its time was over.

    Args:
        setup: of the job, its limit lifted.
        judge: with what the search had it admit.
        evidence: None where it was not complete.
        stage: that the search was at.
    """
    options, admitted = setup.options, judge.admitted
    untrained = [candidate for candidate in admitted if not candidate.trained]
    pruned = _best(setup, judge, [c for c in untrained if c.precision is Precision.FP32]) or ORIGINAL
    quantized, failed = replace(pruned, precision=Precision(options.narrow)), ""
    try:
        if options.precision != "fp32" and judge.admits(quantized):
            untrained.append(quantized)
    except ModelError as e:
        failed = f"; {fails(setup, e)}"
    narrow = [] if options.precision == "fp32" else [c for c in untrained if c.precision is not Precision.FP32]
    trained = [c for c in admitted if c.trained and (c.precision is Precision.FP32) == (options.precision == "fp32")]
    seconds, judged = options.time_limit or 0.0, judge.judged
    note = f"{OVER} {seconds:g} s ended the search at '{stage}', with {judged} candidate{'s' * (judged != 1)} judged: "
    note += f"--resume with more time goes on{failed}"
    if seconds < _TIGHT * (kept := _WRITING_SECONDS + SECONDS):
        note += f"; {kept:.0f} s and more are kept for judging, timing and writing what ships"
    path = PlanPath((ORIGINAL.plan, *([pruned.plan] if len(pruned.plan) else [])))
    return SoFar(
        evidence or no_evidence(setup), pruned, _best(setup, judge, narrow), _best(setup, judge, trained), path, note
    )


def _best(setup: Setup, judge: Judge, candidates: Sequence[Candidate]) -> Candidate | None:
    """By what is gained within the budget: time as measured, or MACs, parameters, units."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    if setup.options.objective == "latency" and not setup.target.stand_in:
        sessions = [judge.models.session(candidate) for candidate in candidates]
        return candidates[fastest(sessions, setup.sample, _COMPARISON_SECONDS)]
    kind = setup.options.objective
    if kind == "sparsity":
        return max(candidates, key=lambda candidate: len(candidate.plan))
    return min(candidates, key=lambda candidate: judge.size(candidate)["params" if kind == "size" else "macs"])
