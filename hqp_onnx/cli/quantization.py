"""Lower precision, and engines."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from hqp_onnx import engine
from hqp_onnx.cli.arguments import (
    calibration_option,
    dry_run_option,
    json_option,
    model_argument,
    probe_option,
    provider_option,
    quiet_option,
    reading_options,
    strict_option,
    target_option,
    workers_option,
)
from hqp_onnx.cli.command import Command
from hqp_onnx.cli.forecasts import give_forecast, told
from hqp_onnx.cli.output import Display, give_json, give_warnings, say, verified_json
from hqp_onnx.cli.parameter_types import DATA, OUT, Address, Amount, Named, ShareOrAuto
from hqp_onnx.cli.tables.engines import build_lines
from hqp_onnx.data.reading import Data
from hqp_onnx.evaluation.metrics import METRICS
from hqp_onnx.job.options import MAX_DROP, RELATIVE_DROP
from hqp_onnx.progress import Progress
from hqp_onnx.quantization.calibration_export import TENSORRT_VERSION
from hqp_onnx.steps.build import build_file
from hqp_onnx.steps.dequantize import dequantize_file
from hqp_onnx.steps.quantize import quantize_file


@click.command(cls=Command)
@model_argument
@click.option(
    "--data", type=DATA, metavar="DATA", help="Calibration data. Without it, inputs are made up from what MODEL holds."
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "mixed", "dynamic", "fp8", "fp16"]),
    help="mixed: INT8 where it is faster on this machine; dynamic: INT8, with ranges of activations found at run time; "
    "fp8: E4M3 for TensorRT. Default: int8; fp16 for tensorrt-rtx.",
)
@target_option
@calibration_option
@click.option(
    "--calibration-out",
    type=OUT,
    metavar="DIR",
    help="Write MODEL's own ranges (no --equalize): calibration.json, TensorRT's cache, onnxruntime's table.",
)
@click.option("--tensorrt-version", default=TENSORRT_VERSION, show_default=True, help="Named in TensorRT's cache.")
@click.option("--equalize/--no-equalize", default=True, show_default=True, help="First even out channels' ranges.")
@click.option(
    "--correct-bias/--no-correct-bias", default=True, show_default=True, help="Adjust biases to keep channel means."
)
@click.option(
    "--round-weights/--no-round-weights",
    default=True,
    show_default=True,
    help="Round weights for the smallest output error.",
)
@click.option(
    "--int4-weights",
    type=ShareOrAuto(),
    metavar="SHARE|auto",
    help="Store Gemm and MatMul weights in INT4, the least sensitive first, up to this share of their parameters, the "
    "rest in float; auto: as many as --max-drop allows, the rest in INT8.",
)
@click.option("--val", type=DATA, metavar="DATA", help="Validation data, to judge --int4-weights auto on.")
@click.option(
    "--max-drop",
    type=Amount(),
    metavar="NUMBER|SHARE%",
    help="With --int4-weights auto: how much worse the metric may be on --val, in its units (0.015 is 1.5 points), or "
    f"5% of the original's.  [default: {MAX_DROP} for metrics that are shares, else {RELATIVE_DROP}]",
)
@click.option("--metric", type=Named(METRICS), help="The metric of --max-drop. Default: as for `hqp optimize`.")
@click.option("--int4-convs", is_flag=True, help="INT4 for Conv weights, too: a smaller file, computed in float.")
@click.option(
    "--in-order/--no-in-order",
    default=True,
    show_default=True,
    help="Round INT4 weights layer by layer, on what the rounded layers before give.",
)
@reading_options("data", "val")
@click.option("-o", "--output", type=OUT, required=True, help="File of the quantized model.")
@probe_option
@workers_option
@provider_option
@dry_run_option
@json_option
@strict_option
@quiet_option
def quantize(
    model: Path,
    data: Data | None,
    target: str,
    calibration: str,
    preprocess: str | None,
    output: Path,
    json_file: Path | None,
    strict: bool,
    quiet: bool,
    dry_run: bool,
    **chosen: Any,
) -> None:
    """Quantize MODEL to INT8, store weights in INT4, or convert to float16."""
    do = partial(quantize_file, model, data=data, target_name=target, method=calibration, preprocess=preprocess)

    def elsewhere(folder: Path, report: Progress) -> object:
        return do(output=folder / "o.onnx", progress=report, **{**chosen, "calibration_out": None})

    if dry_run:
        give_forecast(elsewhere, json_file)
        return
    with Display(quiet) as display:
        written = do(output=output, progress=told(elsewhere, display, quiet), **chosen)
    size, before = written.verified.bytes, written.verified.original_bytes
    summary = {"output": str(output), "bytes": size, "original_bytes": before}
    if not give_json(summary | verified_json(written.notes, written.verified), json_file):
        say(f"{output}: {size / 1e6:.2f} MB, {size / before:.2f} of the original")
        for note in (*written.notes, written.verified.words):
            say(note)
    give_warnings(written.verified.warnings, strict)


@click.command(cls=Command)
@model_argument
@click.option("-o", "--output", type=OUT, required=True)
@json_option
@strict_option
def dequantize(model: Path, output: Path, json_file: Path | None, strict: bool) -> None:
    """Write the float model that a quantized MODEL stands for, to prune it or quantize it anew."""
    written = dequantize_file(model, output)
    if not give_json({"output": str(output), **verified_json(written.notes, written.verified)}, json_file):
        for line in (*written.notes, written.verified.words, f"Wrote {output}"):
            say(line)
    give_warnings(written.verified.warnings, strict)


_ABLE = ("hardware_compatible", "version_compatible", "refit", "weight_streaming")


@click.command(cls=Command, groups={"What the engine can do": _ABLE})
@model_argument
@click.option("--data", type=DATA, metavar="DATA", help="Calibration data, for INT8 or FP8 of a float model.")
@click.option(
    "--precision",
    type=click.Choice(engine.PRECISIONS),
    help="Default: int8 with --data or Q/DQ where that is fast, else fp16.",
)
@calibration_option
@click.option("--calibration-cache", type=OUT, help="Scales of the implicit path: read if it exists, else written.")
@click.option("--shapes", multiple=True, metavar="NAME:MIN,OPT,MAX", help="As x:1x3x224x224,8x3x224x224,32x3x224x224.")
@click.option("--timing-cache", type=OUT, help="TensorRT's tactic timings, read and extended.")
@click.option("--workspace", type=int, metavar="MIB", help="Limit of TensorRT's scratch memory.")
@click.option("--dla", type=int, metavar="N", help="DLA core; what it cannot run goes to the GPU.")
@click.option("--hardware-compatible", is_flag=True, help="The engine loads on other GPUs from Ampere on.")
@click.option("--refit", is_flag=True, help="The weights of the engine can be replaced.")
@click.option("--weight-streaming", is_flag=True, help="Weights may stay in host memory.")
@click.option("--version-compatible", is_flag=True, help="The engine loads in later TensorRT versions.")
@click.option("--path", type=click.Choice(engine.PATHS), help="INT8 by ranges or by Q/DQ. Default: TensorRT's version.")
@click.option(
    "--scales", type=click.Choice(engine.SCALES), help="Implicit path: our KL ranges or TensorRT's calibrator."
)
@click.option(
    "--strongly-typed", is_flag=True, help="Types as the model states them (TensorRT 10; 11 has no other way)."
)
@click.option(
    "--target",
    type=click.Choice([library.target for library in engine.LIBRARIES]),
    help="Default: the TensorRT that is installed.",
)
@click.option(
    "--for-gpu",
    multiple=True,
    metavar="GPU,...",
    help="Of TensorRT for RTX: compute capabilities as 8.6,12.0, or GPUs as 'RTX 4090'. Default: from 8.0 on.",
)
@click.option(
    "--for", "elsewhere", metavar="VERSION", help="Prepare for a machine with this TensorRT, as a trtexec script."
)
@click.option(
    "--device",
    type=Address(),
    metavar="ssh://USER@HOST[:PORT]",
    help="Board that builds the engine by its trtexec, and times it. See docs/boards.md.",
)
@reading_options("data")
@click.option("-o", "--output", type=OUT, required=True, help="model.engine; model.engine.json says how it was built.")
@probe_option
@json_option
@strict_option
@quiet_option
def build(quiet: bool, strict: bool, json_file: Path | None, **chosen: Any) -> None:
    """Build a TensorRT engine of MODEL (float, or with Q/DQ) for this GPU, or for others.

    TensorRT for RTX compiles for GPUs that are not here; a board builds by --device; --for prepares what others build.
    """
    with Display(quiet) as display:
        report = build_file(engine.BuildOptions(**chosen), display)
    if not give_json(report.json(), json_file):
        for line in build_lines(report, chosen["output"]):
            say(line)
    give_warnings(report.warnings, strict)
