"""Options from a file: a section per command, a key per option, named as on the command line.

    [optimize]
    model = "model.onnx"          # arguments too
    max-drop = 0.01
    compensate = false            # --no-compensate
    keep = ["conv1*", "head*"]    # options that may be repeated

The command line wins. Paths are relative to the working folder, as they are there.

The file of ``--config`` may hold all of that. ``hqp.toml`` is read wherever somebody runs ``hqp``, in a folder that may
come from anyone, so it is data: it names no code (``FILE.py``, extensions of installed packages, engines) and nothing
that is written, and leaves these to the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hqp_onnx.cli.parameter_types import Address, Amount, Crew, Duration, Epochs, Loose, Named, Share, Written
from hqp_onnx.errors import UsageError, one_line
from hqp_onnx.files import read_text, require_regular
from hqp_onnx.registry import is_file_name
from hqp_onnx.runtimes.targets import TARGETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = Path("hqp.toml")
_CODE = (".py", ".engine")
_TARGETS = Loose(TARGETS)  # of MODEL@TARGET
_KINDS: tuple[tuple[type[click.ParamType[Any]], tuple[type, ...], str], ...] = (
    (Crew, (int, str), "a number, or an address"),
    (Amount, (int, float, str), "a number, or a share as '5%'"),
    (Share, (int, float, str), "a share, as 0.05 or '5%'"),
    (Duration, (int, float, str), "a time, as 90 or '10m'"),
    (Epochs, (int, str), "a number of epochs, or 'auto'"),
    (type(click.BOOL), (bool,), "true or false"),
    (type(click.INT), (int,), "a whole number"),
    (type(click.FLOAT), (int, float), "a number"),  # what these three are derived from comes after them
)


def read(path: Path | None, group: click.Group) -> dict[str, dict[str, Any]]:
    """Defaults of the commands of ``group``, as click's ``default_map`` takes them.

    Args:
        path: None takes ``hqp.toml`` in the working folder if it is there.
        group: the commands.

    Raises:
        UsageError: no such file, not TOML, a section, key or value that no command knows, or one that only ``--config``
            may set.
    """
    if path is None and not os.path.lexists(DEFAULT):
        return {}
    file = DEFAULT if path is None else path
    trusted = path is not None
    commands = {name: command for name, command in group.commands.items() if not isinstance(command, click.Group)}
    return {name: _section(file, name, values, commands, trusted) for name, values in _parse(file).items()}


def names(command: click.Command) -> dict[str, click.Parameter]:
    """Every key of a command's section and what it sets."""
    return {_key(parameter): parameter for parameter in command.params}


def flags(command: click.Command) -> dict[str, str]:
    """Every option of a command by the argument that it sets, as on the command line."""
    return {str(p.name): f"--{_key(p)}" for p in command.params if isinstance(p, click.Option)}


def _key(parameter: click.Parameter) -> str:
    long = [word[2:] for word in parameter.opts if word.startswith("--")]
    return long[0] if long else str(parameter.name)


def _parse(file: Path) -> dict[str, Any]:
    require_regular(file, "a TOML file with options", UsageError)
    try:
        return tomllib.loads(read_text(file))
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise UsageError(f"{file}: not TOML: {one_line(e)}") from e


def _section(
    file: Path, name: str, values: Any, commands: Mapping[str, click.Command], trusted: bool
) -> dict[str, Any]:
    if name not in commands:
        raise UsageError(f"{file}: unknown section [{name}]: expected one of {', '.join(sorted(commands))}")
    if not isinstance(values, dict):
        raise UsageError(f"{file}: '{name}' is a command: expected a section [{name}] with its options")
    known = names(commands[name])
    chosen = {}
    for key, value in values.items():
        parameter = known.get(key.replace("_", "-"), known.get(key))
        if parameter is None:
            raise UsageError(f"{file}: [{name}] has no option '{key}': expected one of {', '.join(sorted(known))}")
        _check(f"{file}: [{name}] {key}", parameter, value, commands[name])
        if not trusted and (what := _forbidden(parameter, value)):
            raise UsageError(
                f"{file}: [{name}] {key} = {value!r} names {what}, which a file that is merely found may not. "
                f"Give it on the command line, or the file as --config {file}"
            )
        chosen[str(parameter.name)] = value
    return chosen


def _check(where: str, parameter: click.Parameter, value: Any, command: click.Command) -> None:
    many = parameter.multiple or parameter.nargs != 1
    if many and not isinstance(value, list):
        raise UsageError(f"{where} is {value!r}: expected a list, as [{value!r}]")
    accepted, words = _kind(parameter)
    for item in value if many else [value]:
        if not isinstance(item, accepted) or (isinstance(item, bool) and bool not in accepted):
            raise UsageError(f"{where} is {item!r}: expected {words}")
    try:
        parameter.type_cast_value(click.Context(command), value)
    except click.BadParameter as e:
        raise UsageError(f"{where}: {e.message}") from e


def _forbidden(parameter: click.Parameter, value: Any) -> str:
    """What a value names that only who runs the command may; empty if it does not."""
    if isinstance(parameter.type, Written):
        return "what is written"
    if isinstance(parameter.type, Address) and not str(value).isdigit():
        return "a machine to connect to"
    named = parameter.type if isinstance(parameter.type, Named) else None
    for text in map(str, value if isinstance(value, list) else [value]):
        file, _, target = text.rpartition("@")
        codes = [is_file_name(text), Path(text).suffix in _CODE, Path(file).suffix in _CODE]
        if any(codes) or _TARGETS.is_code(target) or (named is not None and named.is_code(text)):
            return "code"
    return ""


def _kind(parameter: click.Parameter) -> tuple[tuple[type, ...], str]:
    """Types of TOML that a parameter takes, and their name."""
    kinds = (kind[1:] for kind in _KINDS if isinstance(parameter.type, kind[0]))
    return next(kinds, ((str,), "a string"))
