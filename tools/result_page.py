"""What a tool prints, also as a page of docs/results/ that says by which command it was made, when, and on what."""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

import onnxruntime

from hqp_onnx.files import make_folder, write_text
from hqp_onnx.runtimes.machine import processor

_LEFT_OUT = {"--page", "-o", "--output"}  # of the command, with their values: where things went


class _Both(io.TextIOBase):
    """Two streams that are written at once."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()


def result_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option ``--page``; names of options are not abbreviated, so those that say where are known."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="also write what is printed to this page")
    return parser


@contextmanager
def recorded(page: Path | None, title: str, arguments: list[str] | None = None) -> Iterator[None]:
    """What is printed within is also written to ``page``, when all is done; ``arguments`` are those of the command."""
    if page is None:
        yield
        return
    make_folder(page.parent)  # now, not after hours
    text = io.StringIO()
    with redirect_stdout(_Both(sys.stdout, text)):
        yield
    write_text(
        page, f"# {title}\n\n{origin(sys.argv if arguments is None else arguments)}\n\n{text.getvalue().strip()}\n"
    )


def origin(arguments: list[str]) -> str:
    """By which command a page was made, when, and on what."""
    kept = [Path(arguments[0]).name]
    rest = iter(arguments[1:])
    for argument in rest:
        if argument in _LEFT_OUT:
            next(rest, None)
        elif argument.partition("=")[0] not in _LEFT_OUT and not argument.startswith("-o"):
            kept.append(argument)
    today = datetime.now(tz=timezone.utc).date()
    made = f"Written by `python tools/{shlex.join(kept)}` on {today}"
    return f"{made}: {processor()}, onnxruntime {onnxruntime.__version__}."
