"""What a parameter's value may be: paths that are read or written, shares, times, names in a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from hqp_onnx.durations import seconds
from hqp_onnx.registry import Registry, is_file_name
from hqp_onnx.shares import parsed

_FEW = 12  # names that an option lists in place of a word for them
FILE = click.Path(path_type=Path)
DATA = click.Path()  # or file.py:func, or MODEL@TARGET: a path for the shell's sake


class Written(click.Path):
    """A path that a command writes; only the command line and the file of ``--config`` may name one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; stdout, as -, is for JSON alone."""
        if str(value) == "-" and param is not None and param.name != "json_file":
            self.fail("only --json writes to stdout: expected the name of a file", param, ctx)
        return super().convert(value, param, ctx)


OUT = Written(path_type=Path)


class Address(click.types.StringParamType):
    """A machine to connect to; only the command line and the file of ``--config`` may name one."""

    name = "address"


class Crew(Address):
    """Workers: a number of them, or where they are."""

    name = "workers"


class Preprocessing(click.Path):
    """Preprocessing by a name, as JSON, or as a file, which is a path for the shell's sake."""


class Amount(click.types.StringParamType):
    """A number, or a share as 5%."""

    name = "amount"


class Duration(click.types.FloatParamType):
    """A time as 90s, 10m or 2h, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            return seconds(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


class Epochs(click.types.IntParamType):
    """A number of epochs, or auto."""

    name = "epochs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        try:
            return "auto" if value == "auto" else int(value)
        except ValueError:
            self.fail(f"'{value}': expected a number of epochs, or auto", param, ctx)


class Share(click.types.FloatParamType):
    """A share as a number, or as a percentage: 0.05 or 5%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        try:
            return parsed(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


SHARE = Share()


class ShareOrAuto(Share):
    """A share from 0 to 1, or auto."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        return "auto" if value == "auto" else super().convert(value, param, ctx)


class Named(click.types.StringParamType):
    """A name in a registry, or ``FILE.py:name``; nothing is imported to list, complete or take one."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    @property
    def choices(self) -> tuple[str, ...]:
        """The known names."""
        return self.registry.names

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The known names, where they are few."""
        names = "|".join(self.choices)
        return f"[{names}|FILE.py:NAME]" if len(self.choices) <= _FEW else "NAME|FILE.py:NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself."""
        if value not in self.choices and not is_file_name(value):
            known = ", ".join(self.choices)
            self.fail(f"unknown {self.registry.noun} '{value}': expected one of {known}, or FILE.py:name", param, ctx)
        return str(value)

    def is_code(self, name: str) -> bool:
        """Whether a name stands for code of a file or an installed package."""
        base = name.partition(":")[0]
        return is_file_name(name) or (base in self.registry.names and base not in self.registry.own)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The known names, or files."""
        names = [name for name in self.choices if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


class Loose(Named):
    """A name as ``Named`` takes it, or a form of one that its reader checks, as ``percentile:99.9``."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The word for it."""
        return "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself."""
        return str(value)
