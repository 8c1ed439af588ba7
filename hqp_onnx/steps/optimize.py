"""The main job: the fastest pruned and quantized model whose metric stays inside the budget, and a report on it.

    search (``job``) -> the written files evaluated -> report (``outcome``) [-> engine (``parity``)]

Every verdict is a line of the ledger, and every larger intermediate result a file beside it, so that an
interrupted run resumes to the same model.
"""

from __future__ import annotations

from hqp_onnx.errors import BudgetError
from hqp_onnx.evaluation.metrics import load_metric
from hqp_onnx.job.job import Job
from hqp_onnx.job.options import Options
from hqp_onnx.job.outcome import write_outcome
from hqp_onnx.job.results import Report
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.recover import check_recoverable
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.rank import open_loss
from hqp_onnx.steps import ship_engine as parity


def optimize(options: Options, progress: Progress = silent) -> Report:
    """Run the main job and write OUT/: pruned.onnx, int8.onnx (or fp16.onnx), ledgers, report.json and report.html.

    All input is checked before OUT is touched. Where no quantized model is inside the budget though one was asked for,
    ``report.budget_met`` is False and the best admissible model is pruned.onnx. ``options.recover`` adds a folder
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
    job = Job(options, model, data, metric, progress)
    return write_outcome(job, job.run())


def budget_error(report: Report) -> BudgetError:
    """The error that says that ``report`` missed its budget."""
    drop = 100 * report.request.max_drop
    if report.engine is not None and not report.engine.admitted:
        return BudgetError(
            f"the engine of {report.model} loses {100 * report.engine.val_drop:.2f} points of a budget of {drop:g}: "
            f"the best admissible model is {report.shipped}. Allow a larger --max-drop, or see 'hqp compare'"
        )
    kind = "FP16" if report.request.precision == "fp16" else "INT8"
    return BudgetError(
        f"no {kind} model of {report.model} is inside the budget of {drop:g} points: the best admissible model, "
        f"{report.shipped}, is FP32. Allow a larger --max-drop, or try another --calibration"
    )
