"""How long-running work reports its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, what is done and the total."""

StageProgress = Callable[[int, int], None]
"""The same within one stage: what is done, and the total (0 where it is not known)."""


def silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


class Lines:
    """Progress as lines of plain text, for notebooks and logs: one as a stage ends, and one now and then within it.

    Args:
        write: takes a line with its end; None takes stdout's.
        seconds: from line to line within a stage.
    """

    def __init__(self, write: Callable[[str], object] | None = None, seconds: float = 10.0) -> None:
        self._write, self._seconds = write, seconds
        self._stage, self._done = "", 0
        self._began = self._said = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report how much of its total a stage has done."""
        now = time.perf_counter()
        if stage != self._stage or done <= self._done:
            self._began = self._said = now
        self._stage, self._done = stage, done
        if done >= total > 0:
            self._say(f"{stage}: {total} in {now - self._began:.1f} s")
        elif now - self._said > self._seconds:
            self._said = now
            self._say(f"{stage}: {done} of {total or 'some'}")

    def _say(self, line: str) -> None:
        (self._write or sys.stdout.write)(f"{line}\n")
