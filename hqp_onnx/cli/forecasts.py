"""What ``--dry-run`` shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.table import Table

from hqp_onnx.cli.output import Display, give_json, out, say
from hqp_onnx.progress import Progress, in_words, silent
from hqp_onnx.steps.forecast import LEAST, Command, Forecast, Foretold, forecast


def give_forecast(command: Command, json_file: Path | None) -> None:
    """Show what a command would take."""
    show_forecast(forecast(command), json_file)


def told(
    command: Command, display: Display, quiet: bool, foresee: Callable[[Command, float], Forecast] | None = None
) -> Progress:
    """What a long command reports to: its steps, and the time that is left; see ``Foretold``."""
    return silent if quiet else Foretold(command, display, foresee)


def show_forecast(found: Forecast, json_file: Path | None) -> None:
    """Show it as a table, or as JSON."""
    if give_json({**msgspec.to_builtins(found), "seconds": found.seconds, "work": found.work}, json_file):
        return
    table = Table(title="Nothing was done. What would be, by a few samples:", title_justify="left")
    table.add_column("stage")
    for column in ("passes", "of", "about s"):
        table.add_column(column, justify="right")
    for stage in found.stages:
        if stage.seconds >= LEAST * found.seconds:
            count = str(stage.count) if stage.count else ""
            table.add_row(stage.name, str(stage.passes) if count else "", count, f"{stage.seconds:.1f}")
    out.print(table)
    samples = ", ".join(f"{count} of {part}" for part, count in found.samples.items())
    say(f"about {in_words(found.seconds)}, and {found.bytes / 1e6:.0f} MB of memory; samples: {samples or 'none'}")
    for note in found.notes:
        say(note)
