"""The pruned candidate in the precision that was asked for, inside the budget.

Where it is outside, there are two ways back: fewer units removed, or more nodes in float, starting with those whose
INT8 arithmetic harms the outputs most; of INT4, more weights in INT8, starting with those whose rounding harms the loss
most for what it saves. The faster one is taken, or the smaller one where size is the objective.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.latency import fastest
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.candidate import Candidate, Precision, plan_key
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.path import Path
from hqp_onnx.job.search import bisect, bisect_from
from hqp_onnx.job.setup import Setup
from hqp_onnx.quantization.float_nodes import faster_in_float, output_errors
from hqp_onnx.runtimes.runners import stand_in
from hqp_onnx.runtimes.session import Runner

SENSITIVITY_SAMPLES = 100
log = logging.getLogger(__name__)


def as_asked(setup: Setup, ledger: Ledger, models: CandidateModels, pruned: Candidate, threads: int) -> Candidate:
    """``pruned`` in the precision that was asked for; in mixed precision, nodes that are faster in float stay there.

    ``threads`` are what models are timed on.
    """
    narrow = setup.options.narrow
    if narrow != "int8" or setup.options.precision != "mixed":
        return replace(pruned, precision=Precision(narrow))
    name = f"mixed-{plan_key(pruned.plan)}"
    floats = ledger.once(name, lambda: _faster_in_float(setup, ledger, models, pruned, threads))
    return replace(pruned, precision=Precision.INT8, floats=tuple(floats))


def fastest_admissible(
    setup: Setup, ledger: Ledger, judge: Judge, path: Path, removed: int, wanted: Candidate, threads: int
) -> tuple[Candidate, int] | None:
    """``admissible``, or the same in dynamic INT8 where that is tried too and is faster."""
    ways = [wanted, replace(wanted, precision=Precision.DYNAMIC, floats=())][: 1 + setup.may_be_dynamic]
    found = [_admissible_if_it_runs(setup, ledger, judge, path, removed, way, threads) for way in ways]
    failed = [choice for choice in found if isinstance(choice, ModelError)]
    if len(failed) == len(ways):
        raise failed[0]
    choices = [choice for choice in found if isinstance(choice, tuple)]
    if len(choices) < 2:
        return choices[0] if choices else None
    candidates = [candidate for candidate, _ in choices]
    return choices[ledger.once("dynamic", lambda: _fastest(setup, judge.models, candidates, threads))]


def fails(setup: Setup, error: ModelError) -> str:
    """What to say where the narrow precision does not run, and mixed goes on in float32; raises it for any other."""
    if setup.options.precision != "mixed":
        raise error
    return f"what ships is in float32, since {setup.options.narrow} fails: {error}"


def _admissible_if_it_runs(
    setup: Setup, ledger: Ledger, judge: Judge, path: Path, removed: int, wanted: Candidate, threads: int
) -> tuple[Candidate, int] | ModelError | None:
    try:
        return admissible(setup, ledger, judge, path, removed, wanted, threads)
    except ModelError as e:
        log.info("%s does not run: %s", wanted.precision.value, e)
        return e


def admissible(
    setup: Setup, ledger: Ledger, judge: Judge, path: Path, removed: int, wanted: Candidate, threads: int
) -> tuple[Candidate, int] | None:
    """The best admissible candidate like ``wanted``, and its count on the path; None if there is none.

    Args:
        setup: what the optimization was given.
        ledger: where answers are recorded.
        judge: of the candidates.
        path: of plans.
        removed: the count of ``wanted``.
        wanted: see ``as_asked``.
        threads: that models are timed on.
    """
    if judge.admits(wanted):
        return wanted, removed
    fewer = path.up_to(removed)
    last = len(fewer) - 1  # INT8 takes a little of the budget, so the next plan will mostly do
    back = fewer[bisect_from(last, last, 1, lambda i: judge.admits(replace(wanted, plan=path.plan(fewer[i]))))]
    choices = [(replace(wanted, plan=path.plan(back)), back)]
    if wanted.precision is Precision.INT4 or setup.options.precision == "mixed":
        choices.append((_spared(setup, ledger, judge, wanted), removed))
    choices = [choice for choice in choices if judge.admits(choice[0])]
    if len(choices) < 2:
        return choices[0] if choices else None
    candidates = [candidate for candidate, _ in choices]
    return choices[ledger.once(_own("faster", wanted), lambda: _best(setup, judge.models, candidates, threads))]


def _faster_in_float(
    setup: Setup, ledger: Ledger, models: CandidateModels, pruned: Candidate, threads: int
) -> list[str]:
    if stand_in(setup.target):
        return []
    everywhere = replace(pruned, precision=Precision.INT8)
    nodes = models.quantizable(everywhere)
    report = partial(setup.progress, "mixed precision")
    with ledger.timed("mixed precision"):
        floats = faster_in_float(nodes, partial(_opened, models, everywhere, threads), setup.sample, report)
    log.info("%d of %d quantizable nodes stay in float, where they are faster", len(floats), len(nodes))
    return floats


def _spared(setup: Setup, ledger: Ledger, judge: Judge, wanted: Candidate) -> Candidate:
    """``wanted`` with as few harmful nodes in float, or of INT4 weights in INT8, as the budget allows."""
    harmless = _harmless(setup, ledger, judge.models, wanted)
    choices = [replace(wanted, floats=(*wanted.floats, *harmless[count:])) for count in range(len(harmless) + 1)]
    return choices[bisect(len(harmless), 1, lambda count: judge.admits(choices[count]))]


def _harmless(setup: Setup, ledger: Ledger, models: CandidateModels, wanted: Candidate) -> Sequence[str]:
    """What may be in the precision ``wanted``, the least harmful first."""
    if wanted.precision is Precision.INT4:
        return models.storable(wanted)
    errors = ledger.once(_own("output_errors", wanted), lambda: _output_errors(setup, ledger, models, wanted))
    return sorted(errors, key=lambda node: errors[node])


def _output_errors(setup: Setup, ledger: Ledger, models: CandidateModels, wanted: Candidate) -> Mapping[str, float]:
    nodes = [node for node in models.quantizable(wanted) if node not in wanted.floats]
    data = setup.data["calib"]
    few = [batch.feeds for batch in islice(data, max(1, SENSITIVITY_SAMPLES // data.batch_size))]
    report = partial(setup.progress, "sensitivity to INT8")
    with ledger.timed("sensitivity to INT8"):
        return output_errors(nodes, partial(_opened, models, wanted, None), few, wanted.floats, report)


def _opened(models: CandidateModels, candidate: Candidate, threads: int | None, floats: Collection[str]) -> Runner:
    """The candidate with the nodes ``floats`` in float; its threads sleep between runs."""
    return models.session(replace(candidate, floats=tuple(floats)), spin=False, threads=threads)


def _own(name: str, wanted: Candidate) -> str:
    """Static and dynamic INT8 have answers of their own."""
    return f"{name}-dynamic" if wanted.precision is Precision.DYNAMIC else name


def _best(setup: Setup, models: CandidateModels, candidates: Sequence[Candidate], threads: int) -> int:
    """Index of the fastest candidate, or of the smallest."""
    if setup.options.objective != "size":
        return _fastest(setup, models, candidates, threads)
    return int(np.argmin([to_proto(models.graph(candidate)).ByteSize() for candidate in candidates]))


def _fastest(setup: Setup, models: CandidateModels, candidates: Sequence[Candidate], threads: int) -> int:
    """Index of the fastest candidate."""
    return fastest([models.session(candidate, threads=threads) for candidate in candidates], setup.sample)
