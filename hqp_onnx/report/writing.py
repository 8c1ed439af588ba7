"""Write a report as ``report.json`` and ``report.html``, and the second again from the first."""

from __future__ import annotations

from pathlib import Path

from hqp_onnx.files import json_text, write_text
from hqp_onnx.job.results import Report
from hqp_onnx.out_folder import revised
from hqp_onnx.report.reading import JSON, read_report

HTML = "report.html"


def write_report(report: Report, folder: Path) -> None:
    """``report.json`` and ``report.html`` in ``folder``."""
    write_text(folder / JSON, json_text(report.json()))
    _write_page(report, folder)


def rewrite_html(folder: Path) -> Path:
    """``report.html`` from the ``report.json`` beside it; its path.

    Raises:
        DataError: see ``read_report``; or the model that ships is not there.
    """
    report = read_report(folder)
    with revised(folder):
        _write_page(report, folder)
    return folder / HTML


def _write_page(report: Report, folder: Path) -> None:
    from hqp_onnx.report.html import render  # other commands start without svg.py, a tenth of a second sooner

    write_text(folder / HTML, render(report, folder))
