"""Times, wherever one is asked for: in seconds, or as 90s, 10m or 2h, on the command line, in a file and in Python."""

from __future__ import annotations

import math
from typing import Any, overload

from hqp_onnx.errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: float | str) -> float:
    """A time in seconds, above 0.

    Raises:
        ValueError: it is none.
    """
    text = "" if isinstance(value, bool) else str(value).strip().lower()
    unit = _UNITS.get(text[-1:])
    try:
        found = float(text if unit is None else text[:-1]) * (unit or 1.0)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise ValueError(f"{value}: expected a time above 0, as 90s, 10m or 2h")
    return found


class Duration:
    """A field of a dataclass that takes a time or None, and then is seconds or None.

    Args:
        argument: what errors call it; None takes the name of the field.
    """

    def __init__(self, argument: str | None = None) -> None:
        self._argument = argument

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> None: ...
    @overload
    def __get__(self, instance: object, owner: type) -> float | None: ...
    def __get__(self, instance: object, owner: type) -> float | None:
        """Seconds; None, the default, where a class is asked."""
        return None if instance is None else vars(instance)[self.name]

    def __set__(self, instance: Any, value: float | str | None) -> None:
        """Keep the seconds."""
        try:
            vars(instance)[self.name] = None if value is None else seconds(value)
        except ValueError as e:
            raise UsageError(f"{{--{self._argument or self.name}}} {e}") from e
