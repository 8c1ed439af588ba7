"""The search of one optimization.

    baseline ─► evidence ─► pruned candidates in FP32 ─► INT8 of the last one where it pays ─► [recovered candidates]

Each stage is a function over ``judge.admits``. Where the budget demands it, fewer units are removed for INT8, or fewer
nodes are in INT8; recovery goes beyond what is admissible without it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter

from hqp_onnx.errors import ModelError, OutOfTime
from hqp_onnx.evaluation.budget import Budget, allowed
from hqp_onnx.job.allocation import allocated_path
from hqp_onnx.job.candidate import ORIGINAL, Candidate, Precision
from hqp_onnx.job.evidence import Evidence, check_saliency, gather, refreshed_order
from hqp_onnx.job.goal import Goal, reach
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.narrowing import narrow
from hqp_onnx.job.path import OrderPath, Path
from hqp_onnx.job.precision import as_asked, fails, fastest_admissible
from hqp_onnx.job.search import last_admissible, step_size
from hqp_onnx.job.setup import Setup
from hqp_onnx.job.suspicion import suspect
from hqp_onnx.job.time_limit import Deadline, so_far
from hqp_onnx.job.training_time import TrainingTime, limits_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        judge: of its candidates.
        evidence: that it was based on.
        pruned: the FP32 candidate.
        chosen: the one in the precision that was asked for; None where none is admissible, or FP32 was asked for.
        recovered: the one that was trained; None where none is admissible, or none was asked for.
        notes: on how the path was made.
        path: of the plans, the pruned candidate's among them.
        suspicions: what looks wrong with the model on its data.
        ended: why no faster, or smaller, model was found.
    """

    judge: Judge
    evidence: Evidence
    pruned: Candidate
    chosen: Candidate | None
    recovered: Candidate | None
    notes: tuple[str, ...]
    path: Path
    suspicions: tuple[str, ...] = ()
    ended: str = ""


def run(setup: Setup, ledger: Ledger, began: float | None = None) -> SearchResult:
    """Search; nothing but the ledger and its cache is written. ``began``: when the job did, by ``perf_counter``."""
    began = perf_counter() if began is None else began
    options = setup.options
    check_saliency(setup, ledger)
    with ledger.timed("baseline"):
        baseline = setup.scores(setup.model.session, "val")
    budget = Budget(baseline, allowed(options.chosen_drop, baseline), options.confidence, setup.metric.name)
    suspicions = suspect(setup, baseline)
    for line in suspicions:
        log.warning("warning: %s", line)
    deadline = Deadline(setup, began, ledger.seconds["baseline"], _quantized(setup, ledger))
    setup = replace(setup, progress=deadline)
    judge = Judge(setup, ledger, budget, CandidateModels(setup, None, ledger.cache))
    evidence = None
    try:
        evidence = gather(setup, ledger)
        time = TrainingTime(limits_of(ledger, options.recover_time), ledger.trials)
        judge = Judge(setup, ledger, budget, CandidateModels(setup, evidence.refit, ledger.cache, time))
        result = _searched(setup, ledger, judge, evidence)
        deadline.lift()
    except OutOfTime as e:
        deadline.lift()
        result = _so_far(setup, judge, evidence, str(e))
    return replace(result, suspicions=suspicions)


def _quantized(setup: Setup, ledger: Ledger) -> float:
    """Seconds in which the original is in the precision that was asked for; 0 where there is no limit to them."""
    if setup.options.time_limit is None or setup.options.precision == "fp32":
        return 0.0

    def seconds() -> float:
        start = perf_counter()
        with suppress(ModelError):  # which is reported where it matters
            CandidateModels(setup, None, ledger.cache).graph(
                replace(ORIGINAL, precision=Precision(setup.options.narrow))
            )
        return perf_counter() - start

    return ledger.once("quantizing", seconds)


def _so_far(setup: Setup, judge: Judge, evidence: Evidence | None, stage: str) -> SearchResult:
    """What was found when the time was over."""
    found = so_far(setup, judge, evidence, stage)
    log.info("%s", found.note)
    best = found.pruned, found.chosen, found.recovered
    return SearchResult(judge, found.evidence, *best, (), found.path, ended=found.note)


