"""The command line. Errors are one line on stderr: exit code 2 for bad usage or input, 3 for a missed budget."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hqp_onnx import __version__, engine, pipeline, steps
from hqp_onnx.build import build_file
from hqp_onnx.calibration import METHODS
from hqp_onnx.calibration_export import TENSORRT_VERSION
from hqp_onnx.compare import compare as compare_models
from hqp_onnx.errors import HqpError, UsageError
from hqp_onnx.gradients import ort_training
from hqp_onnx.ledger import write_text
from hqp_onnx.model_io import json_text, stored_bytes
from hqp_onnx.options import PRECISIONS, Options, Pruning
from hqp_onnx.plugins.data_loader import write_script
from hqp_onnx.report import compare_tables, engines, tables
from hqp_onnx.runners import runtime_name
from hqp_onnx.saliency import ENGINES, LOSSES, SALIENCIES
from hqp_onnx.search import SEARCHES
from hqp_onnx.targets import target as goal

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
out = Console(width=None if sys.stdout.isatty() else 140)
INTERRUPTED = 130


def main() -> None:
    """Entry point of ``hqp``."""
    try:
        code = cli.main(prog_name="hqp", standalone_mode=False)
    except HqpError as e:
        code = _fail(str(e), e.exit_code)
    except click.ClickException as e:
        code = _fail(e.format_message(), e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted; `hqp optimize --resume` with the same options goes on from here", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    click.echo("error: " + " ".join(message.split()), err=True)
    return code


class Display:
    """Progress bars on a terminal; one line per finished stage when piped; nothing if quiet."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task: TaskID | None = None
        self._plain = not quiet and not console.is_terminal
        logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", force=True)
        logging.getLogger().handlers = [_ConsoleHandler(console)]

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A stage has done so much of its total."""
        if self._plain and done == total and stage != "evaluation":
            click.echo(f"{stage}: {total} samples", err=True)
        if self._task is None:
            self._task = self._bars.add_task(stage)
        self._bars.update(self._task, description=stage, completed=done, total=total)

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), highlight=False, markup=False)


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


model_argument = click.argument("model", type=FILE)
preprocess_option = click.option("--preprocess", type=FILE, help="JSON for image folders: size, crop, mean, std, ...")
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")
json_option = click.option(
    "--json", "json_file", type=FILE, help="Write the result as JSON to this file ('-': stdout)."
)
selection_options = _options(
    click.option("--keep", multiple=True, metavar="PATTERN", help="Tensors whose channels stay (repeatable)."),
    click.option("--only", multiple=True, metavar="PATTERN", help="Tensors whose channels may leave (repeatable)."),
)
MULTIPLE_HELP = "Widths stay multiples of this, where they are as wide."
metric_option = click.option(
    "--metric", default="top1", show_default=True, help="top1, top5, agreement or FILE.py:func."
)
target_option = click.option(
    "--target",
    default="onnxruntime",
    show_default=True,
    help="onnxruntime, openvino, tensorrt, cuda or onnxruntime:NAMEExecutionProvider.",
)
calibration_option = click.option(
    "--calibration", type=click.Choice(METHODS), default="entropy", show_default=True, help="How ranges are chosen."
)
saliency_choice = click.Choice(SALIENCIES)
gradient_options = _options(
    click.option(
        "--gradients",
        "engine",
        type=click.Choice(list(ENGINES)),
        default="native",
        show_default=True,
        help="What differentiates, for fisher and taylor.",
    ),
    click.option(
        "--loss", help=f"{', '.join(LOSSES)}, or FILE.onnx. Default: what data and model allow, in this order."
    ),
    click.option("--draws", type=int, default=1, show_default=True, help="Sampled labels or projections per sample."),
)


def _give_json(value: Any, file: Path | None) -> bool:
    """Write JSON if asked for; whether it took stdout."""
    if file is None:
        return False
    if str(file) == "-":
        click.echo(json.dumps(value, indent=1))
        return True
    write_text(file, json_text(value))
    return False


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hqp")
def cli() -> None:
    """Prune and quantize exported ONNX models inside one accuracy budget.

    DATA is a .npz file (arrays named as the model's inputs, plus labels), a folder of images (one sub-folder per
    class) or a Polygraphy data-loader script file.py[:func].
    """


@cli.command()
@model_argument
@click.option("--calib", required=True, metavar="DATA", help="Calibration data: sensitivity, ranges, compensation.")
@click.option("--val", required=True, metavar="DATA", help="Validation data: every candidate is judged on it.")
@click.option("--test", metavar="DATA", help="Test data: only the report uses it.")
@click.option("--max-drop", type=float, default=0.015, show_default=True, help="Budget, as a fraction of the metric.")
@click.option("--step", type=float, default=0.01, show_default=True, help="Share of the units removed per step.")
@click.option(
    "--search", type=click.Choice(list(SEARCHES)), default="bisect", show_default=True, help="Algorithm 1 is linear."
)
@click.option("--saliency", type=saliency_choice, default="fisher", show_default=True, help="How units are ranked.")
@gradient_options
@click.option(
    "--compensate/--no-compensate", default=True, show_default=True, help="Refit weights that read removed channels."
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="mixed",
    show_default=True,
    help="mixed: INT8 where it is faster, as measured, and harmless.",
)
@target_option
@calibration_option
@metric_option
@click.option(
    "--min-width", type=float, default=0.1, show_default=True, help="Share of every tensor's units that stays."
)
@click.option("--multiple-of", type=int, help=f"{MULTIPLE_HELP} Default: what the target's kernels take.")
@selection_options
@preprocess_option
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads of the runtime; 0 takes its choice.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random saliency and of draws.")
@click.option("--resume", is_flag=True, help="Go on with what OUT holds.")
@click.option("--build", is_flag=True, help="Build a TensorRT engine of the result, and hold it to the budget too.")
@click.option("-o", "--output", type=FILE, required=True, metavar="OUT", help="Folder for the models and the report.")
@json_option
@quiet_option
def optimize(quiet: bool, json_file: Path | None, **chosen: Any) -> None:
    """Prune and quantize MODEL as far as the budget allows."""
    with Display(quiet) as display:
        report = pipeline.optimize(Options(**chosen), display)
    if not _give_json(report.json(), json_file):
        out.print(tables.report_table(report))
        for line in (
            tables.budget_line(report),
            *tables.cost_lines(report.cost),
            *report.notes,
            f"Wrote {report.shipped}",
        ):
            click.echo(line)
    if not report.met:
        raise pipeline.budget_error(report)


@cli.command()
@model_argument
@json_option
def inspect(model: Path, json_file: Path | None) -> None:
    """Show the units of MODEL, which cannot be pruned, and why."""
    found = steps.inspect(model)
    if not _give_json(found, json_file):
        out.print(tables.inspect_table(found))


@cli.command()
@model_argument
@click.option("--data", required=True, metavar="DATA")
@click.option("--saliency", type=saliency_choice, default="fisher", show_default=True)
@gradient_options
@preprocess_option
@click.option("-o", "--output", type=FILE, required=True, help="scores.npz: filter/<weight> and unit.")
@quiet_option
def score(
    model: Path, data: str, saliency: str, preprocess: Path | None, output: Path, quiet: bool, **chosen: Any
) -> None:
    """Write the saliency of every filter and unit of MODEL."""
    with Display(quiet) as display:
        ranking = steps.score(model, data, output, saliency, preprocess, display, **chosen)
    click.echo(f"{output}: {len(ranking.filters)} weights, {len(ranking.units)} units")


@cli.command()
@model_argument
@click.option("--sparsity", type=float, required=True, help="Share of the prunable units to remove.")
@click.option("--saliency", type=saliency_choice, default="l2", show_default=True)
@click.option("--data", metavar="DATA", help="Calibration data, for fisher, taylor and --compensate.")
@click.option("--compensate/--no-compensate", default=False, show_default=True)
@click.option(
    "--min-width", type=float, default=0.0, show_default=True, help="Share of every tensor's units that stays."
)
@click.option("--multiple-of", type=int, default=1, show_default=True, help=MULTIPLE_HELP)
@selection_options
@click.option("--seed", type=int, default=0, show_default=True)
@preprocess_option
@click.option("--ledger", type=FILE, help="Write what was removed, as JSON.")
@click.option("-o", "--output", type=FILE, required=True)
@quiet_option
def prune(
    model: Path,
    output: Path,
    data: str | None,
    preprocess: Path | None,
    ledger: Path | None,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Remove a share of MODEL's units, whatever it costs."""
    with Display(quiet) as display:
        options = Pruning(**chosen)
        pruned = steps.prune(model, output, options, data=data, preprocess=preprocess, ledger=ledger, progress=display)
    click.echo(f"{output}: {pruned.units} of {pruned.prunable} prunable units removed")
    for note in pruned.notes:
        click.echo(note)


