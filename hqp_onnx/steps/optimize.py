"""``hqp optimize``: the fastest pruned and quantized model whose metric stays inside the budget, and a report on it.

    Setup ─► search (``job.run``) ─► files written and evaluated (``job.outcome``) ─► report [─► engine]

Every verdict is a line of the ledger, and every larger intermediate result a file beside it, so an interrupted run
resumes to the same model.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from hqp_onnx.boundary import public
from hqp_onnx.errors import BudgetError, UsageError
from hqp_onnx.files import forbid_overlap, paths_of
from hqp_onnx.job.duration import duration
from hqp_onnx.job.handing_over import with_handed
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.options import Options
from hqp_onnx.job.outcome import OUTPUTS, write_outcome
from hqp_onnx.job.pareto import FILES, PARETO, write_family
from hqp_onnx.job.results import Report
from hqp_onnx.job.run import run
from hqp_onnx.job.settings import inputs_of, owner, same_job
from hqp_onnx.job.setup import Setup, open_setup
from hqp_onnx.job.steps import steps_of
from hqp_onnx.job.time_limit import OVER
from hqp_onnx.out_folder import LEDGER, LOCK, MANIFEST, OutFolder
from hqp_onnx.progress import Progress, Steps, in_words, silent
from hqp_onnx.report.reading import JSON
from hqp_onnx.report.writing import HTML, write_report
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.forecast import LONG_SECONDS
from hqp_onnx.steps.ship_engine import ENGINE_FILES, add_engine, builder_of, require_engine
from hqp_onnx.workers import Workers, using

_LOG = logging.getLogger(__name__)
_NAMES = (*OUTPUTS, *FILES, PARETO, LEDGER, JSON, HTML, *ENGINE_FILES)


@public
def optimize(options: Options, progress: Progress = silent, workers: Workers = None) -> Report:
    """Run the main job and write OUT/: every measured model inside the budget, ledgers, report.json and report.html.

    All input is checked before OUT is touched. The fastest of these models ships, see ``job.shipping``. Where no
    quantized model is inside the budget though one was asked for, ``report.budget_met`` is False. ``options.recover``
    adds a folder recovered/ with a model that was trained, if it is inside the budget, and its ledger.json.
    ``workers`` share the work: a number of processes, an address as ``hqp`` takes it, or an Executor.
    ``options.build`` adds model.engine, and so does a TensorRT that is installed, see ``ship_engine``.

    Raises:
        HqpError: bad input; or OUT holds what is not of this job, see ``out_folder``.
    """
    if not isinstance(options, Options):
        raise UsageError(f"the options are of type {type(options).__name__}: expected hqp_onnx.Options")
    began = perf_counter()
    if options.build:
        require_engine(options)
    out = _out(options)
    with using(workers):
        return _optimized(options, out, progress, began)


def _optimized(options: Options, out: OutFolder, progress: Progress, began: float) -> Report:
    steps = Steps(steps_of(options), progress, options.time_limit)
    setup = open_setup(options, steps)
    if progress is not silent and _is_foreseeable(options):
        steps.expect(_foretold(setup))
    with out.opened():
        ledger = Ledger(out, same_job(setup), options.resume)
        result = run(setup, ledger, began)
        report, models = write_outcome(setup, ledger, result)
        if options.pareto:
            family = write_family(setup, ledger, result, models["baseline"], models[report.ships].candidate)
            notes = (*report.notes, *family.notes)
            report = replace(report, pareto=family.points, notes=notes, seconds=dict(ledger.seconds))
        write_report(report, options.folder)
        if (builds := builder_of(options)) is not None:
            report = add_engine(setup, ledger, result, report, models, builds)  # which holds good without it
            write_report(report, options.folder)
    return report


def _is_foreseeable(options: Options) -> bool:
    """Not where a limit says it, little is left to do, or a search takes nobody knows how many candidates."""
    return options.time_limit is None and not options.resume and options.search == "bisect"


def _foretold(setup: Setup) -> dict[str, float]:
    """What the steps will roughly take, said in a line: seconds, by name."""
    found = duration(setup.options, one := pass_seconds(setup))
    if (total := sum(found.values())) > LONG_SECONDS:
        _LOG.info(
            "roughly %s%s, as the original takes %s for all samples; '--dry-run' says what a stage takes, and memory",
            in_words(total),
            " and the time of training" if setup.options.recover else "",
            in_words(max(one, 1.0)),
        )
    return found


def pass_seconds(setup: Setup) -> float:
    """What the original takes for all calibration and validation samples, by one batch of them."""
    feeds = next(iter(setup.data["val"])).feeds
    setup.model.session.run(feeds)  # the first run of a session takes longer
    began = perf_counter()
    setup.model.session.run(feeds)
    return (perf_counter() - began) * sum(len(setup.data[part].ranges) for part in ("calib", "val"))


def outputs(folder: Path) -> list[Path]:
    """Every file that may be written in OUT, beside working state."""
    return [folder / name for name in (*_NAMES, MANIFEST, LOCK)]


def _out(options: Options) -> OutFolder:
    """The folder to write, checked."""
    names = with_handed(_NAMES, target(options.target))
    out = OutFolder(options.folder, *owner(options.model), names, options.force)
    inputs, folder = inputs_of(options), options.folder.resolve()
    written = dict.fromkeys([*outputs(options.folder), *(options.folder / name for name in names)])
    forbid_overlap({"output": list(written)}, inputs)
    read = [(words, path) for words, names in inputs.items() for path in paths_of(names)]
    for words, path in read:
        if path.resolve() in (folder, *folder.parents):
            raise UsageError(f"{{--output}} {options.folder} lies in {words}, a folder: choose another")
    out.check()
    return out


def budget_error(report: Report) -> BudgetError:
    """The error that says that ``report`` missed its budget."""
    q = report.metric
    limit = q.limit(report.max_drop)
    if report.engine is not None and not report.engine.admitted:
        return BudgetError(
            f"the engine of {report.model} loses {q.worse(report.engine.val_drop)} of a budget of {limit}: "
            f"the best admissible model is {report.shipped}. Allow a larger {{--max_drop}}, or see 'hqp compare'"
        )
    if report.request.speed:
        row = report.rows[report.ships]
        return BudgetError(
            f"no model of {report.model} reaches {report.request.speed}: {report.shipped}, the fastest, takes "
            f"{row.latency_ms:.3f} ms, {row.speedup:.2f} times as fast. Allow narrower layers by {{--min_width}}"
        )
    kind = report.request.narrow.upper()
    advice = "Allow a larger {--max_drop}, or try another {--calibration}"
    return BudgetError(
        f"no {kind} model of {report.model} is inside the budget of {limit}: the best admissible model is "
        f"{report.shipped}. {next((note for note in report.notes if note.startswith(OVER)), advice)}"
    )
