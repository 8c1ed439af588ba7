"""What commands show: results on stdout, progress on stderr.

The door for text. Names come from models and files, and a terminal obeys what it is shown, so control characters and
those that reorder text are shown as Python escapes (``printable``), whoever prints: ``say``, tables, progress.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Sequence
from itertools import chain
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

from hqp_onnx.errors import FileError, StrictError
from hqp_onnx.evaluation.verification import Verified
from hqp_onnx.files import json_text, write_text

BEAT_S = 30.0
_COLUMN = re.compile(r" *(?:\S+(?: \S+)* {2,})?")  # an indent, and a name with its gap
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories: control, format, surrogate, separators, ...


def printable(text: str) -> str:
    """``text`` with escapes in place of what is no visible character, line ends and tabs aside."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _HIDDEN else ascii(char)[1:-1] for char in text
    )


def say(text: str, err: bool = False) -> None:
    """A line on stdout, or on stderr; a terminal gets it broken at the ends of words."""
    stream = sys.stderr if err else sys.stdout
    width = shutil.get_terminal_size().columns if stream is not None and stream.isatty() else 0
    click.echo(wrapped(printable(text), width), err=err)


def wrapped(text: str, width: int) -> str:
    """Lines of at most ``width`` characters, 0 for any; words stay whole, what is indented stays so."""
    if not width:
        return text
    lines = (_broken(line, width) if len(line) > width else [line] for line in text.split("\n"))
    return "\n".join(chain.from_iterable(lines))


def _broken(line: str, width: int) -> list[str]:
    """One line as several; in a list of names and what they mean, the meaning stays in its column."""
    found = _COLUMN.match(line)
    indent = " " * (len(found[0]) if found is not None and len(found[0]) < width // 2 else 0)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


class Door(Console):
    """A console whose text, in tables too, is ``printable``, and for which a closed pipe is an error as any other."""

    def render_str(self, text: str, **options: Any) -> Text:
        """What a string looks like."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the boundary."""
        raise


out = Door(width=None if sys.stdout is not None and sys.stdout.isatty() else 140, markup=False, emoji=False)


def begin() -> None:
    """See to it that no file is ever opened as a standard stream that is closed, and that there is a stdout.

    Raises:
        FileError: it is closed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        raise FileError("stdout is closed: results have nowhere to go")


def finish() -> None:
    """Hand on what stdout holds back.

    Raises:
        FileError: it cannot be written; the rest is dropped.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as e:
        drop()
        raise FileError(f"stdout cannot be written: {getattr(e, 'strerror', None) or e}") from e


def drop() -> None:
    """Send what stdout holds back nowhere, so that the interpreter does not try again when it ends."""
    try:
        print(end="", file=sys.stdout, flush=True)  # nowhere, if it is closed
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def give_json(value: Any, file: Path | None) -> bool:
    """Write JSON if asked for; return whether it went to stdout."""
    if file is None:
        return False
    if str(file) == "-":
        click.echo(json.dumps(value, indent=1))  # ASCII: all else is escaped
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
        say("warning: " + " ".join(warning.split()), err=True)
    if strict and warnings:
        raise StrictError(f"{len(warnings)} warning{'s' * (len(warnings) > 1)}, and {{--strict}} was given")


class Display:
    """Progress with rate and remaining time: bars on a terminal, lines when piped, nothing if quiet.

    A piped stage reports its progress every ``BEAT_S`` seconds, and how long it took, with the work in front of it;
    ``evaluation`` has no last line, since a verdict follows it. Rates count from a stage's first report on.
    """

    def __init__(self, quiet: bool, console: Console | None = None) -> None:
        console = console or Door(stderr=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
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
        stage = printable(stage)
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
            self._say(f"{stage}: {total} in {now - self._began:.1f} s, {_said(rate)}", stage != "evaluation")
        elif now - self._said > BEAT_S and done > self._first[0]:
            self._said = now
            self._say(f"{stage}: {done} of {total}, {_said(rate)}, {(total - done) / rate:.0f} s left")

    def _say(self, line: str, wanted: bool = True) -> None:
        if self._plain and wanted:
            _print(self._console, line)

    def __enter__(self) -> Display:
        if not self._bars.disable:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bars.disable:  # rich 13 prints an empty line otherwise
            self._bars.stop()


def _print(console: Console, line: str) -> None:
    """A line, broken at the ends of words on a terminal alone."""
    width = console.width if console.is_terminal else 0
    console.print(wrapped(line, width), highlight=False, markup=False, soft_wrap=True)


def _said(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else _said(speed))


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        _print(self._console, printable(self.format(record)))
