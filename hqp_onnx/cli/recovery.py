"""Recovery of pruned and quantized models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from hqp_onnx.cli.arguments import (
    augment_option,
    dry_run_option,
    json_option,
    probe_option,
    provider_option,
    quiet_option,
    reading_options,
    strict_option,
    workers_option,
)
from hqp_onnx.cli.command import Command
from hqp_onnx.cli.forecasts import show_forecast, told
from hqp_onnx.cli.output import Display, give_json, give_warnings, say, verified_json
from hqp_onnx.cli.parameter_types import DATA, FILE, OUT, SHARE, Duration, Epochs
from hqp_onnx.data.reading import Data
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.progress import Progress
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.settings import BATCH, LOSSES
from hqp_onnx.steps.forecast import forecast
from hqp_onnx.steps.recover import expected, recover_file


@click.command(cls=Command)
@click.argument("student", type=FILE)
@click.option("--teacher", type=FILE, required=True, metavar="MODEL", help="The original that STUDENT was made from.")
@click.option("--data", type=DATA, required=True, metavar="DATA", help="Samples; labels are not read.")
@click.option(
    "--epochs",
    type=Epochs(),
    default=2,
    show_default=True,
    metavar="auto|EPOCHS",
    help="auto: by the number of samples, for as long as it helps.",
)
@click.option("--time-limit", "seconds", type=Duration(), help="What the training may take: 90s, 30m, 2h.")
@click.option("--ledger", type=FILE, help="What was removed, if not ledger.json beside STUDENT.")
@click.option("--rate", type=float, default=Recovery.rate, show_default=True, help="Peak of the learning rate.")
@click.option("--batch", type=int, help=f"Samples per step.  [default: {BATCH}; more with --epochs auto]")
@click.option("--held-out", type=SHARE, default=Recovery.held_out, show_default=True, help="Share that only judges.")
@click.option("--loss", type=click.Choice(LOSSES), help="Of the outputs. Default: kl for a classifier, else mse.")
@click.option("--metric-output", metavar="NAME", default="", help="The one that counts; others are as features.")
@augment_option
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--checkpoint", type=OUT, help="Written after every round; the same command goes on from it.")
@reading_options("data")
@click.option("-o", "--output", type=OUT, required=True)
@probe_option
@workers_option
@provider_option
@dry_run_option
@json_option
@strict_option
@quiet_option
def recover(
    student: Path,
    teacher: Path,
    data: Data,
    ledger: Path | None,
    checkpoint: Path | None,
    preprocess: str | None,
    output: Path,
    json_file: Path | None,
    strict: bool,
    quiet: bool,
    metric_output: str,
    dry_run: bool,
    **chosen: Any,
) -> None:
    """Train STUDENT, pruned or quantized (Q/DQ), towards the model that it was made from, without labels."""
    settings = Recovery(**chosen, task=Task("any", metric_output))
    do = partial(recover_file, student, teacher, data=data, settings=settings)
    do = partial(do, ledger=ledger, preprocess=preprocess)

    def elsewhere(folder: Path, report: Progress) -> object:
        return do(output=folder / "o.onnx", progress=report)

    if dry_run:
        show_forecast(expected(forecast(elsewhere), settings), json_file)
        return
    with Display(quiet) as display:
        shown = told(
            elsewhere, display, quiet, lambda command, left: expected(forecast(command, seconds=left), settings)
        )
        written = do(output=output, checkpoint=checkpoint, progress=shown)
    if not give_json({"output": str(output), **verified_json(written.notes, written.verified)}, json_file):
        for note in (*written.notes, written.verified.words):
            say(note)
        say(f"Wrote {output}")
    give_warnings(written.verified.warnings, strict)
