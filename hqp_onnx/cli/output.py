"""What commands show: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from hqp_onnx.errors import StrictError
from hqp_onnx.evaluation.verification import Verified
from hqp_onnx.files import json_text, write_text

BEAT_S = 30.0
out = Console(width=None if sys.stdout.isatty() else 140, markup=False)


def give_json(value: Any, file: Path | None) -> bool:
    """Write JSON if asked for; return whether it went to stdout."""
    if file is None:
        return False
    if str(file) == "-":
        click.echo(json.dumps(value, indent=1))
        return True
    write_text(file, json_text(value))
    return False


def verified_json(notes: Sequence[str], verified: Verified) -> dict[str, Any]:
    """What is known of a written model, as JSON values."""
    values: dict[str, Any] = msgspec.to_builtins(verified)
    return {"notes": list(notes), "warnings": values.pop("warnings"), "verified": values}


def give_warnings(warnings: Sequence[str], strict: bool) -> None:
    """Say on stderr what a user should not miss.

    Raises:
        StrictError: there are any, and ``strict``.
    """
    for warning in warnings:
        click.echo("warning: " + " ".join(warning.split()), err=True)
    if strict and warnings:
        raise StrictError(f"{len(warnings)} warning{'s' * (len(warnings) > 1)}, and {{--strict}} was given")


class Display:
    """Progress with rate and remaining time: bars on a terminal, lines when piped, nothing if quiet.

    A piped stage reports its progress every ``BEAT_S`` seconds, and how long it took, with the work in front of it;
    ``evaluation`` has no last line, since a verdict follows it. Rates count from a stage's first report on.
    """

    def __init__(self, quiet: bool, console: Console | None = None) -> None:
        console = console or Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task = self._bars.add_task("", total=None, visible=False)
        self._console, self._plain = console, not quiet and not console.is_terminal
        self._stage, self._done = "", 0
        self._first = 0, 0.0
        self._began = self._said = self._last = time.perf_counter()
        logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", force=True)
        logging.getLogger().handlers = [_ConsoleHandler(Console(stderr=True) if quiet else console)]

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report how much of its total a stage has done."""
        if stage != self._stage or done <= self._done:
            self._bars.reset(self._task, description=stage, visible=True)
            self._began = self._said = self._last
            self._first = done, time.perf_counter()
        self._stage, self._done = stage, done
        self._bars.update(self._task, completed=done, total=total)
        now = self._last = time.perf_counter()
        count, start = self._first if done > self._first[0] else (0, self._began)
        rate = (done - count) / max(now - start, 1e-9)
        if done >= total:
            self._say(f"{stage}: {total} in {now - self._began:.1f} s, {rate:.3g}/s", stage != "evaluation")
        elif now - self._said > BEAT_S and done > self._first[0]:
            self._said = now
            self._say(f"{stage}: {done} of {total}, {rate:.3g}/s, {(total - done) / rate:.0f} s left")

    def _say(self, line: str, wanted: bool = True) -> None:
        if self._plain and wanted:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s")


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), highlight=False, markup=False)
