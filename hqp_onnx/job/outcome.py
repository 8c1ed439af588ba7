"""What an optimization writes: the models that it chose, measured as they were written, and the report."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.removals import LEDGER, PRUNED_LEDGER, removals_json
from hqp_onnx.counts import counted
from hqp_onnx.engine.acceptance import heard
from hqp_onnx.errors import BudgetError, HqpError
from hqp_onnx.evaluation.budget import Budget
from hqp_onnx.evaluation.verification import Verified, verify
from hqp_onnx.files import json_text, make_folder, write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import ORIGINAL, Candidate, Precision, plan_key
from hqp_onnx.job.changes import changes
from hqp_onnx.job.cost_model import CostModel
from hqp_onnx.job.details import describe
from hqp_onnx.job.emulation import emulated
from hqp_onnx.job.evidence import MOMENTS
from hqp_onnx.job.goal import Goal
from hqp_onnx.job.handing_over import hand_over, handed, handed_bytes, notes_on, runs_there
from hqp_onnx.job.layer_times import with_predictions, with_times
from hqp_onnx.job.ledger import Ledger, Trial
from hqp_onnx.job.network import traced, with_precisions
from hqp_onnx.job.records import record_of
from hqp_onnx.job.results import TITLES, Report, Row, Step, Units
from hqp_onnx.job.rows import Measured, best_threads, latencies_once, make_rows, measured, measured_file
from hqp_onnx.job.run import SearchResult
from hqp_onnx.job.settings import settings_of
from hqp_onnx.job.setup import Setup
from hqp_onnx.job.shipping import NOISE, Shipping, choose
from hqp_onnx.job.steps import RESULTS
from hqp_onnx.model import read_model
from hqp_onnx.passes.narrow_weights import narrow_weights
from hqp_onnx.ranking.redundancy import KINDS
from hqp_onnx.runtimes.runners import measured_on, remarks, stand_in, thread_metadata, timing

_FILE_NAMES = {
    Precision.FP32: "pruned.onnx",
    Precision.FP16: "fp16.onnx",
    Precision.INT8: "int8.onnx",
    Precision.DYNAMIC: "int8.onnx",
    Precision.INT4: "int4.onnx",
}
_FILES = (*dict.fromkeys(_FILE_NAMES.values()), LEDGER)
_IF_ADMITTED = {"q8_only": "q8_only.onnx", "int8_everywhere": "int8_everywhere.onnx"}  # measured to compare with
BASELINE = "baseline.onnx"
"""The input, where nothing is better."""
SPLIT = "split.json"
"""Which samples of one source served what."""
OUTPUTS = (*_FILES, PRUNED_LEDGER, *_IF_ADMITTED.values(), BASELINE, SPLIT, *(f"recovered/{name}" for name in _FILES))
"""What may be written, relative to OUT."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Written:
    """A model that was measured as it was written, in ``place``; it becomes ``file`` only if it is ``admitted``."""

    place: Path
    file: Path
    measured: Measured
    verified: Verified
    admitted: bool

    def shipped(self, metadata: Mapping[str, str], setup: Setup) -> _Written:
        """The same with its file written, metadata in it, and beside it what the target takes in its place."""
        model_io.copy(self.place, self.file, metadata)
        size = handed_bytes(hand_over(setup, self.file, self.measured.candidate.precision))
        measured, verified = replace(self.measured, bytes=size), replace(self.verified, bytes=size)
        return replace(self, measured=measured, verified=verified)


