"""Ethos-U as a target: models are judged by LiteRT, here, and take what Vela estimates.

The NPU computes in integers alone, so a model in float takes what it would take in INT8 of any scales.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.runtimes.around import Around
from hqp_onnx.runtimes.ethos.vela import Chip, Estimate, estimate, vela_version
from hqp_onnx.runtimes.kernels import Kernel, Shape
from hqp_onnx.runtimes.litert.library import schema, version
from hqp_onnx.runtimes.litert.session import SUFFIX, LiteRtSession, compiled
from hqp_onnx.runtimes.machine import Machine
from hqp_onnx.runtimes.session import Runner, onnxruntime
from hqp_onnx.runtimes.stopwatch import Stopwatch

T = TypeVar("T")
_NAMED = 5  # operators


class EthosRunner(Around):
    """A model that is run here by LiteRT, and takes what Vela estimates."""

    def __init__(self, chip: Chip, model: onnx.ModelProto | bytes | Path, here: LiteRtSession) -> None:
        super().__init__(here)
        self._chip, self._model = chip, model

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, computed here."""
        return self._session.run(feeds)

    def stopwatch(self, feeds: Mapping[str, Array]) -> Stopwatch:
        """Which always says the estimate."""
        taken = estimated(self._model, feeds, self._chip).seconds

        def watch(settle: float, seconds: float, fewest: int, most: int, rest: bool = False) -> list[float]:
            return [taken] * fewest

        return watch

    def remembered(self, beside: Sequence[Runner], feeds: Mapping[str, Array], what: str, make: Callable[[], T]) -> T:
        """See ``stopwatch.Away``; estimates are not dear."""
        return make()


@dataclass(frozen=True)
class EthosU:
    """LiteRT here, and Vela for one chip."""

    chip: Chip
    suffix: str = SUFFIX

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """An ``EthosRunner``."""
        return EthosRunner(self.chip, model, LiteRtSession(model, outputs, threads, lookups=True))

    def kernels(self, model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int, runs: int) -> list[Kernel]:
        """One for each row of Vela's that is on the NPU."""
        content = compiled(model, feeds, lookups=True, assume=True)
        found = estimate(content, self.chip)
        shapes = _shapes(content, {row.name for row in found.rows})
        return [
            Kernel((row.name,), _of(row.name, shapes), row.cycles / found.clock) for row in found.rows if row.on_npu
        ]

    def compile(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> bytes:
        """The .tflite file as Vela has compiled it; see ``runtime.Compiling``."""
        return estimate(compiled(model, feeds, lookups=True), self.chip).content

    def notes(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> tuple[str, ...]:
        """Cycles, what is left to the CPU, and which rows of Vela's cannot be right; see ``runtime.Compiling``."""
        found = estimate(compiled(model, feeds, lookups=True), self.chip)
        return (
            f"{found.cycles} cycles of the NPU at {found.clock / 1e6:g} MHz, as Vela estimates",
            *_left(found),
            *(f"Vela's estimate cannot be right: {words}" for words in found.implausible(self.chip)),
        )

    def placed(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array]
    ) -> tuple[int, tuple[tuple[str, str, str], ...]]:
        """Rows of Vela's, of a float model as if it were in INT8; see ``runtime.Placing``."""
        rows = estimated(model, feeds, self.chip).rows
        return len(rows), tuple((row.name, row.operator, row.reason) for row in rows if not row.on_npu)

    def describe(self) -> str:
        """Versions and chip."""
        return f"LiteRT {version()}, times by Vela {vela_version()} for {self._words}"

    def remarks(self, precision: str) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def timing(self) -> tuple[str, ...]:
        """Where times come from."""
        return (
            "times are Vela's estimates of the NPU's cycles, without those of the CPU beside it; what is in float is "
            "taken as if it were in INT8",
        )

    def machine(self, threads: Sequence[int], runtime: str) -> Machine:
        """The chip."""
        return Machine("no system", self._words, runtime, "1", onnxruntime().__version__, platform.python_version())

    @property
    def _words(self) -> str:
        return f"{self.chip.accelerator} ({self.chip.system}, {self.chip.memory})"


def estimated(model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array], chip: Chip) -> Estimate:
    """Vela's estimate of a model, of a float model as if it were in INT8."""
    if isinstance(model, Path) and model.suffix == SUFFIX:
        return estimate(model.read_bytes(), chip)
    return estimate(compiled(model, feeds, lookups=True, assume=True), chip)


def _left(found: Estimate) -> tuple[str, ...]:
    """What is left to the CPU, in words."""
    rows = [row for row in found.rows if not row.on_npu]
    if not rows:
        return ()
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(row.operator for row in rows).items()))
    listed = ", ".join(f"'{row.name}'" for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
    return (f"left to the CPU beside the NPU, whose time is not known: {counts} ({listed})",)


def _shapes(content: bytes, named: Collection[str]) -> dict[str, tuple[Shape, ...]]:
    """Shapes of what each operator reads and writes, by the tensor that it writes.

    What makes a tensor that no row is ``named`` after is fused with what reads it: its shapes are counted there.
    """
    graph = schema().ModelT.InitFromPackedBuf(content).subgraphs[0]
    found: dict[str, tuple[Shape, ...]] = {}
    for operator in graph.operators:
        tensors = [graph.tensors[n] for n in (*operator.inputs, *operator.outputs) if n >= 0]
        names = [tensor.name.decode() for tensor in tensors]
        fused = (shape for name in names[:-1] if name not in named for shape in found.get(name, ()))
        found[names[-1]] = (*fused, *(tuple(map(int, tensor.shape)) for tensor in tensors))
    return found


def _of(name: str, shapes: Mapping[str, tuple[Shape, ...]]) -> tuple[Shape, ...]:
    """The shapes of the operator whose name Vela has lengthened, as it does where it makes two of one."""
    while name and name not in shapes:
        name = name[: max(name.rfind(mark) for mark in "_/") if any(mark in name for mark in "_/") else 0]
    return shapes.get(name, ())