@cli.command()
@model_argument
@click.option("--data", metavar="DATA", help="Calibration data; int8 needs them.")
@click.option("--precision", type=click.Choice(["int8", "fp16"]), default="int8", show_default=True)
@target_option
@calibration_option
@click.option(
    "--calibration-out",
    type=FILE,
    metavar="DIR",
    help="Write MODEL's own ranges (no --equalize): calibration.json, TensorRT's cache, onnxruntime's table.",
)
@click.option("--tensorrt-version", default=TENSORRT_VERSION, show_default=True, help="Named in TensorRT's cache.")
@click.option("--equalize/--no-equalize", default=True, show_default=True, help="Even out channels beforehand.")
@click.option("--correct-bias/--no-correct-bias", default=False, show_default=True, help="Keep channel means.")
@click.option(
    "--round-weights/--no-round-weights", default=True, show_default=True, help="Round for the least output error."
)
@click.option(
    "--int4-weights",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="INT4 weights in this share of Gemm and MatMul, in place of INT8.",
)
@preprocess_option
@click.option("-o", "--output", type=FILE, required=True)
@quiet_option
def quantize(
    model: Path,
    data: str | None,
    target: str,
    calibration: str,
    preprocess: Path | None,
    output: Path,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Quantize MODEL to INT8, store weights in INT4, or convert to float16."""
    with Display(quiet) as display:
        notes = steps.quantize_file(model, output, data, target, calibration, preprocess, display, **chosen)
    size = stored_bytes(output)
    click.echo(f"{output}: {size / 1e6:.2f} MB, {size / stored_bytes(model):.2f} of the original")
    for note in notes:
        click.echo(note)


@cli.command()
@model_argument
@click.option("--data", metavar="DATA", help="Calibration data, for INT8 of a float model.")
@click.option(
    "--precision",
    type=click.Choice(engine.PRECISIONS),
    help="Default: int8 with --data or Q/DQ where the GPU has INT8, else fp16.",
)
@click.option("--calibration", type=click.Choice(list(engine.ALGORITHMS)), default="entropy", show_default=True)
@click.option("--calibration-cache", type=FILE, help="Scales of the implicit path: read if it exists, else written.")
@click.option("--shapes", multiple=True, metavar="NAME:MIN,OPT,MAX", help="As x:1x3x224x224,8x3x224x224,32x3x224x224.")
@click.option("--timing-cache", type=FILE, help="TensorRT's tactic timings, read and extended.")
@click.option("--workspace", type=int, metavar="MIB", help="Limit of TensorRT's scratch memory.")
@click.option("--dla", type=int, metavar="N", help="DLA core; what it cannot run goes to the GPU.")
@click.option("--hardware-compatible", is_flag=True, help="The engine loads on other GPUs from Ampere on.")
@click.option("--version-compatible", is_flag=True, help="The engine loads in later TensorRT versions.")
@click.option("--path", type=click.Choice(engine.PATHS), help="INT8 by ranges or by Q/DQ. Default: TensorRT's version.")
@click.option(
    "--scales", type=click.Choice(engine.SCALES), help="Implicit path: our KL ranges or TensorRT's calibrator."
)
@click.option(
    "--strongly-typed", is_flag=True, help="Types as the model states them (TensorRT 10; 11 has no other way)."
)
@click.option(
    "--for", "elsewhere", metavar="VERSION", help="Prepare for a machine with this TensorRT, as a trtexec script."
)
@preprocess_option
@click.option("-o", "--output", type=FILE, required=True, help="model.engine; model.engine.json says how it was built.")
@quiet_option
def build(quiet: bool, **chosen: Any) -> None:
    """Build a TensorRT engine of MODEL (float, or INT8 with Q/DQ) for this GPU, or prepare it for another."""
    with Display(quiet) as display:
        report = build_file(engine.BuildOptions(**chosen), display)
    for line in engines.build_lines(report, chosen["output"]):
        click.echo(line)


@cli.command()
@model_argument
@click.option("--data", required=True, metavar="DATA")
@metric_option
@click.option("--reference", type=FILE, help="The original model, for --metric agreement.")
@target_option
@preprocess_option
@json_option
@quiet_option
def evaluate(
    model: Path,
    data: str,
    metric: str,
    reference: Path | None,
    target: str,
    preprocess: Path | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Measure the metric of MODEL on DATA."""
    with Display(quiet) as display:
        scores = steps.evaluate_file(model, data, metric, preprocess, display, reference, target)
    runtime = runtime_name(goal(target))
    found = {"model": str(model), "metric": metric, "value": scores.metric, "samples": scores.samples}
    if not _give_json({**found, "target": target, "runtime": runtime}, json_file):
        click.echo(f"{metric} {100 * scores.metric:.2f} % on {scores.samples} samples, {runtime}")


@cli.command()
@click.argument("models", type=FILE, nargs=-1, required=True)
@target_option
@click.option("--batch", type=int, help="Default: 1, or what an engine was built for.")
@click.option("--threads", type=click.IntRange(0), default=0)
@json_option
def benchmark(models: tuple[Path, ...], target: str, batch: int | None, threads: int, json_file: Path | None) -> None:
    """Measure the latency of MODELS in turn; ratios are to the first. Engines run on the GPU, with joules."""
    engine_files = [path.suffix == ".engine" for path in models]
    if any(engine_files) and not all(engine_files):
        raise UsageError("benchmark times .onnx models or .engine files, not both in one command")
    if all(engine_files):
        found = {str(path): engine.measure(path, batch, profile=json_file is not None) for path in models}
        if not _give_json({"target": "tensorrt", "models": engines.engine_rows(found)}, json_file):
            out.print(engines.engine_table(found))
        return
    runtime = runtime_name(goal(target))
    batch = 1 if batch is None else batch
    results = steps.benchmark(models, batch, threads, target)
    first = next(iter(results.values())).median_ms
    rows = [{"model": name, "speedup": first / latency.median_ms, **vars(latency)} for name, latency in results.items()]
    if not _give_json({"target": target, "runtime": runtime, "batch": batch, "models": rows}, json_file):
        out.print(tables.latency_table(results, {str(path): stored_bytes(path) for path in models}, runtime))


@cli.command()
@click.argument("data", metavar="DATA")
@click.option("--model", type=FILE, required=True, help="The model whose inputs DATA feed.")
@click.option("--batch", type=int, help="Samples per batch. Default: the model's own, or 1 where that is dynamic.")
@click.option("--limit", type=int, help="Only the first so many samples.")
@preprocess_option
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE.py")
def data_loader(data: str, model: Path, output: Path, **chosen: Any) -> None:
    """Write DATA as a script for Polygraphy's --data-loader-script."""
    feeds = write_script(data, model, output, **chosen)
    click.echo(f"{output}: {len(feeds)} batches of {feeds.dataset.batch_size}")


@cli.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL[@TARGET] ...")
@click.option("--data", required=True, metavar="DATA")
@click.option("--metric", help="top1, top5 or FILE.py:func. Default: top1, where there are labels and classes.")
@click.option("--ledger", "ledgers", type=FILE, multiple=True, help="Of a pruned model, if not ledger.json beside it.")
@click.option(
    "--tolerance", type=float, default=0.1, show_default=True, help="Own error that a layer may have, of its signal."
)
@click.option("--samples", type=int, default=64, show_default=True, help="Samples to compare layers with.")
@click.option("--threads", type=click.IntRange(0), default=0)
@preprocess_option
@json_option
@quiet_option
def compare(models: tuple[str, ...], json_file: Path | None, quiet: bool, **chosen: Any) -> None:
    """Compare MODELS: the first is the reference; layers are compared from each to the next.

    A model is an .onnx file, run by the target's runtime (onnxruntime on the CPU unless told otherwise), or an .engine
    of TensorRT. Give a chain: the original, the pruned, the INT8 model, the engine.
    """
    with Display(quiet) as display:
        found = compare_models(models, progress=display, **chosen)
    if not _give_json(found.json(), json_file):
        out.print(compare_tables.models_table(found))
        for step in found.steps:
            click.echo(compare_tables.step_line(found, step))
            if step.trace is not None:
                out.print(compare_tables.layers_table(step.trace))


@cli.group()
def setup() -> None:
    """Install optional parts."""


@setup.command()
def training() -> None:
    """Install onnxruntime-training, apart from onnxruntime, for `hqp score --gradients ort-training`."""
    click.echo(str(ort_training.install()))
