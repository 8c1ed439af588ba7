"""What a TensorRT version and a device can do.

TensorRT      INT8 without Q/DQ      typing            int8 weights behind DQ    builds
8.x           calibrator, cache      weak              refused by the parser     on the GPU
10.x          calibrator, cache      weak or strong    taken                     on the GPU
11.x          gone                   strong            taken                     on the GPU
for RTX 1.x   gone                   strong            taken                     ahead of time

Ahead of time means for compute capabilities, without a GPU. TensorRT for RTX multiplies INT8 weights in float: NVIDIA's
support matrix lists INT8 for it as weight-only.

Weakly typed networks get the builder flags INT8 and FP16 and may run any layer in them; strongly typed ones compute in
the types that the model states. Where TensorRT is installed, ``Capability.of`` asks for the classes and flags
themselves; ``of_version`` is the same for a TensorRT that is elsewhere (contract tests hold one against the other).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hqp_onnx.engine.device import Compute, Device, current_device, device_if_any
from hqp_onnx.engine.library import TENSORRT, Library
from hqp_onnx.errors import MissingRuntimeError, UsageError

OLDEST = (8, 0)
OLDEST_HERE = (8, 5)  # what Polygraphy can drive
_DLA_QDQ = (11, 4)  # the first whose DLA compiler takes Q/DQ
_COMPUTE = re.compile(r"SM(\d+)(\d)")


@dataclass(frozen=True)
class Capability:
    """What can be asked for.

    Attributes:
        version: TensorRT's major, minor, patch.
        library: which TensorRT.
        implicit: INT8 by calibrator or cache, without Q/DQ.
        weak: weakly typed networks, with precision flags.
        strong: strongly typed networks.
        int8_weights: the parser takes int8 initializers behind DequantizeLinear.
        memory_pools: a workspace limit.
        timing_cache: kernels are timed, and their times can be kept.
        version_compatible, hardware_compatible: engines for other versions and GPUs.
        refit, weight_streaming: engines whose weights can be replaced, or stay in host memory.
        ahead: compute capabilities that engines are compiled for without a GPU; none where the GPU must be there.
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
    timing_cache: bool
    version_compatible: bool
    hardware_compatible: bool
    refit: bool
    weight_streaming: bool
    dla_qdq: bool
    ahead: tuple[Compute, ...] = ()
    library: Library = TENSORRT
    dla_cores: int | None = None
    device: Device | None = None

    @classmethod
    def of(
        cls, trt: Any, dla_cores: int | None = None, device: Device | None = None, library: Library = TENSORRT
    ) -> Capability:
        """What the module ``trt`` of ``library`` offers."""
        version, ahead = parse_version(trt.__version__), _compiled_for(trt)
        strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        return cls(
            version,
            implicit=hasattr(trt, "IInt8EntropyCalibrator2"),
            weak=hasattr(trt.BuilderFlag, "INT8"),
            strong=strong,
            int8_weights=strong,  # came together, in 10.0; the parser itself cannot be asked
            memory_pools=hasattr(trt, "MemoryPoolType"),
            timing_cache=not ahead,
            version_compatible=hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE") and not ahead,  # it has the names alone
            hardware_compatible=hasattr(trt, "HardwareCompatibilityLevel") and not ahead,
            refit=hasattr(trt.BuilderFlag, "REFIT"),
            weight_streaming=hasattr(trt.BuilderFlag, "WEIGHT_STREAMING"),
            dla_qdq=version >= _DLA_QDQ and not ahead,
            ahead=ahead,
            library=library,
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
            timing_cache=True,
            version_compatible=numbers >= (8, 6),
            hardware_compatible=numbers >= (8, 6),
            refit=True,
            weight_streaming=numbers >= (10,),
            dla_qdq=numbers >= _DLA_QDQ,
        )

    @property
    def name(self) -> str:
        """For messages: ``TensorRT 10.3.0``."""
        return f"{self.library.name} {'.'.join(map(str, self.version))}"

    @property
    def weight_only(self) -> bool:
        """INT8 weights are multiplied in float."""
        return bool(self.ahead)


def detect(library: Library = TENSORRT) -> Capability:
    """What the installed ``library`` and the first GPU offer; where it compiles ahead of time, none need be there.

    Raises:
        MissingRuntimeError: no TensorRT bindings, or no GPU that they can use.
        UsageError: TensorRT is older than Polygraphy can drive.
    """
    trt = library.load()
    if _compiled_for(trt):
        return Capability.of(trt, 0, device_if_any(), library)
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
    return Capability.of(trt, cores, device, library)


def _compiled_for(trt: Any) -> tuple[Compute, ...]:
    """The compute capabilities that a builder of ``trt`` can be told to compile for."""
    if not hasattr(trt.IBuilderConfig, "set_compute_capability"):
        return ()
    found = (_COMPUTE.fullmatch(name) for name in trt.ComputeCapability.__members__)
    return tuple((int(match[1]), int(match[2])) for match in found if match)


def parse_version(text: str) -> tuple[int, int, int]:
    """Major, minor, patch of ``8.6.1``, ``10.0.0b6`` or ``10.3``; ``UsageError`` for anything else."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if numbers is None:
        raise UsageError(f"'{text}' is not a TensorRT version: expected numbers as in 8.6.1 or 10.3.0")
    return int(numbers[1]), int(numbers[2]), int(numbers[3] or 0)
