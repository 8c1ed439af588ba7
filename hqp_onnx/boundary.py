"""The one boundary between this package and who called it: what others raise becomes an ``HqpError`` of one line.

    OSError                        FileError, with the system's reason
    MemoryError                    LimitError: what needs more memory than there is (``limits.bounded_memory``)
    RecursionError                 LimitError: input that is nested too deeply
    LinAlgError                    DataError: numbers that no matrix can be inverted with
    anything, but interruptions,   PluginError, which names the file and the line
    out of a user's file or an
    installed extension

What remains is a fault of this package and passes: a program sees its traceback, the command line says it in a line
(``fault``). ``public`` puts a function of the facade behind the boundary, and holds its plain arguments to their types.
"""

from __future__ import annotations

import ctypes
import inspect
import numbers
import os
import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from hqp_onnx.counts import article
from hqp_onnx.errors import INTERRUPTIONS, DataError, FileError, HqpError, LimitError, PluginError, UsageError, one_line
from hqp_onnx.limits import bounded_memory
from hqp_onnx.registry import culprit

P = ParamSpec("P")
R = TypeVar("R")
_PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool, np.bool_), "True or False"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    str: ((str,), "a string"),
    Path: ((str, Path), "a path"),
    type(None): ((type(None),), "None"),
}


@contextmanager
def boundary() -> Iterator[None]:
    """Turn what a block raises into errors of ``hqp_onnx.errors``, as the module says."""
    try:
        with bounded_memory():
            yield
    except (HqpError, *INTERRUPTIONS):
        raise
    except BaseException as e:
        known = _known(e)
        if known is None:
            raise
        raise known from e


def _known(error: BaseException) -> HqpError | None:
    what = one_line(error)
    if (place := culprit(error)) is not None:
        return PluginError(f"{place}: {type(error).__name__}: {what}")
    if isinstance(error, MemoryError):
        return LimitError(f"out of memory ({what}): give smaller batches or less data, or free memory")
    if isinstance(error, RecursionError):
        return LimitError("the input is nested too deeply")
    if isinstance(error, np.linalg.LinAlgError):
        return DataError(f"a matrix of these data cannot be used ({what}): give more, or more varied, samples")
    if isinstance(error, OSError):
        where = "the system refuses" if error.filename is None else os.fsdecode(error.filename)
        return FileError(f"{where}: {error.strerror or what}")
    return None


def fault(error: BaseException) -> str:
    """A fault of this package in one line: what it is, where, and how to see more of it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"internal fault: {type(error).__name__}: {one_line(error)} ({Path(last.filename).name}:{last.lineno}). "
        "HQP_DEBUG=1 shows where; docs/security.md says how to report it"
    )


def public(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` behind the boundary; arguments that are no such thing as their annotations say raise UsageError."""
    signature = inspect.signature(function)

    @wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        require_types(signature.bind(*arguments, **options).arguments, get_type_hints(function))
        with boundary():
            return function(*arguments, **options)

    return called


def require_types(values: Mapping[str, object], hints: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for values that are not what their annotations say, where these are plain.

    Numbers, strings, paths, literals, None and sequences of these are; the rest is left to who reads the value.
    """
    for name, value in values.items():
        expected = _expected(hints.get(name, Any))
        if expected and not any(test(value) for test, _ in expected):
            words = " or ".join(dict.fromkeys(words for _, words in expected))
            raise UsageError(f"{{--{name}}} is {_shown(value)}: expected {words}")


def _expected(hint: Any) -> list[tuple[Callable[[Any], bool], str]]:
    """Tests of a plain annotation and their words; none for others."""
    if hint in _PLAIN:
        kinds, words = _PLAIN[hint]
        no_bool = hint in (int, float)
        return [(lambda value: isinstance(value, kinds) and not (no_bool and isinstance(value, bool)), words)]
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Callable:
        return [(callable, "a function")]
    if origin is Literal:
        return [(lambda value: isinstance(value, str) and value in inside, f"one of {', '.join(map(str, inside))}")]
    if origin in (Union, types.UnionType):
        parts = [_expected(part) for part in inside]
        return [] if not all(parts) else [test for part in parts for test in part]
    if origin in (tuple, Sequence) and (item := _expected(inside[0])):
        return [(lambda value: _all(value, item), f"a sequence, each {' or '.join(words for _, words in item)}")]
    return []


def _all(value: Any, item: Collection[tuple[Callable[[Any], bool], str]]) -> bool:
    """Whether ``value`` is a sequence of such items; a string is one of one."""
    items = [value] if isinstance(value, str) else value
    return isinstance(items, Collection) and all(any(test(each) for test, _ in item) for each in items)


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, (str, numbers.Number, type(None))) else article(type(value).__name__)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextmanager
def silenced() -> Iterator[None]:
    """Nothing reaches the process's stdout and stderr, past Python's: some libraries print there, whatever is asked."""
    with ExitStack() as stack:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with suppress(OSError, ValueError, AttributeError):  # it is closed, or there is none
                stream.flush()
                kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, descriptor)
        stack.callback(_flush_libc)
        yield


def _flush_libc() -> None:
    """Let what C and C++ have buffered go where it was to go."""
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
