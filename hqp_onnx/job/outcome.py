"""What an optimization writes: the models that it chose, measured as they were written, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.removals import LEDGER, PRUNED_LEDGER, removals_json
from hqp_onnx.errors import BudgetError
from hqp_onnx.files import write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import ORIGINAL, Candidate, Precision, plan_key
from hqp_onnx.job.cost_model import CostModel
from hqp_onnx.job.details import describe
from hqp_onnx.job.evidence import MOMENTS
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.results import TITLES, Report, Row, Units
from hqp_onnx.job.rows import Measured, make_rows
from hqp_onnx.job.run import SearchResult
from hqp_onnx.job.settings import settings_of
from hqp_onnx.job.setup import Setup
from hqp_onnx.ranking.redundancy import KINDS
from hqp_onnx.runtimes.machine import machine
from hqp_onnx.runtimes.runners import remarks, runtime_name, stand_in
from hqp_onnx.runtimes.session import Runner

NOISE = 0.02  # of a ratio of latencies
_FILE_NAMES = {Precision.FP32: "pruned.onnx", Precision.FP16: "fp16.onnx", Precision.INT8: "int8.onnx"}
_FILES = (*_FILE_NAMES.values(), LEDGER)
OUTPUTS = (*_FILES, PRUNED_LEDGER, *(f"recovered/{name}" for name in _FILES))
"""What may be written, relative to OUT."""

_Written = dict[str, tuple[Candidate, Path]]
"""By row."""


def write_outcome(setup: Setup, ledger: Ledger, result: SearchResult) -> tuple[Report, dict[str, Measured]]:
    """Write the models, measure what was written; the report, and its models by row."""
    options = setup.options
    written = _to_write(setup, ledger, result)
    ledger.out.keep_only([file for _, file in written.values()])
    models = _write_models(setup, result, written)
    _write_ledgers(setup, ledger, result, written, models)
    rows = make_rows(models, setup.sample)
    plan, ranked = result.best.plan, result.evidence.ranking.units
    measured: dict[str, Any] = {**rows, **vars(describe(setup.model, setup.channels, plan, ranked, setup.sample))}
    last = "recovered" if result.recovered else "hqp"
    _, shipped = written.get(last, written["pruned"])
    report = Report(
        model=str(setup.model.path),
        **measured,
        data=_data_name(setup),
        samples=models["baseline"].scores.samples,
        budget_met=result.best is not result.pruned or options.precision == "fp32",
        shipped=str(shipped),
        settings=settings_of(setup),
        trials=tuple(ledger.trials.values()),
        budget_spent=_spent(result, models[last]),
        floats=result.best.floats,
        cost_model=_cost(setup, ledger),
        seconds=dict(ledger.seconds),
        units=Units(setup.channels.units, len(setup.channels.prunable), len(plan)),
        machine=machine(options.threads, runtime_name(setup.target)),
        notes=_notes(setup, result, rows, last, str(shipped.relative_to(options.folder))),
    )
    for large in (*ledger.cache.glob("*.onnx"), *(ledger.cache / name for name in MOMENTS)):  # and soon made again
        large.unlink(missing_ok=True)
    return report, models


def _data_name(setup: Setup) -> str:
    if "test" in setup.data:
        return setup.data["test"].source.name
    return f"{setup.data['val'].source.name} (the data that the search saw: no --test was given)"


def _to_write(setup: Setup, ledger: Ledger, result: SearchResult) -> _Written:
    """The models to write, in the order of the report."""
    output, cache, chosen = setup.options.folder, ledger.cache, result.chosen
    rows: _Written = {"pruned": (result.pruned, output / "pruned.onnx")}
    if setup.options.precision in ("int8", "mixed"):
        untouched = replace(ORIGINAL, precision=Precision.INT8)
        rows = {"q8_only": (untouched, cache / "q8_only.onnx"), **rows}
    if chosen is not None:
        if chosen.floats:
            rows["int8_everywhere"] = replace(chosen, floats=()), cache / "int8_everywhere.onnx"
        rows["hqp"] = chosen, output / _FILE_NAMES[chosen.precision]
    if result.recovered is not None:
        rows["recovered"] = result.recovered, output / "recovered" / _FILE_NAMES[result.recovered.precision]
    return rows


def _write_models(setup: Setup, result: SearchResult, written: _Written) -> dict[str, Measured]:
    """The models by row, last first: the last candidates of the search are still in memory."""
    models = {"baseline": _measured(setup, result, ORIGINAL, setup.model.bytes, setup.model.session)}
    for name, (candidate, file) in reversed(written.items()):
        model_io.save(result.judge.models.graph(candidate), file)
        models[name] = _measured(setup, result, candidate, model_io.stored_bytes(file), setup.load(file))
    models.setdefault("hqp", models["pruned"])
    return {name: models[name] for name in TITLES if name in models}


def _write_ledgers(
    setup: Setup, ledger: Ledger, result: SearchResult, written: _Written, models: Mapping[str, Measured]
) -> None:
    """Write the ledgers of models that repeat the verdict of their trial."""
    for name in ("hqp", "recovered"):
        if name not in models:
            continue
        candidate, file = written.get(name, written["pruned"])
        if not result.judge.budget.admits(models[name].val):
            ledger.out.keep_only(())
            raise BudgetError(
                f"{file}: {models[name].val.metric:.4f} on {setup.data['val'].source.name} does not repeat its trial, "
                "so it was removed. Leave out {--resume} to start anew"
            )
        _write_ledger(setup, candidate.plan, file.with_name(LEDGER))
        if name == "hqp" and plan_key(candidate.plan) != plan_key(result.pruned.plan):
            _write_ledger(setup, result.pruned.plan, file.with_name(PRUNED_LEDGER))


def _write_ledger(setup: Setup, plan: PruningPlan, path: Path) -> None:
    write_text(path, removals_json(setup.model.digest, setup.channels, plan))


def _spent(result: SearchResult, shipped: Measured) -> dict[str, float]:
    """Where the budget went, on D_val."""
    budget, full = result.judge.budget, result.best.in_float32
    if not len(full.plan) or not result.judge.admits(full):
        return budget.spent(0.0, shipped.val)
    return budget.spent(budget.baseline.metric - result.judge.trial(full).metric, shipped.val)


def _notes(setup: Setup, result: SearchResult, rows: Mapping[str, Row], last: str, shipped: str) -> tuple[str, ...]:
    """What a reader of the table should not miss."""
    channels, redundant = setup.channels, result.evidence.redundant
    notes = [f"{TITLES[name]} is slower than the input on this machine" for name in rows if rows[name].speedup < 1]
    if rows["pruned"].speedup > (1 + NOISE) * rows[last].speedup:
        notes.append(f"pruned.onnx (FP32) is faster than {shipped} on this machine")
    if setup.options.recover and result.recovered is None:
        notes.append("no recovered candidate is inside the budget")
    if redundant:
        kinds = Counter(redundant.values())
        listed = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
        notes.append(f"{len(redundant)} units were ranked first, since they can be removed at no loss: {listed}")
    if ended := channels.ended(result.best.plan):
        notes.append(f"{ended} of {len(channels.branches)} gates and residual branches were removed as a whole")
    return (*notes, *stand_in(setup.target), *remarks(setup.target, setup.options.precision))


def _measured(setup: Setup, result: SearchResult, candidate: Candidate, size: int, session: Runner) -> Measured:
    judge = result.judge
    val = judge.budget.baseline if session is setup.model.session else setup.scores(session, "val")
    scores = setup.scores(session, "test") if "test" in setup.data else val
    return Measured(
        session,
        scores,
        val,
        size,
        sparsity=judge.sparsity(candidate),
        **judge.size(candidate),
    )


def _cost(setup: Setup, ledger: Ledger) -> CostModel:
    samples = {name: len(data) for name, data in setup.data.items()}
    trials = ledger.trials.values()
    trained = [trial.seconds for trial in trials if trial.trained]
    grad = ledger.seconds.get("saliency") if setup.scoring.method.gradients else None
    return CostModel(
        c_grad=None if grad is None else grad / samples["calib"],
        c_inf=ledger.seconds["baseline"] / samples["val"],
        t_prune=len(trials) - len(trained),
        c_recover=sum(trained),
        t_recover=len(trained),
        d_calib=samples["calib"],
        d_val=samples["val"],
    )
