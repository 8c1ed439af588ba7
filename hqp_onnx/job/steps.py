"""The steps of an optimization, as ``progress.Steps`` counts them. Which one it is at follows from the stages."""

from __future__ import annotations

from collections.abc import Iterator

from hqp_onnx.job.options import Options
from hqp_onnx.progress import Step

_JUDGED = "evaluation"
RESULTS = "results"


def steps_of(options: Options) -> list[Step]:
    """In order; the names of stages that only an estimate has are among them."""
    return list(_steps(options))


def _steps(options: Options) -> Iterator[Step]:
    latency, narrow = options.objective == "latency", _narrow(options.precision)
    at_once = options.time_limit is not None  # so that something quantized can ship
    yield Step("reading the data", (" calib", " val", " test"))
    yield Step("the original", (_JUDGED,))
    if at_once:
        yield from narrow
    if options.compensate or options.scoring.method.needs_moments:
        yield Step("moments of what weights read", ("input moments",))
    if options.scoring.method.needs_data:
        yield Step("saliency", (" saliency",))
    if latency:
        yield Step("times of widths", ("times", "choice of threads"))
        yield Step("what each width costs", ("loss curves", "outputs"))
    yield Step("candidates", (_JUDGED, "candidates", "refit", "refinement", "ranking"))
    if not at_once:
        yield from narrow
    if options.recover:
        yield Step("recovered candidates", ("recovery",))
    yield Step("results, evaluated and timed as written", (RESULTS,))


def _narrow(precision: str) -> list[Step]:
    """What quantizing is, if the precision takes any data for it."""
    if precision == "int4":
        return [Step("INT4", ("INT4",))]
    stages = ("calibration", "rounding", "mixed precision", "sensitivity to INT8", "INT8")
    return [] if precision in ("fp32", "fp16") else [Step("INT8", stages)]
