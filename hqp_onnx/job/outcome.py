"""What an optimization leaves behind: the models that it chose, measured as they were written, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.removals import LEDGER, PRUNED_LEDGER, removals_json
from hqp_onnx.errors import BudgetError
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.files import write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.job.details import describe
from hqp_onnx.job.job import MOMENTS, RECOVERED, Found, Job
from hqp_onnx.job.results import TITLES, CostModel, Report, Row, Units
from hqp_onnx.job.rows import Measured, make_rows
from hqp_onnx.ranking.redundancy import KINDS
from hqp_onnx.ranking.saliency import GRADIENT_KINDS
from hqp_onnx.report.writing import write_report
from hqp_onnx.runtimes.machine import machine
from hqp_onnx.runtimes.runners import remarks, runtime_name, stand_in
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.steps import ship_engine as parity

FILES = ("pruned.onnx", "int8.onnx", "fp16.onnx", LEDGER)
OPTIONAL = (PRUNED_LEDGER, "int8.onnx", "fp16.onnx", *parity.FILES, *(f"recovered/{name}" for name in FILES))
NOISE = 0.02  # of a ratio of latencies

_Made = dict[str, tuple[str, int, Path]]
"""By row: precision, units removed and file."""


def write_outcome(job: Job, found: Found) -> Report:
    """Write the models, measure what was written, write the report."""
    output, cache = job.options.output, job.ledger.cache
    made = _made(job, found)
    for earlier in {output / name for name in OPTIONAL} - {file for *_, file in made.values()}:
        earlier.unlink(missing_ok=True)
    models = _write_models(job, made)
    plan = _write_ledgers(job, made, models)
    rows = make_rows(models, job.sample)
    last = "recovered" if found.recovered else "hqp"
    precision, count, shipped = made.get(last, made["pruned"])
    details = describe(job.model, job.channels, plan, job.ranking.units, job.sample)
    measured: dict[str, Any] = {**rows, **vars(details)}
    report = Report(
        model=str(job.options.model),
        **measured,
        data=job.options.test or f"{job.options.val} (the data that the search saw: no --test was given)",
        samples=models["baseline"].scores.samples,
        budget_met=found.chosen is not None or found.recovered is not None or job.options.precision == "fp32",
        shipped=str(shipped),
        settings=job.options.settings(),
        trials=tuple(job.ledger.trials.values()),
        budget_spent=_spent(job, precision, count, models[last].val),
        floats=tuple(job.floats.get(precision.removesuffix(RECOVERED), ())),
        cost_model=_cost(job),
        seconds=job.ledger.seconds,
        units=Units(job.channels.units, len(job.channels.prunable), len(plan)),
        machine=machine(job.options.threads, runtime_name(job.target)),
        notes=_notes(job, rows, last, str(shipped.relative_to(output)), plan),
    )
    write_report(report, output)
    if job.options.build:
        report = _with_engine(job, report, precision, count, {**models, "hqp": models[last]})
        write_report(report, output)
    for large in (*cache.glob("*.onnx"), *(cache / name for name in MOMENTS)):  # and soon made again
        large.unlink(missing_ok=True)
    return report


def _made(job: Job, found: Found) -> _Made:
    """What is to be written, in the order of the report."""
    output, cache = job.options.output, job.ledger.cache
    made: _Made = {"pruned": ("fp32", found.removed, output / "pruned.onnx")}
    if job.options.precision in ("int8", "mixed"):
        made = {"q8_only": ("int8", 0, cache / "q8_only.onnx"), **made}
    if found.chosen is not None:
        precision, removed = found.chosen
        if job.floats.get(precision):
            made["int8_everywhere"] = ("int8", removed, cache / "int8_everywhere.onnx")
        made["hqp"] = (precision, removed, output / _file_name(precision))
    if found.recovered is not None:
        made["recovered"] = (*found.recovered, output / "recovered" / _file_name(found.recovered[0]))
    return made


def _file_name(precision: str) -> str:
    kind = precision.removesuffix(RECOVERED)
    return {"fp32": "pruned.onnx", "fp16": "fp16.onnx"}.get(kind, "int8.onnx")


def _write_models(job: Job, made: _Made) -> dict[str, Measured]:
    """By row; the last candidates of the search are at hand, and come first."""
    models = {"baseline": _measured(job, job.options.model, job.model.session, 0)}
    for name, (precision, count, file) in reversed(made.items()):
        model_io.save(job.graph(precision, count), file)
        models[name] = _measured(job, file, job.load(file), count)
    models.setdefault("hqp", models["pruned"])
    return {name: models[name] for name in TITLES if name in models}


def _write_ledgers(job: Job, made: _Made, models: Mapping[str, Measured]) -> PruningPlan:
    """Ledgers of models that repeat the verdict of their trial; returns the plan of what ships."""
    pruned = plan = job.candidates.plan(made["pruned"][1])
    for name in ("hqp", "recovered"):
        if name not in models:
            continue
        _, count, file = made.get(name, made["pruned"])
        _require_repeated(job, file, models[name])
        plan = job.candidates.plan(count)
        _write_ledger(job, plan, file.with_name(LEDGER))
        if name == "hqp" and not np.array_equal(plan.removed, pruned.removed):
            _write_ledger(job, pruned, file.with_name(PRUNED_LEDGER))
    return plan


def _write_ledger(job: Job, plan: PruningPlan, path: Path) -> None:
    write_text(path, removals_json(job.options.model, job.channels, plan))


def _with_engine(job: Job, report: Report, precision: str, removed: int, models: Mapping[str, Measured]) -> Report:
    """The report, which holds good without it, and the engine; one in float16 is built from float32."""
    source = Path(report.shipped)
    if precision.removesuffix(RECOVERED) == "fp16":
        source = job.ledger.cache / "engine.onnx"
        model_io.save(job.graph(precision.replace("fp16", "fp32"), removed), source)
    with job.timed("engine"):
        return parity.add_engine(
            report,
            source,
            precision.removesuffix(RECOVERED),
            job.options,
            models,
            job.budget,
            job.scores,
            job.sample,
            job.progress,
        )


def _spent(job: Job, precision: str, removed: int, scores: Scores) -> dict[str, float]:
    """Where the budget went, on D_val."""
    pruning, full = 0.0, "fp32" + precision[len(precision.removesuffix(RECOVERED)) :]
    if removed and job.admits(full, removed):
        pruning = job.budget.baseline.metric - job.ledger.trials[full, removed].metric
    return job.budget.spent(pruning, scores)


def _require_repeated(job: Job, file: Path, model: Measured) -> None:
    """A file that was written must keep the verdict of its trial."""
    if not job.budget.admits(model.val):
        raise BudgetError(f"{file}: {model.val.metric:.4f} on {job.options.val} does not repeat its trial")


def _notes(job: Job, rows: Mapping[str, Row], last: str, shipped: str, plan: PruningPlan) -> tuple[str, ...]:
    """What a reader of the table should not miss."""
    notes = [f"{TITLES[name]} is slower than the input on this machine" for name in rows if rows[name].speedup < 1]
    if rows["pruned"].speedup > (1 + NOISE) * rows[last].speedup:
        notes.append(f"pruned.onnx (FP32) is faster than {shipped} on this machine")
    if job.options.recover and "recovered" not in rows:
        notes.append("no recovered candidate is inside the budget")
    if job.redundant:
        kinds = Counter(job.redundant.values())
        listed = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
        notes.append(f"{len(job.redundant)} units were to leave first, at no loss: {listed}")
    if ended := job.channels.ended(plan):
        notes.append(f"{ended} of {len(job.channels.branches)} gates and residual branches left as a whole")
    return (*notes, *stand_in(job.target), *remarks(job.target, job.options.precision))


def _measured(job: Job, path: Path, session: Runner, removed: int) -> Measured:
    val = job.budget.baseline if session is job.model.session else job.scores(session, "val")
    scores = job.scores(session, "test") if "test" in job.data else val
    return Measured(
        session, scores, val, model_io.stored_bytes(path), sparsity=job.sparsity(removed), **job.size(removed)
    )


def _cost(job: Job) -> CostModel:
    samples = {name: len(data) for name, data in job.data.items()}
    trials = job.ledger.trials.values()
    trained = [trial.seconds for trial in trials if trial.precision.endswith(RECOVERED)]
    grad = job.ledger.seconds.get("saliency") if job.options.saliency in GRADIENT_KINDS else None
    return CostModel(
        c_grad=None if grad is None else grad / samples["calib"],
        c_inf=job.ledger.seconds["baseline"] / samples["val"],
        t_prune=len(trials) - len(trained),
        c_recover=sum(trained),
        t_recover=len(trained),
        d_calib=samples["calib"],
        d_val=samples["val"],
    )
