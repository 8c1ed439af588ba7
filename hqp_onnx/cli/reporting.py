"""Reports of an optimization."""

from __future__ import annotations

from pathlib import Path

import click

from hqp_onnx.cli.arguments import FILE, json_option
from hqp_onnx.cli.output import give_json, say
from hqp_onnx.files import forbid_overlap
from hqp_onnx.report.reading import JSON
from hqp_onnx.report.writing import HTML, rewrite_html


@click.command()
@click.argument("folder", type=FILE, metavar="OUT")
@json_option
def report(folder: Path, json_file: Path | None) -> None:
    """Write OUT/report.html again, from the report.json that `hqp optimize` left there."""
    forbid_overlap({"json_file": json_file}, {"the report": [folder / JSON, folder / HTML]})
    page = rewrite_html(folder)
    if not give_json({"report": str(page)}, json_file):
        say(f"Wrote {page}")
