"""Models in the runtime of a target, and what its users should know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import onnx

from hqp_onnx.errors import UsageError
from hqp_onnx.runtimes.external_data import read_apart
from hqp_onnx.runtimes.machine import Machine, machine
from hqp_onnx.runtimes.runtime import Elsewhere, Threaded
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.workers import active


@dataclass(frozen=True, eq=False)
class Opening:
    """How a runner was opened, so that another process can open the same."""

    model: onnx.ModelProto | bytes | Path
    target: Target

    def __call__(self, threads: int) -> Runner:
        """Opened, to be judged and not timed."""
        return open_runner(self.model, self.target, threads=threads)

    @classmethod
    def of(cls, runner: Runner) -> Opening | None:
        """How ``runner`` was opened while workers are in use, its file read; None where that is not known."""
        known = None
        with suppress(TypeError):  # a runner of other people, which cannot be a key
            known = None if active() is None else _OPENINGS.get(runner)
        if known is None or not isinstance(known.model, Path):
            return known
        if known.model.suffix != ".onnx":
            return None
        model = onnx.load(known.model, load_external_data=False)
        read_apart(model, known.model)
        return replace(known, model=model)


_OPENINGS: WeakKeyDictionary[Runner, Opening] = WeakKeyDictionary()  # while workers are in use


def open_runner(
    model: onnx.ModelProto | bytes | Path,
    target: Target,
    outputs: Sequence[str] | None = None,
    threads: int = 0,
    spin: bool = True,
) -> Runner:
    """``model`` loaded in the runtime of ``target``; arguments and errors as for ``session.Session``."""
    runner = target.runtime.open(model, outputs, threads, spin)
    if active() is not None and outputs is None:
        here = getattr(target.runtime, "here", target.runtime)  # of a board
        with suppress(TypeError):
            _OPENINGS[runner] = Opening(model, replace(target, runtime=here))
    return runner


def thread_counts(target: Target, asked: int = 0) -> tuple[int, ...]:
    """Numbers of threads to try on ``target``: those that are worth it, or the one that was asked for."""
    if asked or not isinstance(target.runtime, Threaded):
        return (asked,)
    return target.runtime.thread_counts()


def thread_metadata(target: Target, threads: int) -> Mapping[str, str]:
    """What a model carries so that it runs on so many threads; see ``Threaded.metadata``."""
    return target.runtime.metadata(threads) if isinstance(target.runtime, Threaded) else {}


def runtime_name(target: Target) -> str:
    """The runtime that ``target`` is measured on, with its version.

    Raises:
        MissingRuntimeError: it is not installed; the message says what is, and what to do.
    """
    return target.runtime.describe()


def measured_on(target: Target, threads: int) -> Machine:
    """What times on ``target`` are of, where so many ``threads`` were asked for."""
    counts, runtime = thread_counts(target, threads), runtime_name(target)
    if isinstance(target.runtime, Elsewhere):
        return target.runtime.machine(counts, runtime)
    return machine(counts, runtime)


def require_timed(target: Target) -> None:
    """Raise ``UsageError`` where no time of the target can be had here."""
    if target.counted:
        raise UsageError(
            f"{{--target}} {target.name}: an emulator tells nothing of times, and there are no others here"
        )


def stand_in(target: Target) -> tuple[str, ...]:
    """What a reader of measurements should know where they are not of the target's own runtime."""
    return (target.stand_in,) if target.stand_in else ()


def timing(target: Target) -> tuple[str, ...]:
    """What a reader of times measured on ``target`` should know: its runtime's ``timing``, if it has any."""
    return tuple(getattr(target.runtime, "timing", ()))


def remarks(target: Target, precision: str) -> tuple[str, ...]:
    """What a user of ``precision`` on ``target`` should not miss."""
    return target.runtime.remarks(precision)
