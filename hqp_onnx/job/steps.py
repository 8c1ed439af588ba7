"""Where an optimization is: step k of n, a line as each begins, above the progress of its stages.

Which step it is follows from the stages that report; a step that needs no work, as after ``--resume``, is passed over.
What is done again later, as a second table of times, belongs to the step that it is needed in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import perf_counter

from hqp_onnx.job.options import Options
from hqp_onnx.progress import Progress

log = logging.getLogger(__name__)
_JUDGED = "evaluation"
RESULTS = "results"


class Steps:
    """Progress that says at which step it is.

    Args:
        options: of the job.
        progress: what it reports to.
    """

    def __init__(self, options: Options, progress: Progress) -> None:
        self._progress, self._limit = progress, options.time_limit
        self._steps = list(_steps(options))
        self._now, self._stage, self._done, self._began = -1, "", 0, perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``Progress``."""
        if stage != self._stage or done <= self._done:
            self._begin(stage)
        self._stage, self._done = stage, done
        self._progress(stage, done, total)

    def _begin(self, stage: str) -> None:
        """A stage that belongs to a step behind the one that it is at."""
        later = (n for n, (_, stages) in enumerate(self._steps) if n > self._now and stage.endswith(stages))
        if (step := next(later, None)) is not None:
            self._now = step
            log.info("step %d of %d: %s%s", step + 1, len(self._steps), self._steps[step][0], self._left())

    def _left(self) -> str:
        if self._limit is None:
            return ""
        return f", about {max(self._limit - (perf_counter() - self._began), 0):.0f} s left of the limit"


def _steps(options: Options) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names, and the ends of names of the stages that belong to them."""
    latency, integers = options.objective == "latency", options.precision not in ("fp32", "fp16")
    yield "reading the data", (" calib", " val", " test")
    yield "the original", (_JUDGED,)
    if options.compensate or options.scoring.method.needs_moments:
        yield "moments of what weights read", ("input moments",)
    if options.scoring.method.needs_data:
        yield "saliency", (" saliency",)
    if latency:
        yield "times of widths", ("times",)
        yield "what each width costs", ("loss curves",)
    yield "candidates", (_JUDGED,)
    if integers:
        yield "INT8", ("calibration", "rounding", "mixed precision", "sensitivity to INT8")
    if options.recover:
        yield "recovered candidates", ("recovery",)
    yield "results, evaluated and timed as written", (RESULTS,)