def _searched(setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence) -> SearchResult:
    """Every stage in turn."""
    options = setup.options
    if goal := Goal.of(options):
        return _reached(setup, ledger, judge, evidence, goal)
    path, removed, threads, notes, ended = _pruned(setup, ledger, judge, evidence)
    pruned, chosen, recovered = Candidate(path.plan(removed)), None, None
    wanted, count = pruned, removed  # what recovery starts from
    if options.precision != "fp32":
        try:
            wanted = as_asked(setup, ledger, judge.models, pruned, threads)
            admitted = fastest_admissible(setup, ledger, judge, path, removed, wanted, threads)
            chosen, count = admitted or (None, 0)
        except ModelError as e:
            wanted, notes = pruned, (*notes, fails(setup, e))
    if options.recover:
        recovered = _recovered(setup, judge, path, count, chosen or wanted)
    return SearchResult(judge, evidence, pruned, chosen, recovered, notes, path, ended=ended)


def _reached(setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence, goal: Goal) -> SearchResult:
    """The best model that is fast enough, and the same trained, if that was asked for."""
    found = reach(setup, ledger, judge, evidence, goal)
    chosen = None if found.chosen.precision is Precision.FP32 else found.chosen
    recovered = replace(found.chosen, trained=True, stage=judge.models.time.last) if setup.options.recover else None
    judge.models.time.expect(found.chosen.precision)
    if recovered is not None and not judge.admits(recovered):
        recovered = None
    return SearchResult(judge, evidence, found.pruned, chosen, recovered, found.notes, found.path, ended=found.note)


def _pruned(
    setup: Setup, ledger: Ledger, judge: Judge, evidence: Evidence
) -> tuple[Path, int, int, tuple[str, ...], str]:
    """The path of candidates, the last admissible number on it in FP32, the threads to time on, notes, why it ended."""
    options, channels = setup.options, setup.channels
    if options.objective == "latency":
        found = allocated_path(setup, ledger, judge, evidence)
        return found.path, found.count, found.threads, found.notes, found.ended
    step = step_size(options.step, len(channels.prunable))
    path, removed = _along(setup, ledger, judge, OrderPath(evidence.order, channels, options.width_multiple, step))
    return path, removed, options.threads, (), _why_it_ended(ledger, len(path.plan(removed)))


def _why_it_ended(ledger: Ledger, removed: int) -> str:
    """Why no more than ``removed`` units were removed, of one order."""
    trials = (trial for trial in ledger.trials.values() if not trial.accepted and not trial.trained)
    refused = [trial for trial in trials if trial.precision == "fp32" and trial.removed > removed]
    if not refused:
        return "the narrowest widths ended the search, not the budget: --min-width, and the units that must stay"
    least = min(refused, key=lambda trial: trial.removed)
    return f"the budget ended the search: with {100 * least.sparsity:.1f} % of the units removed, {least.why}"


def _along(setup: Setup, ledger: Ledger, judge: Judge, path: OrderPath) -> tuple[OrderPath, int]:
    """The path, ranked anew on the way if that was asked for, and the last admissible count in FP32."""
    refresh = setup.options.refresh * path.step

    def admits(count: int) -> bool:
        nonlocal path
        before = (count - 1) // path.step * path.step
        if refresh and before and before % refresh == 0:
            plan = path.plan(before)
            graph = judge.models.graph(Candidate(plan))
            path = replace(path, order=refreshed_order(setup, ledger, path.order, before, plan, graph))
        return judge.admits(Candidate(path.plan(count)))

    removed = last_admissible(setup.options.search, len(path), path.step, admits)
    return path, removed


def _recovered(setup: Setup, judge: Judge, path: Path, count: int, like: Candidate) -> Candidate | None:
    """The last admissible recovered candidate ``like`` another, from ``count`` units on; None if there is none."""
    counts, options = path.beyond(count), setup.options
    trained = [replace(like, plan=path.plan(more), trained=True) for more in counts]
    if options.recover_time is None:
        most = last_admissible(
            options.search, len(counts) - 1, 1, lambda number: judge.admits(trained[number].in_float32)
        )
        narrowest = trained[most::-1]
    else:
        judge.models.time.expect(like.precision)

        def admits(number: int, stage: int, longest: int | None) -> bool:
            candidate = replace(trained[number], stage=stage).in_float32
            judge.models.start_at(candidate, None if longest is None else trained[longest].plan)
            return judge.admits(candidate)

        found = narrow(options.search, len(counts) - 1, judge.models.time.last, admits)
        narrowest = [replace(trained[number], stage=stage) for number, stage in found]
    for candidate in narrowest:  # trained again, as it ships: nothing that failed in FP32
        if judge.admits(candidate.in_float32) and judge.admits(candidate):
            return candidate
    return None
