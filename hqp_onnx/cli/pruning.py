"""Units: show them, score them, remove them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from hqp_onnx.cli.arguments import (
    MULTIPLE_HELP,
    branches_option,
    dry_run_option,
    gradient_options,
    json_option,
    min_width_option,
    model_argument,
    probe_option,
    provider_option,
    quiet_option,
    reading_options,
    refit_option,
    selection_options,
    strict_option,
    workers_option,
)
from hqp_onnx.cli.command import Command
from hqp_onnx.cli.forecasts import give_forecast, told
from hqp_onnx.cli.output import Display, give_json, give_warnings, out, say, verified_json
from hqp_onnx.cli.parameter_types import DATA, OUT, SHARE, Loose, Named
from hqp_onnx.cli.tables.units import inspect_table, refusals_table
from hqp_onnx.counts import counted
from hqp_onnx.data.reading import Data
from hqp_onnx.progress import Progress
from hqp_onnx.ranking.saliencies import SALIENCIES, Scoring
from hqp_onnx.runtimes.targets import TARGETS
from hqp_onnx.steps.inspect import ask_target, inspect_model
from hqp_onnx.steps.prune import Pruning, prune_file
from hqp_onnx.steps.score import score_file

_NAMED = 3  # tensors of a group, on a terminal; --json and pipes have all


@click.command(cls=Command)
@model_argument
@click.option(
    "--target",
    type=Loose(TARGETS),
    help="Instead of units, show the nodes of MODEL that this TensorRT, or QNN, refuses.",
)
@probe_option
@json_option
def inspect(model: Path, target: str | None, json_file: Path | None) -> None:
    """Show which units of MODEL (channels that go together) can be pruned, which cannot, and why.

    Gates and residual branches, marked with (all), may be removed as a whole; of other groups, some units stay.
    """
    if target is not None:
        accepted = ask_target(model, target)
        if not give_json(msgspec.to_builtins(accepted), json_file):
            taken = accepted.nodes - len(accepted.refused)
            say(f"{accepted.model}: {accepted.tensorrt} takes {taken} of {counted(accepted.nodes, 'node')}")
            if accepted.refused:
                out.print(refusals_table(accepted))
        return
    inspection = inspect_model(model)
    if not give_json(msgspec.to_builtins(inspection, str_keys=True), json_file):
        out.print(inspect_table(inspection, _NAMED if out.is_terminal else None))


@click.command(cls=Command)
@model_argument
@click.option("--data", type=DATA, metavar="DATA", help="Calibration data, for saliencies that need some.")
@click.option(
    "--saliency",
    type=Named(SALIENCIES),
    default="fisher",
    show_default=True,
    help="How units are ranked; `hqp optimize` takes obs by default.",
)
@gradient_options
@reading_options("data")
@click.option("-o", "--output", type=OUT, required=True, help="scores.npz: filter/<weight> and unit.")
@probe_option
@workers_option
@provider_option
@dry_run_option
@json_option
@quiet_option
def score(
    model: Path,
    data: Data | None,
    preprocess: str | None,
    output: Path,
    json_file: Path | None,
    quiet: bool,
    dry_run: bool,
    **chosen: Any,
) -> None:
    """Write the saliency of every filter and unit of MODEL."""
    scoring = Scoring(**chosen)

    def elsewhere(to: Path, report: Progress) -> object:
        return score_file(model, data, to / "o.npz", scoring, preprocess, report)

    if dry_run:
        give_forecast(elsewhere, json_file)
        return
    with Display(quiet) as display:
        ranking = score_file(model, data, output, scoring, preprocess, told(elsewhere, display, quiet))
    filters = {name: len(values) for name, values in ranking.filters.items()}
    if not give_json({"output": str(output), "filters": filters, "units": len(ranking.units)}, json_file):
        say(f"{output}: {counted(len(filters), 'weight')}, {counted(len(ranking.units), 'unit')}")


@click.command(cls=Command)
@model_argument
@click.option("--sparsity", type=SHARE, help="Share of the prunable units to remove.")
@click.option(
    "--plan",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="LEDGER",
    help="Instead of --sparsity: remove what a ledger.json says, from another export of the same network.",
)
@click.option(
    "--saliency",
    type=Named(SALIENCIES),
    help="How units are ranked. Default: fisher with --data, else l2; `hqp optimize` takes obs.",
)
@click.option("--data", type=DATA, metavar="DATA", help="Calibration data, for --compensate and most saliencies.")
@click.option(
    "--compensate/--no-compensate", default=None, help="Refit weights that read removed channels. Default: with --data."
)
@refit_option("in-order for --plan, else once")
@min_width_option
@branches_option
@click.option("--multiple-of", type=int, default=1, show_default=True, help=MULTIPLE_HELP)
@selection_options
@click.option("--seed", type=int, default=0, show_default=True)
@reading_options("data")
@click.option("--ledger", type=OUT, help="Write what was removed, as JSON.")
@click.option("-o", "--output", type=OUT, required=True)
@probe_option
@workers_option
@provider_option
@dry_run_option
@json_option
@strict_option
@quiet_option
def prune(
    model: Path,
    output: Path,
    data: Data | None,
    preprocess: str | None,
    ledger: Path | None,
    json_file: Path | None,
    strict: bool,
    quiet: bool,
    dry_run: bool,
    **chosen: Any,
) -> None:
    """Remove a share of MODEL's units, or those of a plan, whatever it costs."""
    do = partial(prune_file, model, options=Pruning(**chosen), data=data, preprocess=preprocess)

    def elsewhere(folder: Path, report: Progress) -> object:
        return do(output=folder / "o.onnx", progress=report)

    if dry_run:
        give_forecast(elsewhere, json_file)
        return
    with Display(quiet) as display:
        pruned = do(output=output, ledger=ledger, progress=told(elsewhere, display, quiet))
    assert pruned.verified is not None
    counts = {"removed": pruned.units, "prunable": pruned.prunable}
    if not give_json({"output": str(output), **counts, **verified_json(pruned.notes, pruned.verified)}, json_file):
        say(f"{output}: {pruned.units} of {counted(pruned.prunable, 'prunable unit')} removed")
        for note in (*pruned.notes, pruned.verified.words):
            say(note)
    give_warnings(pruned.verified.warnings, strict)