def write_outcome(setup: Setup, ledger: Ledger, result: SearchResult) -> tuple[Report, dict[str, Measured]]:
    """Write the models, measure what was written; the report, and its models by row."""
    setup.progress(RESULTS, 0, 1)
    ledger.out.keep_only([file for name, (_, file) in _to_write(setup, result).items() if name not in _IF_ADMITTED])
    written = _write_models(setup, ledger, result)
    original = setup.model
    given = replace(ORIGINAL, precision=Precision(original.quantized or "fp32"))
    models = {"baseline": measured(setup, result.judge, given, original.bytes, original.session, original.load)}
    models |= {name: model.measured for name, model in written.items()}
    models.setdefault("hqp", models["pruned"])
    models = {name: models[name] for name in TITLES if name in models}
    _write_ledgers(setup, ledger, result, written)
    if setup.split is not None:
        write_text(setup.options.folder / SPLIT, json_text(setup.split.json()))
    latencies = latencies_once(setup, ledger, models, "latencies")
    setup.progress(RESULTS, 1, 1)
    for name, model in written.items():
        if model.admitted:
            threads = best_threads(latencies[name])
            written[name] = model.shipped(thread_metadata(setup.target, threads) if threads else {}, setup)
            models[name] = written[name].measured
    rows = make_rows(models, latencies)
    admitted = [name for name in rows if name == "baseline" or (name in written and written[name].admitted)]
    shipping = _shipping(setup, {name: rows[name] for name in admitted}, models)
    useful = [name for name in admitted if runs_there(setup, models[name].candidate.precision) or name == shipping.row]
    kept = {name: written[name] for name in useful if name in written}
    report = _report(setup, ledger, result, kept, models, rows, shipping)
    for large in (*ledger.cache.glob("*.onnx*"), *(ledger.cache / name for name in MOMENTS)):  # and soon made again
        large.unlink(missing_ok=True)
    return report, models


def _report(
    setup: Setup,
    ledger: Ledger,
    result: SearchResult,
    kept: Mapping[str, _Written],
    models: Mapping[str, Measured],
    rows: Mapping[str, Row],
    shipping: Shipping,
) -> Report:
    """What is said of the ``rows``; the files of those that are ``kept`` stay, and the input's if it ships."""
    options, original = setup.options, setup.model
    files = {name: str(model.file.relative_to(options.folder)) for name, model in kept.items()}
    if shipping.row == "baseline":
        files["baseline"] = BASELINE
        model_io.save(read_model(options.model, quantized=True)[1], options.folder / BASELINE)
        hand_over(setup, options.folder / BASELINE, models["baseline"].candidate.precision)
    file, candidate = options.folder / files[shipping.row], models[shipping.row].candidate
    plan, precision = candidate.plan, candidate.precision
    made = handed(setup, file, precision)
    details: dict[str, Any] = {
        **rows,
        **vars(describe(original, setup.channels, plan, result.evidence.ranking.units, setup.sample)),
    }
    return Report(
        model=str(original.path),
        **details,
        ships=shipping.row,
        why=shipping.why,
        files=files,
        verified={name: model.verified for name, model in kept.items()},
        warnings=(*result.suspicions, *(words for model in kept.values() for words in model.verified.warnings)),
        data=_data_name(setup),
        samples=models["baseline"].scores.samples,
        budget_met=shipping.met,
        shipped=str(made),
        counted=setup.target.counted,
        settings=settings_of(setup),
        metric=setup.metric.quantity,
        max_drop=result.judge.budget.max_drop,
        trials=tuple(ledger.trials.values()),
        budget_spent=_spent(result, models[shipping.row]),
        floats=_floats(result),
        cost_model=_cost(setup, ledger),
        seconds=dict(ledger.seconds),
        units=Units(setup.channels.units, len(setup.channels.prunable), len(plan)),
        machine=measured_on(setup.target, options.threads),
        notes=(*notes_on(setup, file, precision), *emulated(setup, file, made), *_notes(setup, result, rows, plan)),
        network=_network(setup, ledger, result, file, (rows["baseline"], rows[shipping.row]), plan),
        changes=changes(setup, models["baseline"], models[shipping.row]),
        why_stopped=result.ended,
    )


def _floats(result: SearchResult) -> tuple[str, ...]:
    """First outputs of nodes that stay in float, though they could be quantized."""
    candidate = result.chosen or result.recovered or result.pruned
    return () if candidate.precision is Precision.INT4 else candidate.floats


