"""Qualcomm's HTP as a target: an .onnx of EPContext nodes, compiled and emulated here by onnxruntime's QNN provider.

An emulator tells nothing of times, and is too slow for a search: candidates are judged as ``context.stand_in`` computes
them, and what ships by the emulator, on as many samples as there is time for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.runtimes.qnn.chips import Chip
from hqp_onnx.runtimes.qnn.context import SUFFIX, HtpSession, compiled, hold, is_context, qnn_version, stand_in
from hqp_onnx.runtimes.session import Runner, onnxruntime

_NAMED = 5  # nodes


@dataclass(frozen=True)
class Qnn:
    """onnxruntime's QNN provider, for one chip."""

    chip: Chip
    suffix: str = SUFFIX

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """A context, emulated; any other model as onnxruntime computes it (``stand_in``)."""
        qnn_version()
        if not isinstance(model, bytes) and is_context(model):
            content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
            return HtpSession(content, self.chip)
        return stand_in(model, outputs, threads, spin)

    def compile(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> bytes:
        """The context, held to onnxruntime on a sample; see ``runtime.Compiling``."""
        made = compiled(model, feeds, self.chip)
        hold(model, made, feeds, self.chip)
        return made.content

    def notes(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> tuple[str, ...]:
        """How much of the model is in the context, and what is left to the CPU; see ``runtime.Compiling``."""
        made = compiled(model, feeds, self.chip)
        ends, others = ([node for node in made.left if node.end is end] for end in (True, False))
        share = f"{made.nodes - len(made.left)} of {made.nodes} nodes are in the context for {self.chip}"
        if ends:
            share += f"; conversions of inputs and outputs that are left to the CPU: {len(ends)}"
        if not others:
            return (share,)
        listed = ", ".join(f"{node.operator} '{node.name}' ({node.reason})" for node in others[:_NAMED])
        more = f", and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return share, f"left to the CPU in the middle of the model: {listed}{more}"

    def placed(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array]
    ) -> tuple[int, tuple[tuple[str, str, str], ...]]:
        """See ``runtime.Placing``."""
        made = compiled(model, feeds, self.chip)
        return made.nodes, tuple((node.name, node.operator, node.reason) for node in made.left)

    def emulator(self, file: Path) -> Runner:
        """See ``runtime.Emulating``."""
        return HtpSession(file.read_bytes(), self.chip)

    def describe(self) -> str:
        """Versions and chip."""
        return f"onnxruntime {onnxruntime().__version__} and onnxruntime-qnn {qnn_version()} for {self.chip}"

    def remarks(self, precision: str) -> tuple[str, ...]:
        """None."""
        return ()
