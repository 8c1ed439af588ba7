"""Errors that a user can mend. Each message is one line: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ARGUMENT = re.compile(r"\{([a-z_0-9]+)\}")


class HqpError(Exception):
    """Base of every error that the command line reports as one line.

    ``exit_code`` is 2 (bad usage or input) unless a subclass says otherwise.
    """

    exit_code = 2


class ModelError(HqpError):
    """The model file cannot be read, is invalid, or is outside what is supported."""


class DataError(HqpError):
    """The data do not fit the model, or are empty or corrupt."""


class UsageError(HqpError):
    """An option or argument has a value that makes no sense here."""


class ArgumentError(UsageError):
    """An argument has a value that makes no sense.

    Args:
        template: the message, with the names of arguments in braces: "{max_drop} 2: expected a share in 0..1". In
            Python they are read as they are; the command line puts its options in their place (``text``).
    """

    def __init__(self, template: str) -> None:
        self._template = template
        super().__init__(self.text({}))

    def text(self, options: Mapping[str, str]) -> str:
        """The message, with ``options`` by argument in place of the arguments' names."""
        return _ARGUMENT.sub(lambda match: options.get(match[1], match[1]), self._template)


class FileError(HqpError):
    """The system refuses to read or write a file; the message gives its reason."""


class MissingRuntimeError(HqpError):
    """An optional dependency is not installed; the message names the extra to install."""


class GradientError(HqpError):
    """A node cannot be differentiated; the message names the node and its operator."""


class BudgetError(HqpError):
    """No candidate that was asked for is inside the budget. The best admissible model was still written."""

    exit_code = 3


def one_line(error: object) -> str:
    """The first line of another library's message; the error's type where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