def _network(
    setup: Setup, ledger: Ledger, result: SearchResult, file: Path, rows: Sequence[Row], plan: PruningPlan
) -> tuple[Step, ...]:
    """The steps of the network, as far as the model in ``file``, which ships, tells."""
    steps, places = traced(setup.model.graph, setup.channels)
    steps = with_precisions(steps, model_io.load(file, quantized=True))
    timed = with_times(steps, places, setup, ledger, file, rows)
    return with_predictions(timed, places, setup, ledger, result.evidence, plan)


def _shipping(setup: Setup, rows: Mapping[str, Row], models: Mapping[str, Measured]) -> Shipping:
    """What ships of the models inside the budget."""
    options, goal = setup.options, Goal.of(setup.options)
    return choose(
        rows,
        {name: models[name].candidate.precision for name in rows},
        options.precision,
        setup.target.mixes,
        smallest=options.objective == "size",
        reaches=goal.met if goal else None,
        counted=setup.target.counted,
    )


def _data_name(setup: Setup) -> str:
    if "test" in setup.data:
        return setup.data["test"].source.name
    return f"{setup.data['val'].source.name} (the data that the search saw: no --test was given)"


def _to_write(setup: Setup, result: SearchResult) -> dict[str, tuple[Candidate, Path]]:
    """The models to write and their files, by row, in the order of the report."""
    output, chosen = setup.options.folder, result.chosen
    rows = {"pruned": (result.pruned, output / "pruned.onnx")}
    if setup.options.narrow in ("int8", "dynamic"):
        dynamic = setup.options.narrow == "dynamic" or (chosen and chosen.precision is Precision.DYNAMIC)
        untouched = replace(ORIGINAL, precision=Precision.DYNAMIC if dynamic else Precision.INT8)
        rows = {"q8_only": (untouched, output / _IF_ADMITTED["q8_only"]), **rows}
    if chosen is not None:
        if chosen.floats and chosen.precision is not Precision.INT4:
            rows["int8_everywhere"] = replace(chosen, floats=()), output / _IF_ADMITTED["int8_everywhere"]
        rows["hqp"] = chosen, output / _FILE_NAMES[chosen.precision]
    if result.recovered is not None:
        rows["recovered"] = result.recovered, output / "recovered" / _FILE_NAMES[result.recovered.precision]
    return rows


def _write_models(setup: Setup, ledger: Ledger, result: SearchResult) -> dict[str, _Written]:
    """The models by row, last first: the last candidates of the search are still in memory."""
    source, budget, written = setup.model.source(setup.data["val"]), result.judge.budget, {}
    for name, (candidate, file) in reversed(_to_write(setup, result).items()):
        try:
            proto = model_io.to_file(narrow_weights(result.judge.models.graph(candidate)).graph)
            record_of(setup, result.judge, candidate).write(proto)
            verified = verify(proto, file, source, setup.target, candidate.computes_in, _judged(setup))
            verified = heard(verified, proto, file, source, setup.target)
        except HqpError as e:
            if name not in _IF_ADMITTED:  # of the others, the search has found that they run
                raise
            log.info("%s is left out: %s", TITLES[name], e)
            continue
        place = ledger.cache / f"{name}.onnx"
        model_io.save(proto, place)
        found = measured_file(setup, result.judge, candidate, place)
        trial = ledger.trials.get(candidate.key)  # Q8-only may have none
        admitted = budget.admits(found.val) and (trial is None or trial.accepted)
        written[name] = _Written(place, file, found, replace(verified, bytes=found.bytes), admitted)
    return written


def _judged(setup: Setup) -> list[str]:
    """The outputs that the metric reads, as far as that is known."""
    outputs, metric = [spec.name for spec in setup.model.session.outputs], setup.metric
    if metric.output or metric.whole:
        return [metric.output] if metric.output else outputs
    return outputs[:1] if len(outputs) == 1 or metric.labels != "any" else []


