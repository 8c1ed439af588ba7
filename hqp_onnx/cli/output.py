"""What commands show: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hqp_onnx.ledger import write_text
from hqp_onnx.model_io import json_text

out = Console(width=None if sys.stdout.isatty() else 140)


def give_json(value: Any, file: Path | None) -> bool:
    """Write JSON if asked for; whether it took stdout."""
    if file is None:
        return False
    if str(file) == "-":
        click.echo(json.dumps(value, indent=1))
        return True
    write_text(file, json_text(value))
    return False


class Display:
    """Progress bars on a terminal; one line per finished stage when piped; nothing if quiet."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task: TaskID | None = None
        self._plain = not quiet and not console.is_terminal
        logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", force=True)
        logging.getLogger().handlers = [_ConsoleHandler(console)]

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A stage has done so much of its total."""
        if self._plain and done == total and stage != "evaluation":
            click.echo(f"{stage}: {total} samples", err=True)
        if self._task is None:
            self._task = self._bars.add_task(stage)
        self._bars.update(self._task, description=stage, completed=done, total=total)

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), highlight=False, markup=False)
