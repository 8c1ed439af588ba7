"""What ``model.engine.json`` says beside an engine, or beside the script that builds one elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hqp_onnx.markup import Table, table


@dataclass(frozen=True)
class ShapeRange:
    """Shapes of one input: the smallest, the one to be fastest at, the largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class BuiltOn:
    """A GPU, and its compute capability as 8.7."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class OnBoard:
    """An engine on the board that built it.

    Attributes:
        name: of the board.
        batch: samples of a run.
        median_ms, p99_ms: of a run on its GPU, as trtexec measured them.
        throughput: samples per second.
        joules: of a sample; null where nothing reads the power.
        meter: what read it: tegrastats or NVML.
    """

    name: str
    batch: int
    median_ms: float
    p99_ms: float
    throughput: float
    joules: float | None
    meter: str


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """How an engine was built, or prepared for another machine.

    Attributes:
        model, model_sha256: what was given.
        engine: the name of its file.
        library: which TensorRT, in words.
        tensorrt: the version of the machine that builds.
        for_gpu: compute capabilities that it was compiled for; none for what its TensorRT takes by itself.
        built: whether it was built, here or on a board, on ``device``; its ``bytes``, of which ``weights_bytes`` are
            weights, and its ``layers``, as TensorRT describes them: on a GPU of this machine only.
        precision, path, scales, strongly_typed, flags, float_weights: see ``plan.Plan``.
        float16_model: whether the model itself was converted.
        calibration, calibration_cache, workspace_mib, dla, version_compatible, hardware_compatible, refit,
            weight_streaming: as asked for.
        shapes: by input.
        seconds: that the whole build took.
        notes: what the user should know.
        warnings, verified: of the model for another machine, see ``evaluation.verification``.
        board: that built and timed it; null for this machine.
    """

    model: str
    model_sha256: str
    engine: str
    tensorrt: str
    built: bool
    device: BuiltOn | None
    precision: str
    path: str | None
    scales: str | None
    strongly_typed: bool
    flags: tuple[str, ...]
    float_weights: bool
    float16_model: bool
    calibration: str | None
    calibration_cache: str | None
    shapes: Mapping[str, ShapeRange]
    workspace_mib: int | None
    dla: int | None
    version_compatible: bool
    hardware_compatible: bool
    seconds: float
    notes: tuple[str, ...]
    library: str = "TensorRT"
    for_gpu: tuple[str, ...] = ()
    refit: bool = False
    weight_streaming: bool = False
    bytes: int | None = None
    weights_bytes: int | None = None
    layers: tuple[Any, ...] | None = None
    warnings: tuple[str, ...] = ()
    verified: Mapping[str, Any] | None = None
    board: OnBoard | None = None

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        where = "prepared for another machine" if self.device is None else f"built on {self.device.name}"
        rows = [
            ("made", where if self.built else "prepared for another machine"),
            ("by", f"{self.library} {self.tensorrt}"),
            ("precision", self.precision),
            *([("for", ", ".join(self.for_gpu))] if self.for_gpu else []),
            *([] if self.bytes is None else [("size", f"{self.bytes / 1e6:.2f} MB")]),
            *([] if self.layers is None else [("layers", str(len(self.layers)))]),
            ("seconds", f"{self.seconds:.1f}"),
            *(("note", words) for words in (*self.notes, *self.warnings)),
        ]
        return table(Table(self.engine, ("", ""), tuple(rows)))

    def json(self) -> dict[str, Any]:
        """JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values
