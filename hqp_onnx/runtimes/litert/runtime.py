"""LiteRT as what runs models: ``.tflite`` files on the processor, by XNNPACK where it has a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.runtimes.litert.library import version
from hqp_onnx.runtimes.litert.session import SUFFIX, LiteRtSession, compiled
from hqp_onnx.runtimes.machine import cores, counts_below
from hqp_onnx.runtimes.session import Runner

_IN_FLOAT32 = "float16 weights are stored as float32 in .tflite files here: no smaller, and no faster"


@dataclass(frozen=True)
class LiteRt:
    """LiteRT's interpreter, on the processor."""

    suffix: str = SUFFIX

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """A ``LiteRtSession``; its threads sleep between runs, whatever ``spin`` says."""
        return LiteRtSession(model, outputs, threads)

    def compile(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> bytes:
        """The .tflite file; see ``runtime.Compiling``."""
        return compiled(model, feeds)

    def notes(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> tuple[str, ...]:
        """None."""
        return ()

    def thread_counts(self) -> tuple[int, ...]:
        """1, 2, 4, ... and all cores: left alone, the interpreter takes one."""
        return tuple(count or cores() for count in counts_below(cores()))

    def metadata(self, threads: int) -> Mapping[str, str]:
        """None: who runs a file says how many threads it takes."""
        return {}

    def describe(self) -> str:
        """Its version."""
        return f"LiteRT {version()}"

    def remarks(self, precision: str) -> tuple[str, ...]:
        """That float16 gains nothing."""
        return (_IN_FLOAT32,) if precision == "fp16" else ()
