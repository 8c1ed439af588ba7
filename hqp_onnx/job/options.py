"""What the main job is asked for, checked, and the digests that identify its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_type_hints

import onnx

from hqp_onnx.boundary import require_types
from hqp_onnx.data.reading import Data
from hqp_onnx.data.split import PARTS, SHARES, check_shares
from hqp_onnx.durations import Duration
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.budget import check_budget, parse_drop
from hqp_onnx.evaluation.metrics import Metric, ScoreFunction, load_metric
from hqp_onnx.job.search import SEARCHES
from hqp_onnx.limits import check_threads
from hqp_onnx.model import ModelSource
from hqp_onnx.passes.cut import check_refit
from hqp_onnx.passes.quantize_dynamic import check_dynamic
from hqp_onnx.ranking.order import check_min_width, check_multiple
from hqp_onnx.ranking.saliencies import Scoring
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.targets import target
from hqp_onnx.shares import Given, Share, share
from hqp_onnx.statistics.thresholds import method

PRECISIONS = ("mixed", "int8", "int4", "dynamic", "fp16", "fp32")
OBJECTIVES = ("latency", "macs", "size", "sparsity")
MAX_DROP, RELATIVE_DROP = 0.015, "1.5%"
PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "max_drop": MAX_DROP,
        "step": 0.01,
        "search": "linear",
        "saliency": "fisher",
        "compensate": False,
        "objective": "sparsity",
        "precision": "int8",
        "branches": False,
        "multiple_of": 1,
    }
)
"""Options of Algorithm 1 to the letter, with the paper's settings."""
_NO_BUDGET = 1.0, 1e30  # of a share, of any other metric


