"""What an optimization will take: its stages once on a few samples, times how often the search will need them.

    checking, baseline, statistics, ranking     by a line through two runs on a few samples, as of any command
    a configuration of the table                built, profiled and timed once
    a divergence                                measured for some levels of some groups, for each of each curve
    a candidate                                 cut, refitted and judged once; a later one once, for each of the others
    what is written                             evaluated and timed

How many candidates a search asks for follows from its path. A refinement measures curves again, and more closely,
within limits of time; the search for nodes in float is bounded by the clock alone, and ``_USUAL`` shares of that are
what the bundled models take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hqp_onnx.allocation.curves import SHARES
from hqp_onnx.allocation.groups import Groups
from hqp_onnx.allocation.search import STEP
from hqp_onnx.allocation.times import SECONDS, number
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.evaluation.latency import most_seconds
from hqp_onnx.job.allocation import REFINEMENT_SECONDS, SAMPLES, divergence_of, groups_of
from hqp_onnx.job.candidate import Candidate, Precision
from hqp_onnx.job.evidence import REFIT as IN_ORDER
from hqp_onnx.job.evidence import REFIT_SAMPLES, Evidence, gather
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.models import CandidateModels
from hqp_onnx.job.options import Options
from hqp_onnx.job.rows import SECONDS as LATENCY_SECONDS
from hqp_onnx.job.settings import owner, settings_of
from hqp_onnx.job.setup import Setup, open_setup
from hqp_onnx.job.timing import choose_timing
from hqp_onnx.out_folder import OutFolder
from hqp_onnx.progress import Progress
from hqp_onnx.quantization.float_nodes import SECONDS as FLOAT_SECONDS
from hqp_onnx.runtimes.machine import thread_counts
from hqp_onnx.steps.forecast import JUDGED, Forecast, Stage, forecast

_FASTER = 6.0  # times that the least widths are as fast as the input
_USUAL = 0.6  # of the bound of the search for nodes in float
_SEEN = 0.7  # of the validation samples, before a verdict is certain
_REMOVED = 0.4  # of the units, where a linear search ends
_WRITTEN = 3  # models
_CLOSELY, _AROUND = 5, 24  # times the loss curves that those of a refinement take; choices that it times
_PROBED = 0.0, 0.5, 1.0  # groups, by their place
TABLE, CURVES, REFIT, INT8, OUTPUTS = "table of times", "loss curves", "candidates", "INT8", "the original's outputs"
GROUPS, JUDGED_AGAIN = "groups", f"{JUDGED} of candidates"
_LATER = {REFIT: f"later {REFIT}", IN_ORDER: f"{IN_ORDER} of later {REFIT}"}
"""Stages of another candidate than the first, which does what is done once."""
_CAPS = {CURVES: 2 * SAMPLES, OUTPUTS: 2 * SAMPLES}
_CAPS |= {name: REFIT_SAMPLES for pair in _LATER.items() for name in pair}
"""Calibration samples that a stage takes at most."""


def forecast_optimize(options: Options) -> Forecast:
    """What ``optimize`` will take; errors are its own."""
    asked = replace(options, confidence=0.5, resume=False, force=False, build=False)
    groups: list[Groups] = []
    found = forecast(lambda folder, progress: _once(asked, folder, progress, groups), _CAPS)
    counts = _counts(options, groups[-1], found.samples)
    stages = _merged(_often(stage, counts.get(stage.name, 1.0)) for stage in found.stages)
    stages += _by_the_clock(options, stages)
    notes = ["the search ends where the budget does, so the number of its candidates is an estimate"]
    if options.recover:
        limit = options.recover_time
        most = "`hqp recover --dry-run` says what one takes" if limit is None else f"it takes {limit:.0f} s at most"
        notes.append(f"training is not counted: {most}")
    limited = stages if options.time_limit is None else _limited(stages, options.time_limit)
    if len(limited) < len(stages) or limited[-2].seconds < stages[-2].seconds:
        whole = sum(stage.seconds for stage in stages)
        notes.insert(0, f"the time limit ends the search at '{limited[-2].name}'; without it, about {whole:.0f} s")
    return replace(found, stages=tuple(limited), notes=tuple(notes))


def _limited(stages: Sequence[Stage], seconds: float) -> list[Stage]:
    """What fits into so many seconds, in order; the last stage, which comes behind the search, has its time."""
    *search, last = stages
    kept, left = [], max(seconds - last.seconds, 0.0)
    for stage in search:
        share = min(1.0, left / stage.seconds) if stage.seconds else 1.0
        left -= share * stage.seconds
        if not share:
            break
        passes = max(1, round(share * stage.passes))
        kept.append(replace(stage, seconds=share * stage.seconds, work=share * stage.work, passes=passes))
    return [*(kept or search[:1]), last]


def _counts(options: Options, groups: Groups, samples: Mapping[str, int]) -> dict[str, float]:
    """How often a search does what was done once, by stage."""
    candidates = _candidates(options)
    files = _WRITTEN * ((options.precision != "fp32") + samples.get("test", 0) / samples["val"])
    levels = sum(len({max(1, round(share * (len(g.levels) - 1))) for share in SHARES}) for g in groups.groups)
    curves = levels / max(len(_some(groups)) - 1, 1)
    once = {TABLE: number(groups), CURVES: curves, GROUPS: options.objective == "latency"}
    later = dict.fromkeys(_LATER.values(), candidates - 1)
    return {**once, **later, JUDGED_AGAIN: _SEEN * candidates + files, INT8: 2, "calibration": 2}


def _candidates(options: Options) -> float:
    """That are asked for: along the path, and once more along what a refinement finds."""
    latency = options.objective == "latency"
    path = math.log(_FASTER) / -math.log(STEP) if latency else 1 / options.step
    if options.search == "linear":
        return path if latency else _REMOVED * path
    return math.ceil(math.log2(path)) * (2 if latency else 1)


def _often(stage: Stage, count: float) -> Stage:
    if stage.name == TABLE and stage.seconds:
        count = min(count, SECONDS / stage.seconds)
    passes = max(1, round(stage.passes * count))
    return replace(stage, seconds=count * stage.seconds, work=count * stage.work, passes=passes)


def _merged(stages: Iterable[Stage]) -> list[Stage]:
    """Later candidates with the first, and without what takes no time."""
    names = {later: first for first, later in _LATER.items()}
    found: dict[str, Stage] = {}
    for stage in stages:
        name = names.get(stage.name, stage.name)
        if name in found:
            first, passes = found[name], found[name].passes + stage.passes
            seconds, work = first.seconds + stage.seconds, first.work + stage.work
            found[name] = replace(first, passes=passes, seconds=seconds, work=work)
        elif stage.seconds:
            found[name] = replace(stage, name=name)
    return list(found.values())


def _by_the_clock(options: Options, stages: Sequence[Stage]) -> Iterator[Stage]:
    """Stages that end with their time."""
    if options.objective == "latency":
        curves, table = (
            next((stage for stage in stages if stage.name == name), Stage(name, 1, 0, 0.0)) for name in (CURVES, TABLE)
        )
        limit, closely = max(REFINEMENT_SECONDS, curves.seconds), _CLOSELY * curves.seconds
        seconds = min(limit, closely) + min(2 * limit, closely + _AROUND * table.seconds / table.passes)
        yield Stage("refinement", 1, 0, seconds, seconds)
    if options.precision == "mixed" and options.narrow == "int8":
        yield Stage("mixed precision", 1, 0, _USUAL * FLOAT_SECONDS, _USUAL * FLOAT_SECONDS)
    rows = 2 if options.precision == "fp32" else 2 + _WRITTEN
    seconds = min(LATENCY_SECONDS, most_seconds(rows * (1 if options.threads else len(thread_counts()))))
    yield Stage("latency of the result", 1, 0, seconds, seconds)


class _Renamed:
    """Progress whose stages have other names from now on: what is done again is another stage than the first time."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self.names = progress, dict[str, str]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``Progress``."""
        self._progress(self.names.get(stage, stage), done, total)


