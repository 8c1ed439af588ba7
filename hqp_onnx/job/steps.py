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
    latency, integers = options.objective == "latency", options.precision not in ("fp32", "fp16", "int4")
    yield Step("reading the data", (" calib", " val", " test"))
    yield Step("the original", (_JUDGED,))
    if options.compensate or options.scoring.method.needs_moments:
        yield Step("moments of what weights read", ("input moments",))
    if options.scoring.method.needs_data:
        yield Step("saliency", (" saliency",))
    if latency:
        yield Step("times of widths", ("times", "choice of threads"))
        yield Step("what each width costs", ("loss curves", "outputs"))
    yield Step("candidates", (_JUDGED, "candidates", "refit", "descent", "ranking"))
    if integers:
        yield Step("INT8", ("calibration", "rounding", "mixed precision", "sensitivity to INT8", "INT8"))
    if options.precision == "int4":
        yield Step("INT4", ("INT4",))
    if options.recover:
        yield Step("recovered candidates", ("recovery",))
    yield Step("results, evaluated and timed as written", (RESULTS,))
