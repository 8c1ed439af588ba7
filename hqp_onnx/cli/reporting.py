"""Reports of an optimization, and what it shipped, checked again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hqp_onnx.cli.answers import Checked
from hqp_onnx.cli.arguments import (
    json_option,
    probe_option,
    quiet_option,
    reading_options,
)
from hqp_onnx.cli.command import Command
from hqp_onnx.cli.output import Display, give_json, printable, say
from hqp_onnx.cli.parameter_types import DATA, FILE, OUT, Amount
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import ThresholdError
from hqp_onnx.files import forbid_overlap, write_text
from hqp_onnx.report.reading import JSON, read_report
from hqp_onnx.report.writing import HTML, rewrite_html
from hqp_onnx.runtimes.exports import EPCONTEXT, FORMATS
from hqp_onnx.steps.check import Thresholds, check_folder, junit
from hqp_onnx.steps.export import export as export_model
from hqp_onnx.steps.optimize import outputs


@click.command(cls=Command)
@click.argument("folder", type=FILE, metavar="OUT")
@json_option
def report(folder: Path, json_file: Path | None) -> None:
    """Write OUT/report.html again, from the report.json that `hqp optimize` left there."""
    forbid_overlap({"json_file": json_file}, {"the report": [folder / JSON, folder / HTML]})
    page = rewrite_html(folder)
    if not give_json({"report": str(page)}, json_file):
        say(f"Wrote {page}")


def _held(folder: Path) -> dict[str, list[Path]]:
    """What ``hqp optimize`` left in a folder: by what it is called, its files."""
    beside = [path for ending in ("*.onnx*", "*.tflite", "*/*.onnx*", "*/*.json") for path in folder.glob(ending)]
    return {"what OUT holds": [*outputs(folder), *beside]}


@click.command(cls=Command)
@click.argument("source", type=FILE, metavar="MODEL|OUT")
@click.option(
    "--format",
    "form",
    metavar="|".join((*FORMATS, EPCONTEXT)),
    required=True,
    help="OpenVINO's IR, LiteRT's .tflite, an EPContext for Qualcomm's HTP (qnn-v73 and the like for others than v75), "
    "onnxruntime's ORT format, or the EPContext of a provider.",
)
@click.option("-o", "--output", type=OUT, required=True, help="FILE.xml (and FILE.bin), .tflite, .ort, or .onnx.")
@click.option("--provider", metavar="NAME", help="Of onnxruntime: makes the EPContext, for its device on this machine.")
@probe_option
@json_option
def export(source: Path, form: str, output: Path, provider: str | None, json_file: Path | None) -> None:
    """Convert MODEL, or what OUT ships, for one runtime; the file is loaded and compared with the ONNX model."""
    forbid_overlap(
        {"output": output, "json_file": json_file}, _held(source) if source.is_dir() else {"the model": source}
    )
    written = export_model(source, output, form, provider)
    if not give_json(asdict(written), json_file):
        say(f"Wrote {', '.join(written.files)}: {written.bytes / 1e6:.2f} MB, outputs within {written.error:.1e}")


@click.command(cls=Command)
@click.argument("folder", type=FILE, metavar="OUT")
@click.option(
    "--max-drop", type=Amount(), metavar="NUMBER|SHARE%", help="How much worse the metric may be; needs --data."
)
@click.option("--min-speedup", type=float, metavar="X", help="Smallest speedup over the original; both are timed.")
@click.option("--max-size", metavar="SIZE", help="Largest size of the file, such as 2MB.")
@click.option("--data", type=DATA, metavar="DATA", help="Data to measure the metric on.")
@click.option("--original", type=FILE, metavar="MODEL", help="The model that was optimized, if it has moved.")
@click.option("--junit", "junit_file", type=OUT, metavar="FILE", help="Write the findings as JUnit XML.")
@reading_options("data")
@probe_option
@json_option
@quiet_option
def check(
    folder: Path,
    max_drop: str | None,
    min_speedup: float | None,
    max_size: str | None,
    data: Data | None,
    original: Path | None,
    junit_file: Path | None,
    preprocess: str | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Measure again what `hqp optimize` shipped in OUT, against thresholds: exit code 0, or 4 where one is missed."""
    thresholds = Thresholds(max_drop, min_speedup, max_size)
    inputs = {**_held(folder), "the original": original or read_report(folder).model}
    forbid_overlap({"junit_file": junit_file, "json_file": json_file}, inputs)
    with Display(quiet) as display:
        model, findings = check_folder(folder, thresholds, data, original, preprocess, display)
    if junit_file is not None:
        write_text(junit_file, printable(junit(model, findings)))
    if not give_json(Checked(model=str(model), findings=tuple(findings)).json(), json_file):
        for finding in findings:
            say(f"{finding.name}: {'holds' if finding.met else 'missed'}, {finding.words}")
    if missed := [finding.name for finding in findings if not finding.met]:
        raise ThresholdError(f"{model}: {', '.join(missed)} missed")
