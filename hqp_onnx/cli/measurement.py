"""Measure models, and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from hqp_onnx import engine
from hqp_onnx.boards.board import target_on
from hqp_onnx.cli.answers import Benchmarked, Evaluated, TimedModel
from hqp_onnx.cli.arguments import (
    device_option,
    dry_run_option,
    json_option,
    metric_option,
    model_argument,
    probe_option,
    quiet_option,
    reading_options,
    strict_option,
    target_option,
    workers_option,
)
from hqp_onnx.cli.command import Command
from hqp_onnx.cli.forecasts import give_forecast, told
from hqp_onnx.cli.output import Display, give_json, give_warnings, out, say
from hqp_onnx.cli.parameter_types import DATA, FILE, SHARE, Named
from hqp_onnx.cli.tables import comparison, engines
from hqp_onnx.cli.tables.latency import latency_table
from hqp_onnx.comparison import compare as compare_models
from hqp_onnx.counts import counted
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics import METRICS
from hqp_onnx.graphs.model_io import stored_bytes
from hqp_onnx.progress import Progress
from hqp_onnx.runtimes.runners import runtime_name, timing
from hqp_onnx.runtimes.targets import target as target_named
from hqp_onnx.steps.benchmark import benchmark_models
from hqp_onnx.steps.evaluate import Evaluation, evaluate_model


@click.command(cls=Command)
@model_argument
@click.option("--data", required=True, type=DATA, metavar="DATA", help="Samples, and labels if the metric takes any.")
@metric_option
@click.option("--reference", type=FILE, help="The original model, for --metric agreement and fidelity.")
@target_option
@reading_options("data")
@workers_option
@probe_option
@dry_run_option
@json_option
@strict_option
@quiet_option
def evaluate(
    model: Path,
    data: Data,
    metric: str | None,
    metric_output: str,
    reference: Path | None,
    target: str,
    preprocess: str | None,
    json_file: Path | None,
    dry_run: bool,
    strict: bool,
    quiet: bool,
) -> None:
    """Measure the metric of MODEL on DATA."""

    def evaluated(_: Path, report: Progress) -> Evaluation:
        return evaluate_model(model, data, metric, preprocess, report, reference, target, metric_output)

    if dry_run:
        give_forecast(evaluated, json_file)
        return
    with Display(quiet) as display:
        found = evaluated(Path(), told(evaluated, display, quiet))
    scores, q = found.scores, found.choice.metric.quantity
    runtime = runtime_name(target_named(target))
    summary = Evaluated(
        model=str(model),
        metric=q.name,
        value=scores.metric,
        samples=scores.samples,
        outputs=dict(scores.parts) if scores.parts else msgspec.UNSET,
        warnings=tuple(found.warnings),
        unit=q.unit,
        higher_is_better=q.higher,
        nonfinite=scores.nonfinite.samples,
        target=target,
        runtime=runtime,
    )
    if not give_json(summary.json(), json_file):
        say(f"{q.name} {q.said(scores.metric)} on {counted(scores.samples, 'sample')}, {runtime}")
        if len(scores.parts) > 1:
            say(", ".join(f"{output} {q.said(value)}" for output, value in scores.parts.items()))
        if scores.nonfinite:
            say(f"{scores.nonfinite.words(scores.samples)}: these score nothing")
    give_warnings(found.warnings, strict)


@click.command(cls=Command)
@click.argument("models", type=FILE, nargs=-1, required=True)
@target_option
@device_option
@click.option("--batch", type=int, help="Default: 1, or what an engine was built for.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads of the runtime; 0 lets it choose.")
@probe_option
@json_option
@quiet_option
def benchmark(
    models: tuple[Path, ...],
    target: str,
    device: str | None,
    batch: int | None,
    threads: int,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Measure the latency of MODELS in turn; ratios are to the first. Engines run on the GPU, with joules."""
    engine_files = [path.suffix == ".engine" for path in models]
    if any(engine_files) and not all(engine_files):
        raise UsageError("benchmark times .onnx models or .engine files, not both in one command")
    if all(engine_files):
        if device is not None:
            raise UsageError("{--device} times .onnx models: an engine is timed where it was built")
        timings = {str(path): engine.measure(path, batch, profile=json_file is not None) for path in models}
        if not give_json({"target": "tensorrt", "models": engines.engine_rows(timings)}, json_file):
            out.print(engines.engine_table(timings))
        return
    batch = 1 if batch is None else batch
    with Display(quiet) as display:
        place = target_on(target, device)
        runtime = runtime_name(place)
        results = benchmark_models(models, batch, threads, place, display)
    timed = tuple(TimedModel(model=name, **vars(latency)) for name, latency in results.items())
    found = Benchmarked(target=target, device=device, runtime=runtime, batch=batch, models=timed)
    if not give_json(found.json(), json_file):
        out.print(latency_table(results, {str(path): stored_bytes(path) for path in models}, runtime))
        for line in timing(place):
            say(line)


@click.command(cls=Command)
@click.argument("models", type=DATA, nargs=-1, required=True, metavar="MODEL[@TARGET] ...")
@click.option("--data", required=True, type=DATA, metavar="DATA", help="Samples that all models are run on.")
@click.option("--metric", type=Named(METRICS), help="Default: top1, where there are labels and classes.")
@click.option("--metric-output", metavar="NAME", default="", help="Which output is judged, of several.")
@click.option("--ledger", "ledgers", type=FILE, multiple=True, help="Of a pruned model, if not ledger.json beside it.")
@click.option(
    "--tolerance", type=SHARE, default=0.1, show_default=True, help="Own error that a layer may have, of its signal."
)
@click.option("--samples", type=int, default=64, show_default=True, help="Samples to compare layers with.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads of the runtime; 0 lets it choose.")
@reading_options("data")
@probe_option
@json_option
@quiet_option
def compare(models: tuple[str, ...], json_file: Path | None, quiet: bool, **chosen: Any) -> None:
    """Compare MODELS: the first is the reference; layers are compared from each to the next.

    A model is an .onnx file, run by the target's runtime (onnxruntime on the CPU unless told otherwise), or an .engine
    of TensorRT. Give a chain: the original, the pruned, the INT8 model, the engine.
    """
    with Display(quiet) as display:
        result = compare_models(models, progress=display, **chosen)
    if not give_json(result.json(), json_file):
        out.print(comparison.models_table(result))
        for line in comparison.nonfinite_lines(result):
            say(line)
        for step in result.steps:
            say(comparison.step_line(result, step))
            if step.trace is not None:
                out.print(comparison.layers_table(step.trace))
