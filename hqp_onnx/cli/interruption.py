"""Ctrl-C, SIGTERM and the end of a terminal: files that are half written go, and the command that goes on is named."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from hqp_onnx.errors import Ended

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
_AGAIN_SECONDS = 0.02
_SIGNALS = ("SIGTERM", "SIGHUP")  # Windows has no second


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Signals that end a process raise ``Ended`` inside, unless they are ignored or handled (as by nohup)."""
    for number in _numbers():
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    before, sys.unraisablehook = sys.unraisablehook, _again
    try:
        yield
    finally:
        sys.unraisablehook = before
        _end_at_once()  # also while Python shuts down, where nobody catches what is raised


def _again(unraisable: sys.UnraisableHookArgs) -> None:
    """A signal that came while an object was being removed, whose exceptions go nowhere, is sent once more."""
    lost = unraisable.exc_value
    if isinstance(lost, (Ended, KeyboardInterrupt)):
        number = lost.code - 128 if isinstance(lost, Ended) else signal.SIGINT
        if isinstance(lost, Ended):
            signal.signal(number, _end)
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(unraisable)


def _end(number: int, frame: FrameType | None) -> None:
    _end_at_once()
    raise Ended(number)


def _end_at_once() -> None:
    """A further signal ends the process."""
    for number in _numbers():
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def _numbers() -> Iterator[signal.Signals]:
    return (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name))


def words(arguments: Sequence[str], command: str | None) -> str:
    """What to say of an interrupted ``hqp ARGUMENTS``, whose sub-command is ``command``."""
    if command == "optimize":
        more = [] if "--resume" in arguments else ["--resume"]
        return f"interrupted; `{shlex.join(['hqp', *arguments, *more])}` goes on from here"
    if command == "recover" and any(word.split("=")[0] == "--checkpoint" for word in arguments):
        return f"interrupted; `{shlex.join(['hqp', *arguments])}` goes on from the last whole epoch"
    return "interrupted"