def _once(options: Options, folder: Path, watch: Progress, found: list[Groups]) -> None:
    """Every stage of the search once, and another candidate."""
    options, progress = replace(options, output=folder / "out"), _Renamed(watch)
    setup, out = open_setup(options, progress), OutFolder(options.folder, *owner(options.model), (), False)
    with out.opened():
        ledger = Ledger(out, settings_of(setup), False)
        setup.scores(setup.model.session, "val")
        evidence = gather(setup, ledger)
        progress("ranking", 1, 1)
        groups = groups_of(setup, evidence)
        progress(GROUPS, 1, 1)
        half = groups.plan(groups.least // 2)
        if options.objective == "latency":
            _allocated(setup, ledger, evidence, groups)
        models = CandidateModels(setup, evidence.refit, ledger.cache)
        models.graph(Candidate(half))
        progress(REFIT, 1, 1)
        progress.names = {JUDGED: JUDGED_AGAIN}
        setup.scores(models.session(Candidate(half)), "val")
        if options.precision != "fp32":
            models.graph(Candidate(half, Precision(options.narrow)))
            progress(INT8, 1, 1)
        progress.names = _LATER
        models.graph(Candidate(groups.plan(groups.least // 4)))
        progress(REFIT, 1, 1)
    found.append(groups)


def _allocated(setup: Setup, ledger: Ledger, evidence: Evidence, groups: Groups) -> None:
    timing = choose_timing(setup, ledger, groups.plan(groups.least // 2), "timing")
    setup.progress("choice of threads", 1, 1)
    half = groups.least // 2
    if not setup.target.stand_in:
        timing.measurement(setup, groups, half)
    setup.progress(TABLE, 1, 1)
    divergence, some = divergence_of(setup, ledger, evidence), _some(groups)
    divergence(some[0])  # and of the original
    setup.progress(OUTPUTS, 1, 1)
    for done, plan in enumerate(some[1:], 1):
        divergence(plan)
        setup.progress(CURVES, done, len(some) - 1)


def _some(groups: Groups) -> list[PruningPlan]:
    """Plans as the curves take them: one group alone, at some of its levels."""
    plans = [groups.plan(groups.whole)]
    for place in sorted({round(share * (len(groups) - 1)) for share in _PROBED}) if len(groups) else ():
        last = len(groups.groups[place].levels) - 1
        for level in sorted({max(1, round(share * last)) for share in SHARES}):
            choice = groups.whole
            choice[place] = level
            plans.append(groups.plan(choice))
    return plans[1:] or plans
