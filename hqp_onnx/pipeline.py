"""The main job: the fastest pruned and quantized model whose metric stays inside the budget, and a report on it.

    baseline -> saliency (and moments) -> search over pruned FP32 candidates -> INT8 of the result where it pays,
    with less of either where the budget demands it [-> search over recovered candidates beyond it]
    -> the written files evaluated -> report [-> engine]

Every verdict is a line of the ledger, and every larger intermediate result a file beside it, so that an
interrupted run resumes to the same model.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx import cost, model_io, parity
from hqp_onnx.candidates import Candidates
from hqp_onnx.channel_map import ChannelMap, PruningPlan
from hqp_onnx.constraint import Budget
from hqp_onnx.dataset import Dataset
from hqp_onnx.errors import BudgetError
from hqp_onnx.latency import measure
from hqp_onnx.ledger import LEDGER, PRUNED_LEDGER, Ledger, Trial, write_text
from hqp_onnx.metrics import FloatArray, Metric, Scores, evaluate, load_metric
from hqp_onnx.mixed_precision import faster_in_float, output_errors
from hqp_onnx.moments import Moments, input_moments, load_moments, save_moments
from hqp_onnx.options import Options
from hqp_onnx.passes.recover import check_recoverable
from hqp_onnx.recovered_candidates import RecoveredCandidates
from hqp_onnx.redundancy import KINDS, redundant_units
from hqp_onnx.report.details import describe
from hqp_onnx.report.machine import machine
from hqp_onnx.report.results import TITLES, CostModel, Report, Row
from hqp_onnx.report.rows import Measured, make_rows
from hqp_onnx.report.writing import write_report
from hqp_onnx.runners import open_runner, remarks, runtime_name, stand_in
from hqp_onnx.runtime import Runner, node_seconds
from hqp_onnx.saliency import GRADIENT_KINDS
from hqp_onnx.search import SEARCHES, bisect, redundant_first, removal_order, step_size
from hqp_onnx.steps import (
    Model,
    Progress,
    Ranking,
    in_float16,
    open_data,
    open_loss,
    open_model,
    rank,
    removal_ledger,
    silent,
)
from hqp_onnx.targets import target

log = logging.getLogger(__name__)

MOMENTS = "moments.npz"
FILES = ("pruned.onnx", "int8.onnx", "fp16.onnx", LEDGER)
SENSITIVITY_SAMPLES = 100
RECOVERED = "+recovery"  # of a precision: the candidate is trained before it is judged
RECOVERY_STEPS = 8  # of what the search may add by recovery: a trial is a training
OPTIONAL = (PRUNED_LEDGER, "int8.onnx", "fp16.onnx", *parity.FILES, *(f"recovered/{name}" for name in FILES))
NOISE = 0.02  # of a ratio of latencies


def optimize(options: Options, progress: Progress = silent) -> Report:
    """Run the main job and write OUT/: pruned.onnx, int8.onnx (or fp16.onnx), ledgers, report.json and report.html.

    All input is checked before OUT is touched. Where no quantized model is inside the budget though one was asked for,
    ``report.met`` is False and the best admissible model is pruned.onnx. ``options.recover`` adds a folder
    recovered/ with a model that was trained, and ships if it is inside the budget, and its ledger.json.
    ``options.build`` adds model.engine, see ``parity``.

    Raises:
        HqpError: bad input.
    """
    if options.build:
        parity.require_engine(options)
    metric = load_metric(options.metric)
    open_loss(options.loss)
    model = open_model(options.model, options.threads, options.target)
    named = {"calib": options.calib, "val": options.val, "test": options.test}
    data = {name: open_data(model, path, options.preprocess, metric) for name, path in named.items() if path}
    for name, part in data.items():
        for done, _ in enumerate(part, 1):
            progress(f"checking {name}", min(done * part.batch_size, len(part)), len(part))
    if options.recover:
        check_recoverable(model.graph, data["calib"], options.recovery)
    return _Job(options, model, data, metric, progress).run()


def budget_error(report: Report) -> BudgetError:
    """The error that says that ``report`` missed its budget."""
    drop = 100 * report.settings["max_drop"]
    if report.engine is not None and not report.engine.admitted:
        return BudgetError(
            f"the engine of {report.model} loses {100 * report.engine.val_drop:.2f} points of a budget of {drop:g}: "
            f"the best admissible model is {report.shipped}. Allow a larger --max-drop, or see 'hqp compare'"
        )
    kind = "FP16" if report.settings["precision"] == "fp16" else "INT8"
    return BudgetError(
        f"no {kind} model of {report.model} is inside the budget of {drop:g} points: the best admissible model, "
        f"{report.shipped}, is FP32. Allow a larger --max-drop, or try another --calibration"
    )


def _file_name(precision: str) -> str:
    kind = precision.removesuffix(RECOVERED)
    return {"fp32": "pruned.onnx", "fp16": "fp16.onnx"}.get(kind, "int8.onnx")


class _Job:
    """One optimization: what it was given, and what it has found so far."""

    def __init__(
        self, options: Options, model: Model, data: Mapping[str, Dataset], metric: Metric, progress: Progress
    ) -> None:
        self.options, self.model, self.data, self.metric, self.progress = options, model, data, metric, progress
        self.target = target(options.target)
        self.channels = model.channels().restricted(options.keep, options.only)
        self.positions = cost.positions(model.graph, model.shapes)
        self.ledger = Ledger(options.output, options.settings(), options.resume)
        self.sample = next(iter(data["val"].in_batches(model.session.batch or 1))).feeds
        self.floats: dict[str, list[str]] = {"int8": []}
        self.redundant: dict[int, str] = {}

    def run(self) -> Report:
        """The whole job."""
        with self._timed("baseline"):
            self.budget = Budget(self._scores(self.model.session, "val"), self.options.max_drop)
        needs_moments = self.options.compensate or self.options.saliency == "obs"
        moments = self._moments() if needs_moments else None
        self.ranking = self._ranking(moments)
        scores = self.ranking.units
        if self.options.compensate and moments is not None:
            self.redundant = redundant_units(self.model.graph, self.channels, moments, scores)
        order = removal_order(redundant_first(scores, self.redundant), self.channels, self.options.min_width)
        self.step = step_size(self.options.step, len(self.channels.prunable))
        given: dict[str, Any] = {
            "original": self.model.graph,
            "channels": self.channels,
            "moments": moments if self.options.compensate else None,
            "data": self.data["calib"],
            "target": self.target,
            "method": self.options.calibration,
            "in_order": self.options.refit == "in-order",
            "multiple": self.options.width_multiple,
            "threads": self.options.threads,
            "progress": self.progress,
        }
        self.candidates = Candidates(order=order, cache=self.ledger.cache, **given)
        removed = SEARCHES[self.options.search](len(order), self.step, self._admits_next)
        chosen = None if self.options.precision == "fp32" else self._quantized(removed)
        recovered = None
        if self.options.recover:
            folder = self.ledger.cache / "recovery"
            folder.mkdir(exist_ok=True)
            order = self.candidates.order  # ranked anew, perhaps
            self.recovered = RecoveredCandidates(order=order, cache=folder, recovery=self.options.recovery, **given)
            first = ("fp32", removed) if self.options.precision == "fp32" else chosen or (self.options.precision, 0)
            recovered = self._recovered(*first)
        return self._report(removed, chosen, recovered)

    def _recovered(self, precision: str, removed: int) -> tuple[str, int] | None:
        """The last admissible recovered candidate from ``removed`` units on; None if there is none."""
        precision, full, limit = precision + RECOVERED, "fp32" + RECOVERED, len(self.candidates.order)

        def admits(count: int) -> bool:  # what is lost in FP32 is not trained again
            return self._admits(full, removed + count) and self._admits(precision, removed + count)

        step = max(self.step, -(-(limit - removed) // RECOVERY_STEPS))
        more = SEARCHES[self.options.search](limit - removed, step, admits)
        return (precision, removed + more) if admits(more) else None

    def _admits_next(self, count: int) -> bool:
        """The verdict on a candidate of the search, its last units ranked anew where that is due."""
        before = (count - 1) // self.step
        if self.options.refresh and before and before % self.options.refresh == 0:
            self._refresh(before * self.step)
        return self._admits("fp32", count)

    def _refresh(self, removed: int) -> None:
        """Rank the units that are left on the candidate without the first ``removed``."""
        first = self.candidates.order[:removed]
        rest = self.channels.without(self.candidates.plan(removed))
        scores = self._ranking(None, self.candidates.pruned(removed), rest, f"-{removed}").units.copy()
        scores[first] = np.arange(removed) - removed  # all others are 0 or more
        order = removal_order(scores, self.channels, self.options.min_width)
        self.candidates = replace(self.candidates, order=order)

    def _quantized(self, removed: int) -> tuple[str, int] | None:
        """The fastest admissible quantized candidate, as its precision and its units removed; None if there is none.

        Where the candidate with ``removed`` units is outside the budget, there are two ways back into it: fewer units
        removed, or more nodes in float, those first whose INT8 arithmetic harms the outputs most.
        """
        precision = self.options.precision
        if precision == "mixed":
            self.floats["mixed"] = self.ledger.once("mixed", lambda: self._faster_in_float(removed))
        if self._admits(precision, removed):
            return precision, removed
        fewer = bisect(max(removed - self.step, 0), self.step, lambda count: self._admits(precision, count))
        choices = [(precision, fewer)]
        if precision == "mixed":
            choices.append((self._spared(removed), removed))
        choices = [choice for choice in choices if self._admits(*choice)]
        if len(choices) < 2:
            return choices[0] if choices else None
        return choices[self.ledger.once("faster", lambda: self._faster(choices))]

    def _faster_in_float(self, removed: int) -> list[str]:
        if stand_in(self.target):
            return []
        nodes = self.candidates.quantizable(removed)
        with self._timed("mixed precision"):
            floats = faster_in_float(
                nodes, partial(self._open, removed), self.sample, partial(self.progress, "mixed precision")
            )
        log.info("%d of %d quantizable nodes stay in float, since that is faster", len(floats), len(nodes))
        return floats

    def _spared(self, removed: int) -> str:
        """The precision that keeps as few harmful nodes in float as the budget allows."""
        floats = self.floats["mixed"]
        errors = self.ledger.once("output_errors", lambda: self._output_errors(removed))
        harmless = sorted(errors, key=lambda node: errors[node])
        names = [f"mixed+{len(harmless) - count}" for count in range(len(harmless) + 1)]
        self.floats |= {name: [*floats, *harmless[count:]] for count, name in enumerate(names)}
        return names[bisect(len(harmless), 1, lambda count: self._admits(names[count], removed))]

    def _output_errors(self, removed: int) -> dict[str, float]:
        floats = self.floats["mixed"]
        nodes = [node for node in self.candidates.quantizable(removed) if node not in floats]
        data = self.data["calib"]
        few = [batch.feeds for batch in islice(data, max(1, SENSITIVITY_SAMPLES // data.batch_size))]
        with self._timed("sensitivity to INT8"):
            report = partial(self.progress, "sensitivity to INT8")
            return output_errors(nodes, partial(self._open, removed), few, floats, report)

    def _faster(self, choices: Sequence[tuple[str, int]]) -> int:
        """Index of the fastest candidate."""
        sessions = {str(i): self._session(*choice) for i, choice in enumerate(choices)}
        latencies = measure(sessions, self.sample)
        return int(min(latencies, key=lambda i: latencies[i].median_ms))

    def _graph(self, precision: str, removed: int) -> gs.Graph:
        candidates = self.recovered if precision.endswith(RECOVERED) else self.candidates
        precision = precision.removesuffix(RECOVERED)
        if precision == "fp32":
            return candidates.pruned(removed)
        if precision == "fp16":
            return in_float16(candidates.pruned(removed)).graph
        return candidates.quantized(removed, self.floats[precision])

    def _session(self, precision: str, removed: int) -> Runner:
        return self._load(model_io.to_proto(self._graph(precision, removed)))

    def _open(self, removed: int, floats: Collection[str]) -> Runner:
        return self._load(model_io.to_proto(self.candidates.quantized(removed, floats)))

    def _load(self, model: onnx.ModelProto | Path) -> Runner:
        return open_runner(model, self.target, threads=self.options.threads)

    def _admits(self, precision: str, removed: int) -> bool:
        """The verdict on a candidate, from the ledger if it was paid for already."""
        trial = self.ledger.trials.get((precision, removed))
        if trial is None:
            trial = self._trial(precision, removed)
            self.ledger.add(trial)
            log.info("%s, %4.1f %% of the units removed: %s", precision, 100 * trial.sparsity, trial.why)
        return trial.accepted

    def _trial(self, precision: str, removed: int) -> Trial:
        start = time.perf_counter()
        scores = self._scores(self._session(precision, removed), "val", self.budget.required)
        accepted = self.budget.admits(scores)
        drop = 100 * (self.budget.baseline.metric - scores.metric)
        size = self._size(removed)
        return Trial(
            precision=precision,
            removed=removed,
            sparsity=self._sparsity(removed),
            metric=scores.metric,
            complete=scores.complete,
            macs=size["macs"],
            params=size["params"],
            accepted=accepted,
            why=f"drop {'' if scores.complete else 'at least '}{drop:.2f} of {100 * self.budget.max_drop:g} points",
            seconds=round(time.perf_counter() - start, 3),
        )

    def _size(self, removed: int) -> dict[str, int]:
        """MACs and parameters of a candidate, the same in every precision."""
        graph = self.candidates.pruned(removed)
        return {"macs": cost.macs(graph, self.positions), "params": cost.params(graph)}

    def _sparsity(self, removed: int) -> float:
        return len(self.candidates.plan(removed)) / max(len(self.channels.prunable), 1)

    def _scores(self, session: Runner, part: str, required: float = 0.0) -> Scores:
        total = len(self.data[part])
        return evaluate(
            session, self.data[part], self.metric, required, lambda done, _: self.progress("evaluation", done, total)
        )

    def _ranking(
        self,
        moments: Mapping[str, Moments] | None,
        graph: gs.Graph | None = None,
        channels: ChannelMap | None = None,
        suffix: str = "",
    ) -> Ranking:
        """Of the original, or of a candidate with the units that it has left."""
        graph, channels = graph or self.model.graph, channels or self.channels
        file = self.ledger.cache / f"scores{suffix}.npz"
        if file.is_file():
            return Ranking.load(file)
        with self._timed(f"saliency{suffix}"):
            ranking = rank(
                graph,
                channels,
                self.options.saliency,
                self.data["calib"],
                engine=self.options.engine,
                loss=self.options.loss,
                draws=self.options.draws,
                seed=self.options.seed,
                threads=self.options.threads,
                progress=self.progress,
                checkpoint=self.ledger.cache / "saliency.npz",
                moments=moments,
                min_width=self.options.min_width,
                gains=self._gains(),
            )
        ranking.save(file)
        return Ranking.load(file)

    def _gains(self) -> FloatArray | None:
        """What the removal of each unit saves of what the objective counts."""
        if self.options.objective == "sparsity":
            return None
        graph, threads = self.model.graph, self.options.threads
        if self.options.objective == "macs":
            costs = cost.node_macs(graph, self.positions)
        else:
            proto = model_io.to_proto(graph)
            costs = self.ledger.once("node_seconds", lambda: node_seconds(proto, self.sample, threads=threads))
        return cost.unit_costs(graph, self.channels, costs)

    def _moments(self) -> dict[str, Moments]:
        file = self.ledger.cache / MOMENTS
        if not file.is_file():
            data = self.data["calib"]
            with self._timed("moments"):
                moments = input_moments(
                    model_io.to_proto(self.model.graph),
                    None,
                    data,
                    threads=self.options.threads,
                    progress=lambda done, total: self.progress("input moments", done, total),
                )
            save_moments(moments, file)
        return load_moments(file)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.ledger.add_seconds(stage, round(time.perf_counter() - start, 3))

    def _report(self, removed: int, chosen: tuple[str, int] | None, recovered: tuple[str, int] | None) -> Report:
        """Write the models, measure what was written, write the report.

        ``chosen`` is the quantized candidate, ``recovered`` the one that was trained; None where there is none.
        """
        output, cache, quantizes = self.options.output, self.ledger.cache, self.options.precision != "fp32"
        made = {"pruned": ("fp32", removed, output / "pruned.onnx")}
        if self.options.precision in ("int8", "mixed"):
            made = {"q8_only": ("int8", 0, cache / "q8_only.onnx"), **made}
        if chosen is not None:
            if self.floats.get(chosen[0]):
                made["int8_everywhere"] = ("int8", chosen[1], cache / "int8_everywhere.onnx")
            made["hqp"] = (*chosen, output / _file_name(chosen[0]))
        if recovered is not None:
            made["recovered"] = (*recovered, output / "recovered" / _file_name(recovered[0]))
        for earlier in {output / name for name in OPTIONAL} - {file for *_, file in made.values()}:
            earlier.unlink(missing_ok=True)
        models = {"baseline": self._measured(self.options.model, self.model.session, 0)}
        for name, (precision, count, file) in reversed(made.items()):  # the candidates at hand first
            model_io.save(self._graph(precision, count), file)
            models[name] = self._measured(file, self._load(file), count)
        models.setdefault("hqp", models["pruned"])
        models = {name: models[name] for name in TITLES if name in models}
        for last in ("hqp", "recovered") if recovered is not None else ("hqp",):
            precision, count, shipped = made.get(last, made["pruned"])
            self._require_repeated(shipped, models[last])
            plan = self.candidates.plan(count)
            self._write_ledger(plan, shipped.with_name(LEDGER))
        fp32_plan = self.candidates.plan(removed)
        if not np.array_equal(fp32_plan.removed, self.candidates.plan(made.get("hqp", made["pruned"])[1]).removed):
            self._write_ledger(fp32_plan, output / PRUNED_LEDGER)
        rows = make_rows(models, self.sample)
        spent = self._spent(precision, count, rows[last].val_drop)
        report = Report(
            model=str(self.options.model),
            rows=rows,
            data=self.options.test or f"{self.options.val} (the data that the search saw: no --test was given)",
            samples=models["baseline"].scores.samples,
            met=chosen is not None or recovered is not None or not quantizes,
            shipped=str(shipped),
            settings=self.options.settings(),
            trials=tuple(self.ledger.trials.values()),
            spent=spent,
            floats=tuple(self.floats.get(precision.removesuffix(RECOVERED), ())),
            cost=self._cost(),
            seconds=self.ledger.seconds,
            units={"all": self.channels.units, "prunable": len(self.channels.prunable), "removed": len(plan)},
            machine=machine(self.options.threads, runtime_name(self.target)),
            notes=self._notes(rows, last, str(shipped.relative_to(output))),
            details=describe(self.model, self.channels, plan, self.ranking.units, self.sample),
        )
        write_report(report, output)
        if self.options.build:
            report = self._with_engine(report, precision, count, {**models, "hqp": models[last]})
            write_report(report, output)
        for large in (*cache.glob("*.onnx"), cache / MOMENTS):  # and soon made again
            large.unlink(missing_ok=True)
        return report

    def _write_ledger(self, plan: PruningPlan, path: Path) -> None:
        write_text(path, removal_ledger(self.options.model, self.channels, plan))

    def _with_engine(self, report: Report, precision: str, removed: int, models: Mapping[str, Measured]) -> Report:
        """The report, which holds good without it, and the engine; one in float16 is built from float32."""
        source = Path(report.shipped)
        if precision.removesuffix(RECOVERED) == "fp16":
            source = self.ledger.cache / "engine.onnx"
            model_io.save(self._graph(precision.replace("fp16", "fp32"), removed), source)
        with self._timed("engine"):
            return parity.add_engine(
                report,
                source,
                precision.removesuffix(RECOVERED),
                self.options,
                models,
                self.budget,
                self._scores,
                self.sample,
                self.progress,
            )

    def _spent(self, precision: str, removed: int, drop: float) -> dict[str, float]:
        """What pruning and the change of precision took of the budget, on D_val."""
        pruning, full = 0.0, "fp32" + precision[len(precision.removesuffix(RECOVERED)) :]
        if removed and self._admits(full, removed):
            pruning = self.budget.baseline.metric - self.ledger.trials[full, removed].metric
        return {"pruning": pruning, "precision": drop - pruning, "left": self.budget.max_drop - drop}

    def _require_repeated(self, file: Path, model: Measured) -> None:
        """A file that was written must keep the verdict of its trial."""
        if not self.budget.admits(model.val):
            raise BudgetError(f"{file}: {model.val.metric:.4f} on {self.options.val} does not repeat its trial")

    def _notes(self, rows: Mapping[str, Row], last: str, shipped: str) -> tuple[str, ...]:
        """What a reader of the table should not miss."""
        notes = [f"{TITLES[name]} is slower than the input on this machine" for name in rows if rows[name].speedup < 1]
        if rows["pruned"].speedup > (1 + NOISE) * rows[last].speedup:
            notes.append(f"pruned.onnx (FP32) is faster than {shipped} on this machine")
        if self.options.recover and "recovered" not in rows:
            notes.append("no recovered candidate is inside the budget")
        if self.redundant:
            kinds = Counter(self.redundant.values())
            listed = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
            notes.append(f"{len(self.redundant)} units were to leave first, at no loss: {listed}")
        return (*notes, *stand_in(self.target), *remarks(self.target, self.options.precision))

    def _measured(self, path: Path, session: Runner, removed: int) -> Measured:
        val = self.budget.baseline if session is self.model.session else self._scores(session, "val")
        scores = self._scores(session, "test") if "test" in self.data else val
        return Measured(
            session, scores, val, model_io.stored_bytes(path), sparsity=self._sparsity(removed), **self._size(removed)
        )

    def _cost(self) -> CostModel:
        samples = {name: len(data) for name, data in self.data.items()}
        trials = self.ledger.trials.values()
        grad = self.ledger.seconds.get("saliency") if self.options.saliency in GRADIENT_KINDS else None
        return CostModel(
            c_grad=None if grad is None else grad / samples["calib"],
            c_inf=self.ledger.seconds["baseline"] / samples["val"],
            t_prune=sum(not trial.precision.endswith(RECOVERED) for trial in trials),
            c_recover=sum(trial.seconds for trial in trials if trial.precision.endswith(RECOVERED)),
            d_calib=samples["calib"],
            d_val=samples["val"],
        )
