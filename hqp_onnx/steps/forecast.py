"""What a command will take, measured on a few samples: ``--dry-run``.

The command itself is run into a folder that is thrown away, on the first n samples of its data and then on 3 n. The
processor's time in each stage is a line,

    seconds(n) = a + b n,    a, b >= 0

read at the number of samples that there are. b is the usual pace between the reports of a pass (what comes once, at its
end, is no part of it), or where a stage reports no samples, what the two runs differ by. That is multiplied by what a
second of it took by the clock: where the machine has other work, two readings of a clock differ by more than their
samples do. A stage that counts something else than samples, as weights, takes what it took. Memory is what the process
used at its most: data come in batches, so more samples take no more of it, but for what is kept of each. Workers take
no part in it.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from time import perf_counter, process_time
from types import MappingProxyType

from hqp_onnx.data.sampled import Sampling, sampled
from hqp_onnx.errors import one_line
from hqp_onnx.limits import peak_bytes
from hqp_onnx.progress import Progress, Step, Steps, in_words
from hqp_onnx.workers import active, alone

_LOG = logging.getLogger(__name__)
FEW, MORE = 1, 3  # batches
WORTH = 40  # batches, from which on a command is worth an estimate
SHARE = 0.1  # of the time that a command takes at least: an estimate of it may take no more
WORTH_SECONDS = 2.0  # that an estimate may take, to be begun
LONG_SECONDS = 20.0
LEAST = 0.005  # of all seconds: a shorter stage is not listed
REST = "all else"
JUDGED = "evaluation"
"""The stage that goes over what models are judged on."""


@dataclass(frozen=True)
class Stage:
    """A stage, how often it goes over what it counts, how many those are then, seconds, and those of the processor."""

    name: str
    passes: int
    count: int
    seconds: float
    work: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """What a command will take.

    Attributes:
        stages: in order.
        bytes: of memory, the libraries' included.
        samples: that there are, by part of the data.
        notes: what it does not know.
    """

    stages: tuple[Stage, ...]
    bytes: int
    samples: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def work(self) -> float:
        """Of the processor, likewise."""
        return sum(stage.work for stage in self.stages)


@dataclass
class Watch:
    """Progress that keeps what each stage took: the time up to a report is that of the stage that reports.

    ``paces`` are the processor's time for one sample, or what else a stage counts, in each batch but the first of a
    pass, which takes longer. From ``limit`` on, by the clock, a report raises ``TimeoutError``.
    """

    limit: float = math.inf
    seconds: dict[str, float] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    paces: dict[str, list[float]] = field(default_factory=dict)
    _done: int = 0
    _stage: str = ""
    _last: float = field(default_factory=lambda: perf_counter())
    _worked: float = field(default_factory=lambda: process_time())

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``Progress``."""
        worked = self._lap(stage)
        if stage not in self.passes or done <= self._done:
            self.passes[stage] = self.passes.get(stage, 0) + 1
        elif stage == self._stage:
            self.paces.setdefault(stage, []).append(worked / (done - self._done))
        self._stage, self._done, self.totals[stage] = stage, done, total

    def end(self) -> None:
        """The time since the last report belongs to no stage."""
        self._lap(REST)

    def _lap(self, stage: str) -> float:
        """The processor's time since the last report, which counts as that of a stage."""
        now, worked = perf_counter(), process_time()
        if now > self.limit:
            raise TimeoutError("it would take too much of the time")
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        lap = worked - self._worked
        self.work[stage] = self.work.get(stage, 0.0) + lap
        self._last, self._worked = now, worked
        return lap


Command = Callable[[Path, Progress], object]
"""Does the work, and writes into a folder."""


def forecast(command: Command, caps: Mapping[str, int] = MappingProxyType({}), seconds: float = math.inf) -> Forecast:
    """What ``command`` will take on all of its data, of which a stage takes no more than ``caps`` says.

    Raises:
        TimeoutError: the estimate itself takes longer than ``seconds``.
    """
    limit = perf_counter() + seconds
    few, one = pilot(command, FEW, limit)
    more, three = pilot(command, MORE, limit)
    stages = tuple(_stage(name, few, more, one, three, caps.get(name)) for name in more.seconds)
    return Forecast(stages, peak_bytes(), dict(three.whole))


