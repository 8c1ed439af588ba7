"""How long-running work reports its progress."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

_LOG = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, what is done and the total."""

StageProgress = Callable[[int, int], None]
"""The same within one stage: what is done, and the total (0 where it is not known)."""


def silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


def in_words(seconds: float) -> str:
    """A time."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Step(NamedTuple):
    """A part of long work: its name, and how the names of the stages that belong to it end."""

    name: str
    stages: tuple[str, ...]


class Steps:
    """Progress that says at which step it is: k of n, a line as each begins, and the time that is left, if it is known.

    A step that needs no work, as after ``--resume``, is passed over; what is done again later belongs to the step that
    it is needed in. An estimate is corrected by what the steps so far took in place of what they should have; to begin
    with, that counts as a tenth of the whole would.

    Args:
        steps: in order.
        progress: what it reports to.
        limit: seconds that all may take; None for no limit.
    """

    def __init__(self, steps: Sequence[Step], progress: Progress, limit: float | None = None) -> None:
        self._steps, self._progress, self._limit = steps, progress, limit
        self._seconds: list[float] = []
        self._began: float | None = time.perf_counter()
        self._now, self._stage, self._done = -1, "", 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``Progress``."""
        if stage != self._stage or done <= self._done:
            self._begin(stage)
        self._stage, self._done = stage, done
        self._progress(stage, done, total)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What steps will take, by name."""
        self._seconds = [seconds.get(step.name, 0.0) for step in self._steps]
        self._began = None

    def _begin(self, stage: str) -> None:
        """A stage that belongs to a step behind the one that it is at."""
        later = (n for n, step in enumerate(self._steps) if n > self._now and stage.endswith(step.stages))
        if (number := next(later, None)) is not None:
            self._now = number
            _LOG.info("step %d of %d: %s%s", number + 1, len(self._steps), self._steps[number].name, self._left())

    def _left(self) -> str:
        now, done = time.perf_counter(), sum(self._seconds[: self._now])
        self._began = now - done if self._began is None else self._began  # what came before an estimate was as expected
        spent = now - self._began
        if self._limit is not None:
            return f", about {max(self._limit - spent, 0):.0f} s left of the limit"
        if not any(self._seconds):
            return ""
        trust = sum(self._seconds) / 10
        pace = (spent + trust) / (done + trust)
        return f", about {in_words(pace * sum(self._seconds[self._now :]))} left"


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
