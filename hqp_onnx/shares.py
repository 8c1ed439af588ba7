"""Shares, wherever one is asked for: 0.05 or "5%", on the command line, in a file of options and in Python."""

from __future__ import annotations

from typing import Any, TypeAlias, overload

from hqp_onnx.errors import UsageError

Given: TypeAlias = float | str
"""A number, or a percentage."""


def parsed(value: Given) -> float:
    """A share as a number; its range is left to who reads it.

    Raises:
        ValueError: it is neither a number nor a percentage.
    """
    text = str(value).strip()
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as e:
        raise ValueError(f"'{value}' is no share: expected a number, as 0.05, or a percentage, as 5%") from e


def share(value: Given, argument: str) -> float:
    """``parsed``, for an argument of that name.

    Raises:
        UsageError: it is neither a number nor a percentage.
    """
    try:
        return parsed(value)
    except ValueError as e:
        raise UsageError(f"{{--{argument}}}: {e}") from e


class Share:
    """A field of a dataclass that takes a number or a percentage, and then is a number.

    Args:
        default: of the field.
    """

    def __init__(self, default: float) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> float: ...
    @overload
    def __get__(self, instance: object, owner: type) -> float: ...
    def __get__(self, instance: object, owner: type) -> float:
        """The number, or the default where a class is asked."""
        return self.default if instance is None else float(vars(instance)[self.name])

    def __set__(self, instance: Any, value: Given) -> None:
        """Keep the number."""
        vars(instance)[self.name] = share(value, self.name)
