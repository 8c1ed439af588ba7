"""What the main job is asked for, checked, and the digests that identify its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hqp_onnx.errors import ArgumentError, UsageError
from hqp_onnx.evaluation.budget import check_budget
from hqp_onnx.files import fingerprint
from hqp_onnx.job.search import SEARCHES
from hqp_onnx.passes.cut import check_refit
from hqp_onnx.ranking.order import check_min_width, check_multiple
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.recovery import Recovery
from hqp_onnx.registry import is_file_name
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.thresholds import method
from hqp_onnx.version import __version__

PRECISIONS = ("mixed", "int8", "fp16", "fp32")
OBJECTIVES = ("sparsity", "macs", "latency")
_NOT_RESULTS = ("model", "calib", "val", "output", "test", "threads", "resume", "preprocess", "build")


@dataclass(frozen=True)
class Options:
    """What ``hqp optimize`` is asked for; the command's help describes each field."""

    model: Path
    calib: str
    val: str
    output: Path
    test: str | None = None
    max_drop: float = 0.015
    confidence: float = 0.5
    step: float = 0.01
    search: str = "bisect"
    saliency: str = "fisher"
    engine: str = "native"
    loss: str | None = None
    draws: int = 1
    compensate: bool = True
    refit: str = "once"
    objective: str = "sparsity"
    refresh: int = 0
    precision: str = "mixed"
    target: str = "onnxruntime"
    calibration: str = "entropy"
    metric: str = "top1"
    min_width: float = 0.1
    branches: bool = True
    multiple_of: int | None = None
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    preprocess: Path | None = None
    threads: int = 0
    seed: int = 0
    resume: bool = False
    build: bool = False
    recover: int = 0
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for argument, value, known in (
            ("objective", self.objective, OBJECTIVES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise ArgumentError(f"{{{argument}}} {value}: expected one of {', '.join(known)}")
        SEARCHES.get(self.search)
        _ = self.scoring
        method(self.calibration)
        check_budget(self.max_drop, self.confidence)
        check_refit(self.refit, self.compensate)
        check_min_width(self.min_width)
        check_multiple(self.width_multiple)
        if not 0 < self.step <= 1:
            raise ArgumentError(f"{{step}} {self.step}: expected a share in 0..1, such as 0.01 for one percent")
        if self.build and not target(self.target).engines:
            raise ArgumentError(f"{{build}}: engines are TensorRT's, and {{target}} is {self.target}, not tensorrt")
        if self.refresh < 0 or (self.refresh and self.search != "linear"):
            raise ArgumentError(
                f"{{refresh}} {self.refresh}: expected a number of steps, 0 or more, with {{search}} linear (bisect "
                "needs one order)"
            )
        if self.augment and not self.recovery.epochs:
            raise ArgumentError("{augment} is for {recover}: add it, or leave both out")
        if self.output.exists() and not self.output.is_dir():
            raise UsageError(f"{self.output}: is a file. Expected the folder to write")

    @property
    def width_multiple(self) -> int:
        """What widths stay multiples of: ``multiple_of``, or what the target's kernels work on at a time."""
        return target(self.target).channel_multiple if self.multiple_of is None else self.multiple_of

    @property
    def scoring(self) -> Scoring:
        """How units are ranked."""
        return Scoring(self.saliency, self.engine, self.loss, self.draws, self.seed)

    @property
    def recovery(self) -> Recovery:
        """How recovered candidates are trained."""
        loss: Literal["mse"] | None = "mse" if self.loss == "gauss-newton" else None
        return Recovery(self.recover, loss=loss, augment=self.augment, seed=self.seed)

    def settings(self) -> dict[str, Any]:
        """What decides the result, as JSON values: options, and digests of the model and the data."""
        chosen = {k: v for k, v in vars(self).items() if k not in _NOT_RESULTS}
        chosen |= {
            "multiple_of": self.width_multiple,
            "keep": list(self.keep),
            "only": list(self.only),
            "augment": list(self.augment),
        }  # as JSON gives them back
        files: dict[str, Path | str | None] = {"model": self.model, "calib": self.calib, "val": self.val}
        kinds = ("metric", "search", "saliency", "engine", "target", "calibration")
        files |= {f"{kind}_file": chosen[kind] for kind in kinds if is_file_name(chosen[kind])}
        files |= {"preprocess": self.preprocess}
        files |= {"loss_file": self.loss if (self.loss or "").endswith(".onnx") else None}
        digests = {name: fingerprint(path) for name, path in files.items() if path is not None}
        reduced = target(self.target).reduced_range
        return {"hqp_onnx": __version__, **chosen, **digests, "reduced_range": reduced}
