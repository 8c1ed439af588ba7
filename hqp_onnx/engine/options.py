"""What ``hqp build`` is asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hqp_onnx.engine.plan import PATHS, PRECISIONS, SCALES, Request
from hqp_onnx.errors import UsageError


@dataclass(frozen=True)
class BuildOptions:
    """What ``hqp build`` is asked for; the command's help describes each field. ``elsewhere`` is ``--for``."""

    model: Path
    output: Path
    data: str | None = None
    preprocess: Path | None = None
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

    def __post_init__(self) -> None:
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

    def request(self, quantized: bool) -> Request:
        """The part that decides the plan."""
        cache = self.calibration_cache
        return Request(
            precision=self.precision,
            path=self.path,
            scales=self.scales,
            strongly_typed=self.strongly_typed,
            quantized=quantized,
            data=self.data is not None,
            method=self.calibration,
            cache_named=cache is not None,
            cache=cache is not None and cache.is_file() and cache.stat().st_size > 0,
            dla=self.dla,
            version_compatible=self.version_compatible,
            hardware_compatible=self.hardware_compatible,
        )
