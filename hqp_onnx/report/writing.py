"""Write a report as ``report.json`` and ``report.html``, and the second again from the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hqp_onnx.errors import DataError
from hqp_onnx.files import json_text, write_text
from hqp_onnx.job.results import Report

JSON, HTML = "report.json", "report.html"
_NEEDED = ("model", "baseline", "hqp", "trials", "settings", "layers", "saliency_histogram", "frozen", "inputs")


def write_report(report: Report, folder: Path) -> None:
    """``report.json`` and ``report.html`` in ``folder``."""
    values = json_text(report.json())
    write_text(folder / JSON, values)
    _write_page(json.loads(values), folder)


def rewrite_html(folder: Path) -> Path:
    """``report.html`` from the ``report.json`` beside it; its path.

    Raises:
        DataError: no such report, one that this version did not write, or one without its models.
    """
    report = _read(folder / JSON)
    _write_page(report, folder)
    return folder / HTML


def _write_page(report: Mapping[str, Any], folder: Path) -> None:
    from hqp_onnx.report.html import render

    write_text(folder / HTML, render(report, folder))


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected the folder that `hqp optimize` finished writing")
    try:
        report: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: not JSON ({e}). Run `hqp optimize --resume` with the same options again") from e
    missing = [key for key in _NEEDED if key not in report] if isinstance(report, dict) else list(_NEEDED)
    if missing:
        raise DataError(
            f"{path}: has no '{missing[0]}', so that this version did not write it. Run `hqp optimize --resume` again"
        )
    return report
