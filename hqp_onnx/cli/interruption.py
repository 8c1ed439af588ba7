"""Ctrl-C, SIGTERM and the end of a terminal: files that are half written go, and the command that goes on is named."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Sequence
from types import FrameType

from hqp_onnx.errors import Ended

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
_SIGNALS = ("SIGTERM", "SIGHUP")  # Windows has no second


def end_by_exception() -> None:
    """Signals that end a process raise ``Ended`` from here on, unless they are ignored or handled (as by nohup)."""
    for number in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    for name in _SIGNALS:  # a second one ends the process at once
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    raise Ended(number)


def words(arguments: Sequence[str], command: str | None) -> str:
    """What to say of an interrupted ``hqp ARGUMENTS``, whose sub-command is ``command``."""
    if command == "optimize":
        more = [] if "--resume" in arguments else ["--resume"]
        return f"interrupted; `{shlex.join(['hqp', *arguments, *more])}` goes on from here"
    if command == "recover" and any(word.split("=")[0] == "--checkpoint" for word in arguments):
        return f"interrupted; `{shlex.join(['hqp', *arguments])}` goes on from the last whole epoch"
    return "interrupted"
