"""Errors that a user can mend. Each message is one line: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

LONGEST_REASON = 300  # characters of another library's message
_ARGUMENT = re.compile(r"\{--([a-z_0-9]+)\}")


class HqpError(Exception):
    """Base of every error that the command line reports as one line.

    ``exit_code`` is 2 (bad usage or input) unless a subclass says otherwise.

    Args:
        message: one line. An argument is named as ``{--max_drop}``: in Python that reads max_drop, on the command line
            it is the option (``text``). ``template`` is the message as given.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        self.template = message
        super().__init__(self.text(str))

    def text(self, name: Callable[[str], str]) -> str:
        """The message, with ``name`` of each argument in its place."""
        return _ARGUMENT.sub(lambda match: name(match[1]), self.template)


class Ended(BaseException):
    """A signal asks the process to end; ``code`` is what it exits with."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number
        super().__init__(number)


class OutOfTime(BaseException):
    """The time of a search is over; the message says at which stage. ``job.run`` catches it."""


INTERRUPTIONS = (KeyboardInterrupt, Ended, OutOfTime)  # what nobody's code is to blame for


class ModelError(HqpError):
    """The model file cannot be read, is invalid, or is outside what is supported."""


class DataError(HqpError):
    """The data do not fit the model, or are empty or corrupt."""


class UsageError(HqpError):
    """An argument has a value that makes no sense here."""


class FileError(HqpError):
    """The system refuses to read or write a file; the message gives its reason."""


class MissingRuntimeError(HqpError):
    """An optional dependency is not installed; the message names the extra to install."""


class LimitError(HqpError):
    """A run was stopped since it took more time or memory than it may; the message says which, and what allows more."""


class BoardError(HqpError):
    """A board cannot be reached, refuses, or lacks something; the message says which, and what to do."""


class WorkerError(HqpError):
    """Workers cannot be reached, are of another version, or die; the message says which, and what to do."""


class PluginError(HqpError):
    """A user's file or an installed package raised something; the message names it and the line."""


class GradientError(HqpError):
    """A node cannot be differentiated; ``reason`` names the node and its operator, ``advice`` what to do instead."""

    def __init__(self, reason: str, advice: str = "") -> None:
        self.reason, self.advice = reason, advice
        super().__init__(f"{reason}; {advice}" if advice else reason)


class BudgetError(HqpError):
    """No candidate that was asked for is inside the budget. The best admissible model was still written."""

    exit_code = 3


class StrictError(HqpError):
    """Something was warned of, and warnings were asked to fail. What was asked for was written."""

    exit_code = 3


class ThresholdError(HqpError):
    """What ships was measured again, and does not hold a threshold."""

    exit_code = 4


def one_line(error: object) -> str:
    """The first line of another library's message, without the middle if it is long; its type where it has none."""
    return _short(next(iter(str(error).strip().splitlines()), "") or type(error).__name__)


def last_line(text: str) -> str:
    """The last line of what another program says, without the middle if it is long; empty where it says nothing."""
    return _short(next(iter(reversed(text.strip().splitlines())), ""))


def _short(line: str) -> str:
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON // 2]} ... {line[-LONGEST_REASON // 3 :]}"
