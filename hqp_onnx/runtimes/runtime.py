"""What runs models here: onnxruntime with one of its providers, OpenVINO, or whatever else has these three methods."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.runtimes.bench import CPU
from hqp_onnx.runtimes.kernels import Kernel, onnxruntime_kernels
from hqp_onnx.runtimes.machine import Machine, thread_counts
from hqp_onnx.runtimes.nvidia import CUDA, LAUNCHES
from hqp_onnx.runtimes.openvino_session import OpenVinoSession, openvino
from hqp_onnx.runtimes.session import Runner, Session, onnxruntime, require_provider

CONFIGURATION = "ort_config"
_IN_FLOAT32 = "the CPU computes float16 models in float32: half the size, and no faster"
_IN_FLOAT = "onnxruntime's CUDA provider computes INT8 convolutions in float: INT8 on a GPU means TensorRT"
_ON_GPU = (
    "times are those of runs whose inputs and outputs stay on the GPU (IO binding), in a CUDA graph "
    "(enable_cuda_graph=1) where the model can be recorded"
)
_REMARKS = {(CPU, "fp16"): _IN_FLOAT32, (CUDA, "int8"): _IN_FLOAT}


def says_threads(configuration: str) -> bool:
    """Whether an entry of the key ``CONFIGURATION`` is one that ``Threaded.metadata`` gives, and says no more."""
    return re.fullmatch(r'\{"session_options": \{"intra_op_num_threads": \d+\}\}', configuration) is not None


class Runtime(Protocol):
    """What loads and runs models."""

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """``model`` loaded; arguments and errors as for ``session.Session``."""

    def describe(self) -> str:
        """Name and version; ``MissingRuntimeError`` says what to do where it is not installed."""

    def remarks(self, precision: str) -> tuple[str, ...]:
        """What who runs models of ``precision`` on it should not miss."""


@runtime_checkable
class Profiling(Protocol):
    """A runtime that times its kernels."""

    def kernels(self, model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int, runs: int) -> list[Kernel]:
        """In the order in which they run, none where it cannot time them; ``ModelError`` where it fails."""


@runtime_checkable
class Threaded(Protocol):
    """A runtime whose speed depends on the number of threads that it is given."""

    def thread_counts(self) -> tuple[int, ...]:
        """Numbers that are worth trying here; 0 is the runtime's own choice."""

    def metadata(self, threads: int) -> Mapping[str, str]:
        """What a model carries so that the runtime, if asked to, takes so many; empty where it reads nothing."""


@runtime_checkable
class Compiling(Protocol):
    """A runtime whose models are handed over in a file that is not ONNX."""

    suffix: str
    """Of the file, as ".tflite"."""

    def compile(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> bytes:
        """Its content, for inputs of the sizes of ``feeds``; ``ModelError`` names what has no counterpart."""

    def notes(self, model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array]) -> tuple[str, ...]:
        """What who ships that file should not miss."""


@runtime_checkable
class Calibrating(Protocol):
    """A runtime that quantizes models itself, so far as it is given samples."""

    def calibrated(self, samples: Mapping[str, Array]) -> Runtime:
        """The runtime that quantizes by these samples of the calibration data."""


@runtime_checkable
class Emulating(Protocol):
    """A runtime whose machine is emulated here, too slowly to judge candidates by: what ships is judged so again."""

    def emulator(self, file: Path) -> Runner:
        """What ``Compiling.compile`` made, loaded; errors as for ``Runtime.open``."""


@runtime_checkable
class Placing(Protocol):
    """A runtime that leaves nodes to another processor, and says which."""

    def placed(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array]
    ) -> tuple[int, tuple[tuple[str, str, str], ...]]:
        """How many nodes there are, and of those that are left, name, operator and reason; ``ModelError``."""


@runtime_checkable
class Elsewhere(Protocol):
    """A runtime whose times are those of another machine."""

    def machine(self, threads: Sequence[int], runtime: str) -> Machine:
        """That machine; see ``machine.machine``."""


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime, with an execution provider."""

    provider: str = CPU

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """A ``Session``."""
        return Session(model, outputs, self.provider, threads, spin=spin)

    def kernels(self, model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int, runs: int) -> list[Kernel]:
        """As its profiler times them; none where it times their launches alone (``nvidia``)."""
        if self.provider in LAUNCHES:
            return []
        return onnxruntime_kernels(model, feeds, self.provider, threads, runs)

    def thread_counts(self) -> tuple[int, ...]:
        """Those of the machine; other providers than the processor's have threads of their own."""
        return thread_counts() if self.provider == CPU else (0,)

    def metadata(self, threads: int) -> Mapping[str, str]:
        """What it reads where ``ORT_LOAD_CONFIG_FROM_MODEL`` is 1."""
        return {CONFIGURATION: json.dumps({"session_options": {"intra_op_num_threads": threads}})}

    def describe(self) -> str:
        """Its version, and the provider if it is not the processor's."""
        require_provider(self.provider)
        provider = "" if self.provider == CPU else f", {self.provider}"
        return f"onnxruntime {onnxruntime().__version__}{provider}"

    def remarks(self, precision: str) -> tuple[str, ...]:
        """What the provider does not do."""
        said = _REMARKS.get((self.provider, precision))
        return () if said is None else (said,)

    @property
    def timing(self) -> tuple[str, ...]:
        """What a reader of its times should know."""
        return (_ON_GPU,) if self.provider == CUDA else ()


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO, on the processor."""

    def open(
        self, model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None, threads: int, spin: bool
    ) -> Runner:
        """An ``OpenVinoSession``; its threads spin for 1 ms, whatever ``spin`` says."""
        return OpenVinoSession(model, outputs, threads=threads)

    def kernels(self, model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int, runs: int) -> list[Kernel]:
        """As its performance counters say."""
        return OpenVinoSession(model, threads=threads, profile=True).kernels(feeds, runs)

    def thread_counts(self) -> tuple[int, ...]:
        """Those of the machine."""
        return thread_counts()

    def metadata(self, threads: int) -> Mapping[str, str]:
        """None: OpenVINO takes its settings from who compiles a model."""
        return {}

    def describe(self) -> str:
        """Its version."""
        return f"OpenVINO {openvino().__version__.partition('-')[0]}"

    def remarks(self, precision: str) -> tuple[str, ...]:
        """That float16 is storage."""
        return (_IN_FLOAT32,) if precision == "fp16" else ()
