"""The main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hqp_onnx.cli.arguments import (
    MULTIPLE_HELP,
    augment_option,
    branches_option,
    calibration_option,
    device_option,
    dry_run_option,
    gradient_options,
    json_option,
    metric_option,
    min_width_option,
    model_argument,
    numbers,
    probe_option,
    provider_option,
    quiet_option,
    reading_options,
    refit_option,
    selection_options,
    strict_option,
    target_option,
    workers_option,
)
from hqp_onnx.cli.command import Command
from hqp_onnx.cli.forecasts import show_forecast
from hqp_onnx.cli.output import Display, give_json, give_warnings, out, say
from hqp_onnx.cli.parameter_types import DATA, OUT, SHARE, Amount, Duration, Epochs, Named
from hqp_onnx.cli.tables.optimization import budget_line, cost_lines, report_table
from hqp_onnx.data.split import SHARES
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.verification import together
from hqp_onnx.files import forbid_overlap
from hqp_onnx.job.options import MAX_DROP, OBJECTIVES, PAPER, PRECISIONS, RELATIVE_DROP, Options
from hqp_onnx.job.search import SEARCHES
from hqp_onnx.out_folder import STATE
from hqp_onnx.progress import silent
from hqp_onnx.ranking.saliencies import SALIENCIES
from hqp_onnx.report.advice import advice
from hqp_onnx.report.words import result
from hqp_onnx.report.writing import HTML
from hqp_onnx.steps import optimize as pipeline
from hqp_onnx.steps.forecast_optimize import forecast_optimize


def _flag(name: str, value: object) -> str:
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{words}" if value else f"--no-{words}"
    return f"--{words} {value}"


PAPER_FLAGS = " ".join(_flag(name, value) for name, value in PAPER.items())


def _of_paper(context: click.Context) -> dict[str, Any]:
    """What ``--paper`` stands for; ``UsageError`` where an option says something else."""
    for name in PAPER:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} is set by --paper: leave one of them out")
    return dict(PAPER)


@click.command(cls=Command, either=(("data",), ("calib", "val")))
@model_argument
@click.option(
    "--calib",
    type=DATA,
    metavar="DATA",
    help="Instead of --data: calibration data, to rank units, set INT8 ranges and refit weights.",
)
@click.option("--val", type=DATA, metavar="DATA", help="With --calib: validation data, to judge every candidate.")
@click.option("--test", type=DATA, metavar="DATA", help="With --calib: test data; only the report uses it.")
@click.option("--data", type=DATA, metavar="DATA", help="Your data, split into calibration, validation and test.")
@click.option(
    "--shares",
    default=",".join(map(str, SHARES)),
    show_default=True,
    callback=numbers,
    metavar="C,V,T",
    help="Shares of --data for calibration (at most 5000 samples), validation and test.",
)
@click.option(
    "--max-drop",
    type=Amount(),
    metavar="NUMBER|SHARE%",
    help="Budget: how much worse the metric may be, in its units (0.015 is 1.5 points), or 5% of the original's.  "
    f"[default: {MAX_DROP} for metrics that are shares, else {RELATIVE_DROP}]",
)
@click.option("--speedup", type=float, metavar="X", help="Instead of a budget: X times as fast, at the smallest drop.")
@click.option("--target-latency", type=float, metavar="MS", help="Likewise: milliseconds, of --batch samples.")
@click.option("--pareto", is_flag=True, help="Also write models over the whole range of speeds, to OUT/pareto.")
@click.option(
    "--confidence",
    type=SHARE,
    default=0.5,
    show_default=True,
    help="How surely the budget must hold on new data: 0.95 holds the drop's upper bound to it, 0.5 only the measured "
    "drop.",
)
@click.option("--step", type=SHARE, default=0.01, show_default=True, help="Share of the units removed per step.")
@click.option(
    "--search",
    type=Named(SEARCHES),
    default="bisect",
    show_default=True,
    help="How far to go: by halving the range, or step by step from the original.",
)
@click.option(
    "--saliency",
    type=Named(SALIENCIES),
    default="obs",
    show_default=True,
    help="How units are ranked; `hqp score` and `hqp prune` have another default.",
)
@gradient_options
@click.option(
    "--compensate/--no-compensate", default=True, show_default=True, help="Refit weights that read removed channels."
)
@refit_option("in-order for the objective latency, else once")
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="latency",
    show_default=True,
    help="What to reduce within the budget. latency: widths by measured time; macs, size, sparsity: units in one "
    "order, by saliency per MAC, per parameter, or alone.",
)
@click.option("--refresh", type=int, default=0, metavar="R", help="Rank anew every R steps (--search linear).")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="mixed",
    show_default=True,
    help="mixed: INT8 where it is measured to be faster, and harmless; float16 on cuda and tensorrt-rtx. dynamic: "
    "INT8, with ranges of activations found at run time. int4: weights in 4 bits, arithmetic in float, for the size.",
)
@target_option
@device_option
@calibration_option
@metric_option
@min_width_option
@branches_option
@click.option("--multiple-of", type=int, help=f"{MULTIPLE_HELP} Default: what the target's kernels take.")
@selection_options
@reading_options("data", "calib", "val", "test")
@click.option(
    "--batch", type=int, default=1, show_default=True, help="Samples per timed run, unless MODEL fixes their number."
)
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads of the runtime; 0 tries several numbers.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Random seed: of the split of --data, --saliency random, --draws and recovery.",
)
@click.option(
    "--time-limit",
    type=Duration(),
    help="End by then, with the best model found within the budget: 90s, 10m, 2h.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run in OUT.")
@click.option("--force", is_flag=True, help="Replace the results of another model in OUT.")
@click.option(
    "--recover",
    type=Epochs(),
    default=0,
    metavar="auto|EPOCHS",
    help="Also train pruned models towards MODEL, without labels; auto: for as long as it helps.",
)
@click.option("--recover-time", type=Duration(), help="Time limit for all recovery training together: 30m, 2h.")
@augment_option
@click.option(
    "--build/--no-build",
    default=None,
    help="Build a TensorRT engine of the result, and hold it to the budget, too. Default: if TensorRT is installed.",
)
@click.option("-o", "--output", type=OUT, required=True, metavar="OUT", help="Folder for the models and the report.")
@probe_option
@workers_option
@provider_option
@dry_run_option
@json_option
@strict_option
@quiet_option
@click.option("--paper", is_flag=True, help=f"Algorithm 1 of the HQP paper, to the letter: {PAPER_FLAGS}.")
@click.pass_context
def optimize(
    context: click.Context,
    /,
    quiet: bool,
    strict: bool,
    json_file: Path | None,
    paper: bool,
    dry_run: bool,
    **chosen: Any,
) -> None:
    """Prune and quantize MODEL as far as the budget allows."""
    if paper:
        chosen |= _of_paper(context)
    if dry_run:
        show_forecast(forecast_optimize(Options(**chosen)), json_file)
        return
    if json_file is not None and str(json_file) != "-":
        forbid_overlap({"output": pipeline.outputs(chosen["output"]), "json_file": json_file}, {})
        if (chosen["output"] / STATE).resolve() in (json_file.resolve(), *json_file.resolve().parents):
            raise UsageError(f"{{--json_file}} {json_file} is working state of {{--output}}: choose another file")
    with Display(quiet) as display:
        report = pipeline.optimize(Options(**chosen), silent if quiet else display)
    if not give_json(report.json(), json_file):
        say(result(report))
        out.print(report_table(report, out.width))
        for line in (
            report.why,
            budget_line(report),
            *(cost_lines(report.cost_model) if paper else ()),
            *report.notes,
            *([together(report.verified)] if report.verified else ()),
            *advice(report),
            f"Wrote {report.shipped}; {chosen['output'] / HTML} shows it",
        ):
            say(line)
    if not report.budget_met:
        give_warnings(report.warnings, strict=False)
        raise pipeline.budget_error(report)
    give_warnings(report.warnings, strict)
