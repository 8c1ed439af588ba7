"""What ``hqp build`` is asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from hqp_onnx.boundary import require_types
from hqp_onnx.data.reading import Data
from hqp_onnx.engine.gpus import compute_capabilities
from hqp_onnx.engine.library import TENSORRT, Library, installed, library
from hqp_onnx.engine.plan import PATHS, PRECISIONS, SCALES, Request
from hqp_onnx.errors import UsageError


@dataclass(frozen=True)
class BuildOptions:
    """What ``build`` is asked for.

    Attributes:
        model: the float model, or one with Q/DQ pairs.
        output: the engine; OUTPUT.json says how it was built.
        data: calibration data, for INT8 or FP8 of a float model.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        target: tensorrt or tensorrt-rtx; None takes what is installed, tensorrt first.
        precision: int8, fp8, fp16 or fp32; None takes that of the model's Q/DQ, int8 with data where the GPU has it,
            else fp16.
        for_gpu: GPUs that TensorRT for RTX compiles for, see ``gpus``; none for all from Ampere on.
        calibration: how ranges are chosen.
        calibration_cache: scales of the implicit path: read if it exists, else written.
        shapes: of inputs, as x:1x3x224x224,8x3x224x224,32x3x224x224 (least, best, most).
        timing_cache: TensorRT's tactic timings, read and extended.
        workspace: limit of TensorRT's scratch memory, in MiB.
        dla: core of a deep-learning accelerator; what it cannot run goes to the GPU.
        hardware_compatible: the engine loads on other GPUs from Ampere on.
        version_compatible: the engine loads in later versions of TensorRT.
        refit: the weights of the engine can be replaced.
        weight_streaming: weights may stay in host memory, for models that are larger than the GPU's.
        path: implicit (ranges) or explicit (Q/DQ); None takes what the version knows.
        scales: of the implicit path: own (KL ranges) or tensorrt (its calibrator).
        strongly_typed: types as the model states them.
        elsewhere: version of the TensorRT that a script for another machine is for; None builds here.
        device: board that builds it with its own trtexec, as ssh://USER@HOST.

    Raises:
        UsageError: a value that makes no sense.
    """

    model: Path
    output: Path
    data: Data | None = None
    preprocess: str | Path | None = None
    precision: str | None = None
    calibration: str = "entropy"
    calibration_cache: Path | None = None
    shapes: tuple[str, ...] = ()
    timing_cache: Path | None = None
    workspace: int | None = None
    dla: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    path: str | None = None
    scales: str | None = None
    strongly_typed: bool = False
    elsewhere: str | None = None
    target: str | None = None
    for_gpu: tuple[str, ...] = ()
    refit: bool = False
    weight_streaming: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        require_types(vars(self), get_type_hints(BuildOptions))
        for name in ("model", "output", "calibration_cache", "timing_cache"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        for name in ("shapes", "for_gpu"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        compute_capabilities(self.for_gpu)
        if self.elsewhere is not None and self.library is not TENSORRT:
            raise UsageError(
                f"{{--elsewhere}} {self.elsewhere}: engines of {self.library.name} are built here, without their GPU. "
                "Use {--for_gpu}"
            )
        if self.device is not None and (self.elsewhere is not None or self.library is not TENSORRT):
            other = "{--target} and {--for_gpu}" if self.elsewhere is None else "{--elsewhere}"
            raise UsageError(
                f"{{--device}} {self.device}: the board builds with the TensorRT it has. Leave out {other}"
            )
        for option, value, known in (
            ("{--precision}", self.precision, (None, *PRECISIONS)),
            ("{--path}", self.path, (None, *PATHS)),
            ("{--scales}", self.scales, (None, *SCALES)),
        ):
            if value not in known:
                raise UsageError(f"{option} {value}: expected one of {', '.join(k for k in known if k)}")
        for option, number, least in (("{--workspace}", self.workspace, 1), ("{--dla}", self.dla, 0)):
            if number is not None and number < least:
                raise UsageError(f"{option} {number}: expected {least} or more")

    @property
    def library(self) -> Library:
        """The TensorRT that builds."""
        if self.target is not None:
            return library(self.target)
        return TENSORRT if self.elsewhere is not None or self.device is not None else installed() or TENSORRT

    def request(self, quantized: bool, float8: bool = False) -> Request:
        """The part that decides the plan, with what the model's Q/DQ are."""
        cache = self.calibration_cache
        return Request(
            precision=self.precision,
            path=self.path,
            scales=self.scales,
            strongly_typed=self.strongly_typed,
            quantized=quantized,
            float8=float8,
            data=self.data is not None,
            method=self.calibration,
            cache_named=cache is not None,
            cache=cache is not None and cache.is_file() and cache.stat().st_size > 0,
            dla=self.dla,
            version_compatible=self.version_compatible,
            hardware_compatible=self.hardware_compatible,
            refit=self.refit,
            weight_streaming=self.weight_streaming,
            timing_cache=self.timing_cache is not None,
            for_gpu=compute_capabilities(self.for_gpu),
        )
