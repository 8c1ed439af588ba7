"""How runs of a loaded model are timed: here, or where the model really runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from hqp_onnx.arrays import Array
from hqp_onnx.runtimes.bench import timed
from hqp_onnx.runtimes.session import Runner, timed_run

T = TypeVar("T")


class Stopwatch(Protocol):
    """Times runs of one model on one input."""

    def __call__(self, settle: float, seconds: float, fewest: int, most: int, rest: bool = False) -> list[float]:
        """Seconds of each run, see ``bench.timed``; ``ModelError`` where the runtime fails."""


@runtime_checkable
class Away(Protocol):
    """A runner whose model is timed on another machine, while ``run`` computes here."""

    def stopwatch(self, feeds: Mapping[str, Array]) -> Stopwatch:
        """Of runs of ``feeds`` there."""

    def remembered(self, beside: Sequence[Runner], feeds: Mapping[str, Array], what: str, make: Callable[[], T]) -> T:
        """The JSON value that ``make`` measures of it and of what is timed beside it, or measured before."""


def stopwatch(runner: Runner, feeds: Mapping[str, Array]) -> Stopwatch:
    """Of runs of ``feeds``, without copies to and from a device where ``runner`` can do without."""
    return runner.stopwatch(feeds) if isinstance(runner, Away) else partial(timed, timed_run(runner, feeds))


def remembered(runners: Sequence[Runner], feeds: Mapping[str, Array], what: str, make: Callable[[], T]) -> T:
    """What ``make`` measures, a JSON value; of models that are timed elsewhere, what it measured there before."""
    first = next(iter(runners), None)
    return first.remembered(runners, feeds, what, make) if isinstance(first, Away) else make()