@dataclass(frozen=True)
class Options:
    """What ``optimize`` is asked for. Shares are numbers or percentages: 0.05 or "5%".

    Attributes:
        model: the original: a file, or a ModelProto; of a quantized one, the float model that it stands for is pruned.
        calib: calibration data: sensitivities, ranges and the refit are taken from them. A .npz or .npy file,
            a folder of images, ``FILE.py:function``, arrays by name, an iterable of feeds, a function that returns one,
            or a ``Reading`` of any of these.
        val: validation data: every candidate is judged on them.
        output: folder for the models and the report.
        test: test data; only the report uses them. None reports on ``val``.
        max_drop: the budget: how much worse the metric may be, in its own units (0.015 = 1.5 points of a share), or, as
            "5%", as a share of what the original has. Where less is better, it is a rise. None takes 0.015 of shares,
            else "1.5%".
        speedup: in place of a budget: so many times as fast as the input, with the least drop, however large.
        target_latency: likewise: milliseconds.
        pareto: also write models over the whole range of speeds, in OUT/pareto.
        confidence: that the budget holds on data like ``val``: 0.95 asks it of the drop's upper bound, 0.5 of the drop
            itself; see ``evaluation.paired``.
        data: one source, instead of ``calib``, ``val`` and ``test``: it is split by ``seed``, and by class
            where there are class numbers; ``OUT/split.json`` says how.
        shares: of ``data``, for calibration (5000 samples at most), validation and test.
        step: share of the units from one candidate to the next.
        search: bisect, linear (Algorithm 1), or ``FILE.py:name``.
        saliency: how units are ranked: fisher, obs, taylor, l1, l2, bn-gamma, random, or ``FILE.py:name``.
        engine: what differentiates: native or ort-training.
        loss: a name of ``hqp optimize --help``, or the file of a loss model; None takes what data and model allow.
        draws: sampled labels or projections per sample.
        compensate: whether weights that read removed channels are refitted.
        refit: once, or in-order: once more, each weight from what it then reads. None takes in-order for the objective
            latency, whose candidates are few, and else once.
        objective: what is gained within the budget. latency chooses widths by measured time; macs, size and sparsity
            remove units in one order, by saliency per MAC, per parameter, or alone. With size, the smallest model
            inside the budget ships, else the fastest.
        refresh: rank again after every this many steps of a linear search; 0 for never.
        precision: mixed (INT8 where it is faster, as measured, and harmless, static or dynamic; float16 on cuda and
            tensorrt-rtx), int8, int4 (weights in 4 bits, or in 8 where the budget asks for it, in float32 arithmetic;
            onnxruntime on the CPU), dynamic, fp16 or fp32. The fastest model inside the budget ships; with int8, int4,
            dynamic and fp16 only one in that precision.
        target: where the model will run: onnxruntime, openvino, tensorrt, tensorrt-rtx, cuda,
            onnxruntime:PROVIDER, or ``FILE.py:name``.
        device: a board that models are timed on, as ssh://USER@HOST[:PORT]; None times them here.
        calibration: how ranges are chosen, as entropy or percentile:99.9.
        metric: of quality: a name, ``FILE.py:name``, a ``Metric``, or a function or class as ``evaluation.metrics``
            describes; None takes top1 where there are class numbers and classes, else fidelity to the original.
        metric_output: the output that is judged; "" for the first, or all, as the metric reads.
        min_width: share of every tensor's units that stays; one always does.
        branches: whether gates and residual branches may be removed as a whole.
        multiple_of: widths stay multiples of it, where they are as wide; None takes what the target's kernels take.
        keep: shell patterns of tensors whose units stay.
        only: the same for tensors whose units may be removed; empty for all.
        preprocess: of images: imagenet, clip, tf, yolo, JSON, or its file.
        batch: samples of one timed run, where the model does not fix them.
        threads: of the runtime; 0 lets it choose.
        seed: of the random saliency, of draws and of recovery.
        time_limit: seconds, or as "10m"; when they are over, the best admissible model found so far ships. For a
            budget only.
        resume: continue from what ``output`` holds.
        force: replace the results of another model in ``output``; files of someone else stay in any case.
        build: also build a TensorRT engine of the result, and hold it to the budget where its GPU is here; None builds
            one if a TensorRT is installed, and goes without if that fails.
        recover: epochs of training of pruned models towards the original, without labels; 0 trains none. ``auto``
            takes as many as the data and ``recover_time`` allow, see ``recovery.Recovery``; of more than 5000 samples
            of ``calib``, only the training then takes all.
        recover_time: seconds that all trainings may take together.
        augment: some of flip and crop, for images that may be varied so in training.

    Raises:
        UsageError: a value that makes no sense, or one that excludes another.
        UsageError: ``output`` is a file.
    """

    model: ModelSource = ""
    calib: Data | None = None
    val: Data | None = None
    output: str | Path = ""
    test: Data | None = None
    data: Data | None = None
    shares: tuple[Given, ...] = SHARES
    max_drop: float | str | None = None
    speedup: float | None = None
    target_latency: float | None = None
    pareto: bool = False
    confidence: Share = Share(0.5)
    step: Share = Share(0.01)
    search: str = "bisect"
    saliency: str = "obs"
    engine: str = "native"
    loss: str | None = None
    draws: int = 1
    compensate: bool = True
    refit: str | None = None
    objective: str = "latency"
    refresh: int = 0
    precision: str = "mixed"
    target: str = "onnxruntime"
    device: str | None = None
    calibration: str = "entropy"
    metric: str | Metric | ScoreFunction | type | None = None
    metric_output: str = ""
    min_width: Share = Share(0.1)
    branches: bool = True
    multiple_of: int | None = None
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    preprocess: str | Path | None = None
    batch: int = 1
    threads: int = 0
    seed: int = 0
    resume: bool = False
    time_limit: Duration = Duration()
    force: bool = False
    build: bool | None = None
    recover: int | Literal["auto"] = 0
    recover_time: Duration = Duration()
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_types(vars(self), get_type_hints(Options))
        _check_given(self)
        object.__setattr__(self, "output", Path(self.output))
        for name in ("keep", "only", "augment"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for argument, value, known in (
            ("objective", self.objective, OBJECTIVES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"{{--{argument}}} {value}: expected one of {', '.join(known)}")
        if target(self.target).integers_only:
            if self.precision not in ("mixed", "int8"):
                raise UsageError(f"{{--precision}} {self.precision}: models for {self.target} are in INT8 alone")
            object.__setattr__(self, "precision", "int8")
        check_dynamic(self.precision, target(self.target))
        if self.precision == "int4" and not target(self.target).restores_int4:
            reason = "only onnxruntime on the CPU is known to restore weights from blocks of 4 bits as it loads them"
            raise UsageError(f"{{--precision}} int4 with {{--target}} {self.target}: {reason}")
        _check_data(self)
        self._check_speed()
        if self.recover != "auto" and self.recover < 0:
            raise UsageError(f"{{--recover}} {self.recover}: expected a number of epochs, 0 or more, or auto")
        SEARCHES.get(self.search)
        _ = self.scoring
        method(self.calibration)
        object.__setattr__(self, "max_drop", _checked_drop(self))
        check_refit(self.chosen_refit, self.compensate)
        check_min_width(self.min_width)
        check_multiple(self.width_multiple)
        check_threads(self.threads, self.device is not None)
        if self.batch < 1:
            raise UsageError(f"{{--batch}} {self.batch}: expected a number of samples, 1 or more")
        if not 0 < self.step <= 1:
            raise UsageError(f"{{--step}} {self.step}: expected a share in 0..1, such as 0.01 for one percent")
        if self.build and not target(self.target).engines:
            raise UsageError(
                f"{{--build}}: engines are TensorRT's, and {{--target}} is {self.target}. Use {{--target}} tensorrt"
            )
        if self.refresh < 0 or (self.refresh and (self.search != "linear" or self.objective == "latency")):
            raise UsageError(
                f"{{--refresh}} {self.refresh}: expected a number of steps, 0 or more, with {{--search}} linear "
                "(bisect needs one order) and another {--objective} than latency"
            )
        for name in ("augment", "recover_time"):
            if getattr(self, name) and not self.recover:
                raise UsageError(f"{{--{name}}} is for {{--recover}}: add it, or leave both out")
        _ = self.recovery
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.output}: is a file. Expected the folder to write")

    def _check_speed(self) -> None:
        """Raise ``UsageError`` where a speed is asked for that makes no sense, or beside what excludes it."""
        asked = {"speedup": self.speedup, "target_latency": self.target_latency}
        given = [name for name, value in asked.items() if value is not None]
        if given and self.time_limit is not None:
            raise UsageError(f"{{--time_limit}} is for a budget: leave out {{--{given[0]}}}")
        for name in given:
            if not 0 < (asked[name] or 0) < float("inf"):
                raise UsageError(f"{{--{name}}} {asked[name]}: expected a finite number above 0")
        if given and self.objective != "latency":
            raise UsageError(f"{{--{given[0]}}} is for {{--objective}} latency, not {self.objective}")
        if given and (words := target(self.target).stand_in):
            raise UsageError(f"{{--{given[0]}}} with {{--target}} {self.target}: no speed is measured here ({words})")
        if self.pareto and target(self.target).counted:
            raise UsageError(
                f"{{--pareto}} with {{--target}} {self.target}: models are chosen by their speed, and none is known"
            )
        budget = {"max_drop": self.max_drop not in (None, *_NO_BUDGET), "confidence": self.confidence != 0.5}
        if given and (others := [*given[1:], *(name for name, is_given in budget.items() if is_given)]):
            listed = " and ".join(f"{{--{name}}}" for name in others)
            raise UsageError(f"{{--{given[0]}}} takes the place of a budget: leave out {listed}")
        if given:
            shares = load_metric(self.metric or "top1").quantity.shares
            object.__setattr__(self, "max_drop", _NO_BUDGET[0 if shares else 1])

    @property
    def folder(self) -> Path:
        """``output``."""
        return Path(self.output)

    @property
    def chosen_drop(self) -> float | str:
        """``max_drop``, or what the metric takes."""
        return MAX_DROP if self.max_drop is None else self.max_drop

    @property
    def width_multiple(self) -> int:
        """What widths stay multiples of: ``multiple_of``, or what the target's kernels work on at a time."""
        return target(self.target).channel_multiple if self.multiple_of is None else self.multiple_of

    @property
    def narrow(self) -> str:
        """The precision of what is asked for; with mixed, that in which models may be faster on the target."""
        return target(self.target).mixes if self.precision == "mixed" else self.precision

    @property
    def chosen_refit(self) -> str:
        """``refit``, or what the objective takes."""
        return self.refit or ("in-order" if self.objective == "latency" and self.compensate else "once")

    @property
    def scoring(self) -> Scoring:
        """How units are ranked."""
        return Scoring(self.saliency, self.engine, self.loss, self.draws, self.seed)

    @property
    def recovery(self) -> Recovery:
        """How recovered candidates are trained."""
        loss: Literal["mse"] | None = "mse" if self.loss in ("gauss-newton", "squared-error") else None
        return Recovery(self.recover, loss=loss, augment=self.augment, seed=self.seed)


def _checked_drop(options: Options) -> float | str:
    """The budget; ``UsageError`` for one that makes no sense of the metric, as far as that is known."""
    quantity = load_metric(options.metric or "top1").quantity
    drop = options.max_drop if options.max_drop is not None else MAX_DROP if quantity.shares else RELATIVE_DROP
    check_budget(drop, options.confidence, quantity)
    value, relative = parse_drop(drop)
    return str(drop) if relative else value


def _check_given(options: Options) -> None:
    """Raise ``UsageError`` that names all that is needed and not given."""
    if not isinstance(options.model, (str, Path, onnx.ModelProto)):
        raise UsageError(f"{{--model}} is of type {type(options.model).__name__}: expected a path or a ModelProto")
    lacking = ["{--model}"] if isinstance(options.model, str) and not options.model else []
    parts = [f"{{--{part}}}" for part in ("calib", "val") if options.data is None and getattr(options, part) is None]
    lacking += ["{--data} (or {--calib} and {--val})"] if len(parts) == 2 else parts
    lacking += [] if str(options.output) else ["{--output}, the folder to write"]
    if lacking:
        raise UsageError(f"missing: {', '.join(lacking)}")


def _check_data(options: Options) -> None:
    """Either one source that is split, or calibration and validation data."""
    given = [part for part in PARTS if getattr(options, part) is not None]
    if options.data is not None and given:
        raise UsageError(f"{{--data}} is split into calibration, validation and test: leave out {{--{given[0]}}}")
    if isinstance(options.shares, str):
        raise UsageError(f"{{--shares}} is {options.shares!r}: expected three numbers, as (0.4, 0.3, 0.3)")
    shares = tuple(share(each, "shares") for each in options.shares)
    object.__setattr__(options, "shares", shares)
    check_shares(shares)
