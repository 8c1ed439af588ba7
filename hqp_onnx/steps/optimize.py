"""``hqp optimize``: the fastest pruned and quantized model whose metric stays inside the budget, and a report on it.

    Setup ─► search (``job.run``) ─► files written and evaluated (``job.outcome``) ─► report [─► engine]

Every verdict is a line of the ledger, and every larger intermediate result a file beside it, so an interrupted run
resumes to the same model.
"""

from __future__ import annotations

from hqp_onnx.boundary import public
from hqp_onnx.errors import BudgetError
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.options import Options
from hqp_onnx.job.outcome import write_outcome
from hqp_onnx.job.results import Report
from hqp_onnx.job.run import run
from hqp_onnx.job.settings import settings_of
from hqp_onnx.job.setup import open_setup
from hqp_onnx.progress import Progress, silent
from hqp_onnx.report.writing import write_report
from hqp_onnx.steps.ship_engine import add_engine, remove_engine, require_engine


@public
def optimize(options: Options, progress: Progress = silent) -> Report:
    """Run the main job and write OUT/: pruned.onnx, int8.onnx (or fp16.onnx), ledgers, report.json and report.html.

    All input is checked before OUT is touched. Where no quantized model is inside the budget though one was asked for,
    ``report.budget_met`` is False and the best admissible model is pruned.onnx. ``options.recover`` adds a folder
    recovered/ with a model that was trained, and ships if it is inside the budget, and its ledger.json.
    ``options.build`` adds model.engine, see ``ship_engine``.

    Raises:
        HqpError: bad input.
    """
    if options.build:
        require_engine(options)
    setup = open_setup(options, progress)
    ledger = Ledger(options.folder, settings_of(setup), options.resume)
    result = run(setup, ledger)
    remove_engine(options.folder)
    report, models = write_outcome(setup, ledger, result)
    write_report(report, options.folder)
    if options.build:
        report = add_engine(setup, ledger, result, report, models)  # which holds good without it
        write_report(report, options.folder)
    return report


def budget_error(report: Report) -> BudgetError:
    """The error that says that ``report`` missed its budget."""
    drop = 100 * report.request.max_drop
    if report.engine is not None and not report.engine.admitted:
        return BudgetError(
            f"the engine of {report.model} loses {100 * report.engine.val_drop:.2f} points of a budget of {drop:g}: "
            f"the best admissible model is {report.shipped}. Allow a larger {{--max_drop}}, or see 'hqp compare'"
        )
    kind = "FP16" if report.request.precision == "fp16" else "INT8"
    return BudgetError(
        f"no {kind} model of {report.model} is inside the budget of {drop:g} points: the best admissible model, "
        f"{report.shipped}, is FP32. Allow a larger {{--max_drop}}, or try another {{--calibration}}"
    )