class Foretold:
    """Progress of a command that first says what all of it will take, where it is long, and then its steps.

    How long it takes at least shows by its first batches, of ``WORTH`` or more: what is left of their stage, at their
    pace. An estimate takes a tenth of that at most, and none is begun where that is little.

    Args:
        command: does the same elsewhere, see ``forecast``.
        progress: what it reports to.
        foresee: what makes the estimate of the command in so many seconds, see ``forecast``.
    """

    def __init__(
        self, command: Command, progress: Progress, foresee: Callable[[Command, float], Forecast] | None = None
    ) -> None:
        self._command, self._foresee = command, foresee or (lambda command, seconds: forecast(command, seconds=seconds))
        self._told, self._looks = progress, True
        self._first: tuple[str, int, float] | None = None  # stage, done, when

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See ``Progress``."""
        if self._looks and 0 < WORTH * done <= total and self._first is None:
            self._first = stage, done, perf_counter()
        elif self._looks and self._first is not None and stage == self._first[0] and done > self._first[1]:
            self._looks = False
            self._tell(SHARE * (total - done) * (perf_counter() - self._first[2]) / (done - self._first[1]))
        self._told(stage, done, total)

    def _tell(self, seconds: float) -> None:
        """Estimate in so many seconds."""
        if seconds < WORTH_SECONDS:
            return
        found = foretold(lambda: self._foresee(self._command, seconds))
        if found is not None:
            expected = {each.name: each.seconds for each in found.stages}
            steps = Steps([Step(name, (name,)) for name in expected if name != REST], self._told)
            steps.expect(expected)
            self._told = steps


def foretold(foresee: Callable[[], Forecast]) -> Forecast | None:
    """An estimate, said in a line; None for what is not long, or where none can be made: no reason to stop."""
    try:
        found = foresee()
    except Exception as e:  # noqa: BLE001 - few samples may be too few for anything
        _LOG.info("how long it will take cannot be estimated: %s", one_line(e))
        return None
    if found.seconds < LONG_SECONDS:
        return None
    stages = [stage for stage in found.stages if stage.seconds >= LEAST * found.seconds and stage.name != REST]
    passes = ", ".join(
        f"{stage.name} ({stage.passes} times {in_words(stage.seconds / stage.passes)})" for stage in stages
    )
    where = "" if active() is None else "; without the workers"
    memory = f"{found.bytes / 1e6:.0f} MB of memory"
    _LOG.info("about %s and %s, by a few samples%s: %s", in_words(found.seconds), memory, where, passes)
    return found


def pilot(command: Command, batches: int, limit: float = math.inf) -> tuple[Watch, Sampling]:
    """What a command took on so many batches of its data; ``TimeoutError`` at ``limit``, by the clock."""
    with tempfile.TemporaryDirectory(prefix="hqp-") as folder, sampled(batches) as sampling, _silence(), alone():
        watch = Watch(limit)
        command(Path(folder), watch)
        watch.end()
    return watch, sampling


@contextmanager
def _silence() -> Iterator[None]:
    """What few samples give rise to is no news."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _stage(name: str, few: Watch, more: Watch, one: Sampling, three: Sampling, cap: int | None) -> Stage:
    parts = parts_of(name, three.whole)
    counts = [sum(sampling.taken[part] for part in parts) for sampling in (one, three)]
    whole = sum(three.whole[part] for part in parts)
    whole = whole if cap is None else min(whole, cap)
    total = more.totals.get(name, 0)
    counted = total != few.totals.get(name, 0) or total in three.taken.values()
    work = more.work[name]
    if counted and name in more.paces and counts[1]:
        work += median_low(more.paces[name]) * more.passes[name] * total * (whole / counts[1] - 1)
    elif counted or cap is not None or name == REST:
        work = line(counts, [few.work.get(name, 0.0), more.work[name]], whole)
    seconds = more.seconds[name] * (work / more.work[name] if more.work[name] else 1.0)
    count = round(total * whole / counts[1]) if counted and counts[1] else total
    return Stage(name, more.passes.get(name, 1), count, seconds, work)


def parts_of(stage: str, parts: Collection[str]) -> list[str]:
    """The parts of the data that a stage goes over."""
    named = [part for part in parts if stage.endswith(f" {part}")]
    judged = [part for part in parts if part == "val" and stage.startswith(JUDGED)]
    return named or judged or [part for part in ("calib", "data") if part in parts][:1]


def line(counts: list[int], seconds: list[float], at: int) -> float:
    """The line through two points, neither falling nor below 0 at 0, read at a third."""
    if counts[0] == counts[1]:
        return seconds[1]
    slope = max((seconds[1] - seconds[0]) / (counts[1] - counts[0]), 0.0)
    slope = min(slope, seconds[1] / counts[1])
    return seconds[1] + slope * (at - counts[1])