def _write_ledgers(setup: Setup, ledger: Ledger, result: SearchResult, written: Mapping[str, _Written]) -> None:
    """Write the ledgers of models that repeat the verdict of their trial."""
    for name in ("hqp", "recovered"):
        if name == "recovered" and name not in written:
            continue
        model = written.get(name, written["pruned"])
        plan = model.measured.candidate.plan
        trial = ledger.trials.get(model.measured.candidate.key)
        if not model.admitted and (trial is None or not trial.accepted):
            continue  # nothing was removed, and it is not the input: the float model that a quantized one stands for
        if not model.admitted:
            ledger.out.keep_only(())
            raise BudgetError(
                f"{model.file}: {model.measured.val.metric:.4f} on {setup.data['val'].source.name} does not repeat its "
                "trial, so it was removed. Leave out {--resume} to start anew"
            )
        _write_ledger(setup, plan, model.file.with_name(LEDGER))
        if name == "hqp" and plan_key(plan) != plan_key(result.pruned.plan):
            _write_ledger(setup, result.pruned.plan, model.file.with_name(PRUNED_LEDGER))


def _write_ledger(setup: Setup, plan: PruningPlan, path: Path) -> None:
    make_folder(path.parent)
    write_text(path, removals_json(setup.model.digest, setup.channels, plan))


def _spent(result: SearchResult, shipped: Measured) -> dict[str, float]:
    """Where the budget went, on D_val."""
    budget, full = result.judge.budget, shipped.candidate.in_float32
    if not len(full.plan) or not result.judge.admits(full):
        return budget.spent(0.0, shipped.val)
    return budget.spent(_drop(budget, result.judge.trial(full)), shipped.val)


def _drop(budget: Budget, trial: Trial) -> float:
    """Of a candidate that was admitted."""
    assert trial.metric is not None
    return budget.baseline.scale.drop(budget.baseline.metric, trial.metric)


def _notes(setup: Setup, result: SearchResult, rows: Mapping[str, Row], plan: PruningPlan) -> tuple[str, ...]:
    """What a reader of the table should not miss."""
    channels, redundant = setup.channels, result.evidence.redundant
    timed = {} if setup.target.counted else rows
    slow = (name for name in timed if rows[name].speedup * (1 + NOISE) < 1)
    notes = [*setup.model.notes]
    notes += [] if setup.split is None else [f"{setup.split.words}; {SPLIT} has their numbers"]
    where = setup.options.device or "this machine"
    notes += [f"{TITLES[name]} is slower than the input on {where}" for name in slow]
    samples = len(next(iter(setup.sample.values())))
    if samples > 1:
        notes.append(f"latencies are those of batches of {samples} samples")
    if setup.options.recover == "auto":
        notes.append(f"recovery: {setup.taught}")
    if setup.options.recover and result.recovered is None:
        notes.append("no recovered candidate is inside the budget")
    if redundant:
        kinds = Counter(redundant.values())
        listed = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
        removed = len(redundant.keys() & set(plan.removed.tolist()))
        were = counted(removed, "of them was", "of them were")
        notes.append(f"{counted(len(redundant), 'unit')} can be removed at no loss ({listed}), and {were}")
    if result.chosen is not None and result.chosen.precision is Precision.INT4 and result.chosen.floats:
        notes.append(f"in INT8, since INT4 costs too much there: {', '.join(result.chosen.floats)}")
    if ended := channels.ended(plan):
        notes.append(f"{ended} of {len(channels.branches)} gates and residual branches were removed as a whole")
    q = setup.metric.quantity
    for name, row in rows.items():
        if len(row.parts) > 1 and name != "baseline":
            parts = ", ".join(f"{output} {q.said(value)}" for output, value in row.parts.items())
            notes.append(f"{TITLES[name]}: {q.name} of {parts}")
    of_target = *stand_in(setup.target), *timing(setup.target), *remarks(setup.target, setup.options.precision)
    return (*notes, *result.notes, *filter(None, (result.ended,)), *of_target)


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
