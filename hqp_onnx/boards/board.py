"""A runtime on a board: models are timed there, and run here.

``on_board`` puts it in place of a target's own runtime. Sessions that it opens compute here, as the target's would;
their stopwatch is the board's. Threads, kernels and what widths cost are the board's, too.
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.boards import ssh  # noqa: F401 - registers its scheme
from hqp_onnx.boards.link import Link
from hqp_onnx.boards.memory import recalled
from hqp_onnx.boards.transport import Transport, transport_of
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.files import sha256, sha256_of
from hqp_onnx.runtimes import bench
from hqp_onnx.runtimes.external_data import weight_bytes
from hqp_onnx.runtimes.kernels import Kernel, kernels_of
from hqp_onnx.runtimes.machine import Machine, counts_below, named_threads, saturates_with
from hqp_onnx.runtimes.nvidia import LAUNCHES
from hqp_onnx.runtimes.runtime import OnnxRuntime, Runtime
from hqp_onnx.runtimes.session import BYTES_LIMIT, Runner, TensorSpec
from hqp_onnx.runtimes.stopwatch import Stopwatch
from hqp_onnx.runtimes.targets import Target, target

T = TypeVar("T")
_ENERGY_SECONDS = 2.0


@dataclass(frozen=True)
class Facts:
    """What the script says of the board; ``state`` tells apart boards, and settings of their clocks."""

    onnxruntime: str
    python: str
    system: str
    machine: str
    processor: str
    cores: int
    flags: tuple[str, ...]
    state: tuple[Any, ...]


class Board:
    """A board that was found to have what it needs.

    Args:
        transport: the way to it.
        provider: onnxruntime's execution provider there.

    Raises:
        BoardError: it cannot be reached, or lacks something.
    """

    def __init__(self, transport: Transport, provider: str) -> None:
        self.link, self.provider, self.name = Link(transport), provider, transport.name
        try:
            self.facts = msgspec.convert(self.link.ask("facts", provider=provider), Facts)
        except BaseException:
            self.link.close()
            raise

    @cached_property
    def identity(self) -> str:
        """Of the board, its runtime and the script."""
        return sha256_of(repr(self.facts), self.provider, sha256(Path(bench.__file__)))

    def inputs(self, feeds: Mapping[str, Array]) -> str:
        """The name of a file of inputs, their names first; the same inputs have the same."""
        arrays = [x.astype(str) if x.dtype == object else x for x in map(np.asarray, feeds.values())]
        content = io.BytesIO()
        np.savez(content, np.array([*feeds]), *arrays)
        return self.link.add(content.getvalue())


class BoardRunner:
    """A model that runs here, opened when it is first run, and is timed on a board."""

    def __init__(
        self, board: Board, model: onnx.ModelProto | bytes | Path, threads: int, spin: bool, here: Callable[[], Runner]
    ) -> None:
        self._board, self._model, self._threads, self._spin, self._open = board, model, threads, spin, here

    @cached_property
    def _here(self) -> Runner:
        return self._open()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self._here.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` gives, in this order."""
        return self._here.outputs

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where the first dimension is dynamic."""
        return self._here.batch

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, computed here."""
        return self._here.run(feeds)

    def stopwatch(self, feeds: Mapping[str, Array]) -> Stopwatch:
        """Of runs on the board."""
        of, link = self._of(feeds), self._board.link

        def watch(settle: float, seconds: float, fewest: int, most: int, rest: bool = False) -> list[float]:
            found: list[float] = link.ask(
                "turn", of=of, settle=settle, seconds=seconds, fewest=fewest, most=most, rest=rest
            )
            return found

        watch(0, 0, 1, 1)  # opens it
        return watch

    def kernels(self, feeds: Mapping[str, Array], runs: int) -> list[Kernel]:
        """As onnxruntime's profiler times them on the board."""
        of = self._of(feeds)
        found = self.remembered(
            [self], feeds, f"kernels in {runs} runs", lambda: self._board.link.ask("profile", of=of, runs=runs)
        )
        return kernels_of({name: (times, shapes) for name, times, shapes in found}, runs)

    def energy(self, feeds: Mapping[str, Array]) -> float | None:
        """Joules of a run on the board; None where nothing there says it."""
        of = self._of(feeds)
        found = self.remembered(
            [self],
            feeds,
            f"energy, {_ENERGY_SECONDS:g} s",
            lambda: self._board.link.ask("energy", of=of, seconds=_ENERGY_SECONDS),
        )
        joules: float | None = found["joules"]
        return joules

    def remembered(self, beside: Sequence[Runner], feeds: Mapping[str, Array], what: str, make: Callable[[], T]) -> T:
        """See ``stopwatch.Away``."""
        ways = [runner.way for runner in beside if isinstance(runner, BoardRunner)]
        return recalled(self._board.identity, [what, ways, self._board.inputs(feeds)], make)

    def _of(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        return {**self.way, "feeds": self._board.inputs(feeds), "provider": self._board.provider}

    @cached_property
    def way(self) -> dict[str, Any]:
        """The name of the model's file, and how it is run."""
        name = self._board.link.add(_content(self._model))
        weakref.finalize(self, self._board.link.forget, name)
        return {"model": name, "threads": self._threads, "spin": self._spin}


@dataclass(frozen=True)
class OnBoard:
    """See the module; ``here`` is the target's own runtime."""

    here: Runtime
    board: Board

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """A ``BoardRunner``; one of the target's own where only some ``outputs`` are asked for."""
        here = partial(self.here.open, model, outputs, threads, spin)
        return BoardRunner(self.board, model, threads, spin, here) if outputs is None else here()

    def kernels(self, model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int, runs: int) -> list[Kernel]:
        """As the board's profiler times them; none where it times their launches alone."""
        if self.board.provider in LAUNCHES:
            return []
        here = partial(self.here.open, model, None, threads, False)
        return BoardRunner(self.board, model, threads, False, here).kernels(feeds, runs)

    def thread_counts(self) -> tuple[int, ...]:
        """Those that are worth trying on the board."""
        return counts_below(self.board.facts.cores) if self.board.provider == bench.CPU else (0,)

    def metadata(self, threads: int) -> Mapping[str, str]:
        """As of the runtime here."""
        return OnnxRuntime(self.board.provider).metadata(threads)

    def describe(self) -> str:
        """The board's runtime and the board, then what computes here."""
        facts = self.board.facts
        provider = "" if self.board.provider == bench.CPU else f", {self.board.provider}"
        return f"onnxruntime {facts.onnxruntime}{provider} on {self.board.name} ({self._hardware})"

    def remarks(self, precision: str) -> tuple[str, ...]:
        """As of the runtime here."""
        return self.here.remarks(precision)

    @property
    def timing(self) -> tuple[str, ...]:
        """Where times come from."""
        return (f"times are of {self.board.name}; all else was computed here, by {self.here.describe()}",)

    def machine(self, threads: Sequence[int], runtime: str) -> Machine:
        """The board."""
        facts = self.board.facts
        return Machine(facts.system, self._hardware, runtime, named_threads(threads), facts.onnxruntime, facts.python)

    @property
    def _hardware(self) -> str:
        cores = self.board.facts.cores
        return f"{self.board.facts.processor}, {cores} core{'s' * (cores > 1)}"


@cache
def board_of(device: str, provider: str) -> Board:
    """The board of an address: one for the whole process, since it answers one at a time; errors as for ``Board``."""
    return Board(transport_of(device), provider)


def target_on(name: str, device: str | None) -> Target:
    """The target called ``name``, on a board if one is named.

    Raises:
        UsageError: no such target, or none that the script knows how to time; or ``device`` makes no sense.
        BoardError: the board cannot be reached, or lacks something.
    """
    if device is None:
        return target(name)
    found = target(name)
    if not isinstance(found.runtime, OnnxRuntime) or found.stand_in:
        raise UsageError(
            f"{{--device}} with {{--target}} {name}: a board times models by onnxruntime alone. Expected onnxruntime, "
            "cuda or onnxruntime:NAMEExecutionProvider"
        )
    board = board_of(device, found.runtime.provider)
    facts = board.facts
    found = target(name, saturating=saturates_with(facts.machine, facts.flags))
    return replace(found, runtime=OnBoard(found.runtime, board))


def _content(model: onnx.ModelProto | bytes | Path) -> bytes:
    """Of one file, weights included."""
    if isinstance(model, Path):
        model = onnx.load(model)
    if isinstance(model, bytes):
        return model
    if weight_bytes(model) >= BYTES_LIMIT:
        raise ModelError("a model of 2 GB or more is not sent to a board")
    content: bytes = model.SerializeToString(deterministic=True)
    return content
