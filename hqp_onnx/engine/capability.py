"""What a TensorRT version and a device can do.

TensorRT      INT8 without Q/DQ      typing            int8 weights behind DQ
8.x           calibrator, cache      weak              refused by the parser
10.x          calibrator, cache      weak or strong    taken
11.x          gone                   strong            taken

Weakly typed networks get the builder flags INT8 and FP16 and may run any layer in them; strongly typed ones compute in
the types that the model states. Where TensorRT is installed, ``Capability.of`` asks for the classes and flags
themselves; ``of_version`` is the same for a TensorRT that is elsewhere (contract tests hold one against the other).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hqp_onnx.engine.device import Device, current_device
from hqp_onnx.errors import MissingRuntimeError, UsageError

OLDEST = (8, 0)
OLDEST_HERE = (8, 5)  # what Polygraphy can drive
_DLA_QDQ = (11, 4)  # the first whose DLA compiler takes Q/DQ


def tensorrt() -> Any:
    """The tensorrt module; ``MissingRuntimeError`` says what to do where it is not installed."""
    try:
        import tensorrt as trt
    except ImportError as e:
        raise MissingRuntimeError(
            "TensorRT's Python bindings are not installed for this Python: pip install 'hqp-onnx[tensorrt]' (on a "
            "Jetson: a venv with --system-site-packages), or prepare the build elsewhere with {--elsewhere} VERSION"
        ) from e
    return trt


@dataclass(frozen=True)
class Capability:
    """What can be asked for.

    Attributes:
        version: TensorRT's major, minor, patch.
        implicit: INT8 by calibrator or cache, without Q/DQ.
        weak: weakly typed networks, with precision flags.
        strong: strongly typed networks.
        int8_weights: the parser takes int8 initializers behind DequantizeLinear.
        memory_pools: a workspace limit.
        version_compatible, hardware_compatible: engines for other versions and GPUs.
        dla_qdq: the DLA takes Q/DQ.
        dla_cores: DLA cores of the device; None for a device that is elsewhere.
        device: the GPU; None for one that is elsewhere, which is trusted to have what is asked for.
    """

    version: tuple[int, int, int]
    implicit: bool
    weak: bool
    strong: bool
    int8_weights: bool
    memory_pools: bool
    version_compatible: bool
    hardware_compatible: bool
    dla_qdq: bool
    dla_cores: int | None = None
    device: Device | None = None

    @classmethod
    def of(cls, trt: Any, dla_cores: int | None = None, device: Device | None = None) -> Capability:
        """What the module ``trt`` offers."""
        version = parse_version(trt.__version__)
        strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        return cls(
            version,
            implicit=hasattr(trt, "IInt8EntropyCalibrator2"),
            weak=hasattr(trt.BuilderFlag, "INT8"),
            strong=strong,
            int8_weights=strong,  # came together, in 10.0; the parser itself cannot be asked
            memory_pools=hasattr(trt, "MemoryPoolType"),
            version_compatible=hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"),
            hardware_compatible=hasattr(trt, "HardwareCompatibilityLevel"),
            dla_qdq=version >= _DLA_QDQ,
            dla_cores=dla_cores,
            device=device,
        )

    @classmethod
    def of_version(cls, version: str) -> Capability:
        """What TensorRT ``version``, as ``8.6.1``, offers on a device that has all that is asked for.

        Raises:
            UsageError: not a version, or before 8.0.
        """
        numbers = parse_version(version)
        if numbers < OLDEST:
            raise UsageError(f"TensorRT {version} is too old: expected 8.0 or later, which takes Q/DQ")
        return cls(
            numbers,
            implicit=numbers < (11,),
            weak=numbers < (11,),
            strong=numbers >= (10,),
            int8_weights=numbers >= (10,),
            memory_pools=numbers >= (8, 4),
            version_compatible=numbers >= (8, 6),
            hardware_compatible=numbers >= (8, 6),
            dla_qdq=numbers >= _DLA_QDQ,
        )

    @property
    def name(self) -> str:
        """For messages: ``TensorRT 10.3.0``."""
        return f"TensorRT {'.'.join(map(str, self.version))}"


def detect() -> Capability:
    """What the installed TensorRT and the first GPU offer.

    Raises:
        MissingRuntimeError: no TensorRT bindings, or no GPU that they can use.
        UsageError: TensorRT is older than Polygraphy can drive.
    """
    trt = tensorrt()
    if parse_version(trt.__version__) < OLDEST_HERE:
        raise UsageError(
            f"TensorRT {trt.__version__} is too old to be driven from here: expected 8.5 or later. Prepare the build "
            f"with {{--elsewhere}} {trt.__version__}, and run trtexec"
        )
    device = current_device()
    try:
        cores = trt.Builder(trt.Logger(trt.Logger.ERROR)).num_DLA_cores
    except (TypeError, RuntimeError) as e:
        raise MissingRuntimeError(f"TensorRT {trt.__version__} finds no usable GPU: {e}") from e
    return Capability.of(trt, cores, device)


def parse_version(text: str) -> tuple[int, int, int]:
    """Major, minor, patch of ``8.6.1``, ``10.0.0b6`` or ``10.3``; ``UsageError`` for anything else."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if numbers is None:
        raise UsageError(f"'{text}' is not a TensorRT version: expected numbers as in 8.6.1 or 10.3.0")
    return int(numbers[1]), int(numbers[2]), int(numbers[3] or 0)
