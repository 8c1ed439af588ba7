"""``hqp check``: what an optimization shipped, measured again on this machine and held to thresholds.

For pipelines: a change of the runtime, the machine or the data shows on the day that it is made.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath

from hqp_onnx.boards.board import target_on
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.evaluation.budget import allowed, check_budget, parse_drop
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.files import require_regular
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.job.handing_over import handed_bytes
from hqp_onnx.job.results import Report
from hqp_onnx.model import open_session, read_model
from hqp_onnx.progress import Progress, silent
from hqp_onnx.report.reading import read_report
from hqp_onnx.runtimes.runners import require_timed
from hqp_onnx.runtimes.same_inputs import require_same_inputs
from hqp_onnx.runtimes.session import try_run
from hqp_onnx.runtimes.targets import target as target_named
from hqp_onnx.steps.evaluate import evaluate_model

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]?)(i?)B?")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3}


@dataclass(frozen=True)
class Thresholds:
    """What a shipped model must hold; None is not looked at.

    Attributes:
        max_drop: how much worse the metric may be, in its units, or as "5%" of the original's.
        min_speedup: over the original, each on the threads that the report names.
        max_size: bytes of the file that ships (the .tflite of a target that takes these) with its external data; as
            text with a unit, "2MB" or "1.5 MiB".

    Raises:
        UsageError: nothing to check, or values that make no sense.
    """

    max_drop: float | str | None = None
    min_speedup: float | None = None
    max_size: int | str | None = None

    def __post_init__(self) -> None:
        if (self.max_drop, self.min_speedup, self.max_size) == (None, None, None):
            raise UsageError("nothing to check: give {--max_drop}, {--min_speedup} or {--max_size}")
        if self.min_speedup is not None and not 0 < self.min_speedup < float("inf"):
            raise UsageError(f"{{--min_speedup}} {self.min_speedup}: expected a number above 0")
        if self.max_drop is not None:
            parse_drop(self.max_drop)
        _ = self.bytes

    @property
    def bytes(self) -> int | None:
        """``max_size`` in bytes."""
        if self.max_size is None:
            return None
        found = _SIZE.fullmatch(str(self.max_size).strip())
        if found is None:
            raise UsageError(f"{{--max_size}} {self.max_size}: expected bytes, or a number with kB, MB, GB, KiB, MiB")
        return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2]])


@dataclass(frozen=True)
class Finding:
    """What was measured of one threshold, in words, and whether it holds."""

    name: str
    met: bool
    words: str
    seconds: float


def check_folder(
    folder: Path,
    thresholds: Thresholds,
    data: Data | None = None,
    original: Path | None = None,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
) -> tuple[Path, list[Finding]]:
    """The model that ``folder`` ships, and a finding for each threshold.

    Args:
        folder: OUT of ``hqp optimize``.
        thresholds: see there.
        data: to judge on, which ``max_drop`` needs.
        original: the model that was optimized, if it is not where the report says.
        preprocess: of images.
        progress: called as the work goes on.

    Raises:
        DataError: no report, or one of its models is not there.
        UsageError: a threshold that lacks what it needs.
    """
    report = read_report(folder)
    shipped, source = folder / report.files[report.ships], original or Path(report.model)
    if (thresholds.min_speedup, thresholds.max_drop) != (None, None) and not source.is_file():
        raise DataError(f"{folder}: {source}, the model that was optimized, is not there: name it by {{--original}}")
    if original is not None:
        first, other = (open_session(path, target_named(report.request.target)) for path in (source, shipped))
        require_same_inputs(f"{{--original}} {source}", first, shipped, other)
    findings = []
    if (limit := thresholds.bytes) is not None:
        taken = shipped.with_name(PureWindowsPath(report.shipped).name)  # a .tflite, say; either slash
        require_regular(taken, "the model that ships", DataError)
        read_model(shipped, quantized=True)  # any file may be small
        size = handed_bytes(taken)
        findings.append(Finding("size", size <= limit, f"{taken.name} takes {size} bytes, at most {limit}", 0.0))
    if thresholds.min_speedup is not None:
        findings.append(_speed(report, source, shipped, thresholds.min_speedup, progress))
    if thresholds.max_drop is not None:
        if data is None:
            raise UsageError("{--max_drop} is judged on data: add {--data}")
        findings.append(_drop(report, source, shipped, thresholds.max_drop, data, preprocess, progress))
    return shipped, findings


def _speed(report: Report, source: Path, shipped: Path, least: float, progress: Progress) -> Finding:
    start, target = time.perf_counter(), target_on(report.request.target, report.request.device)
    require_timed(target)
    first = open_session(source, target, report.baseline.threads)
    sessions = {"original": first, "shipped": open_session(shipped, target, report.rows[report.ships].threads)}
    feeds = example_feeds(model_io.to_graph(read_model(source, quantized=True)[1]), leading=first.batch or 1)
    for name, session in sessions.items():
        try_run(session, feeds, str(source if name == "original" else shipped))
    speedup = measure(sessions, feeds, progress=partial(progress, "latency"))["shipped"].speedup
    words = f"{speedup:.2f} times as fast as {source.name}, of at least {least:g}"
    return Finding("speedup", speedup >= least, words, time.perf_counter() - start)


def _drop(
    report: Report,
    source: Path,
    shipped: Path,
    most: float | str,
    data: Data,
    preprocess: str | Path | None,
    progress: Progress,
) -> Finding:
    start, metric, target = time.perf_counter(), str(report.settings["metric"]), report.request.target
    output = str(report.settings.get("metric_output") or "")
    before, after = (
        evaluate_model(model, data, metric, preprocess, progress, source, target, output, model is source).scores
        for model in (source, shipped)
    )
    q, limit = report.metric, allowed(most, before)
    check_budget(limit, 0.5, q)
    drop = before.scale.drop(before.metric, after.metric)
    finite = not after.nonfinite
    lost = f"{q.change(abs(drop))} {'better' if drop < 0 else 'worse'}" if drop else "as good"
    words = f"{lost} ({q.said(before.metric)} to {q.said(after.metric)}), at most {q.limit(limit)}"
    words += "" if finite else f"; {after.nonfinite.words(after.samples)}"
    return Finding("drop", finite and drop <= limit + 1e-9, words, time.perf_counter() - start)


def junit(model: Path, findings: list[Finding]) -> str:
    """The findings as JUnit's XML, as Jenkins's schema (junit-10.xsd) and others take it: a test case each."""
    failed = sum(not finding.met for finding in findings)
    total = f"{sum(finding.seconds for finding in findings):.3f}"
    counts = {"tests": str(len(findings)), "failures": str(failed), "errors": "0", "time": total}
    root = ET.Element("testsuites", {"name": "hqp check", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": str(model), **counts})
    for finding in findings:
        case = {"classname": "hqp.check", "name": finding.name, "time": f"{finding.seconds:.3f}"}
        element = ET.SubElement(suite, "testcase", case)
        if finding.met:
            ET.SubElement(element, "system-out").text = finding.words
        else:
            ET.SubElement(element, "failure", {"message": finding.words, "type": "threshold"}).text = finding.words
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
