"""What a notebook sees: the docs' notebook runs cell by cell, results are tables, progress is text."""

from __future__ import annotations

import importlib.util
import json
import re
from html import unescape
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from small_model import small_model
from steady import steady

import hqp_onnx
from hqp_onnx import BuildOptions, Scores

ROOT = Path(__file__).parents[1]


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "tools" / "notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_cell_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    steady(monkeypatch)
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    ran = _tool().executed(notebook, ROOT / "docs")
    before, after = ([cell.get("outputs", []) for cell in book["cells"]] for book in (notebook, ran))
    assert [len(outputs) for outputs in before] == [
        len(outputs) for outputs in after
    ]  # the stored ones are of these cells
    shown = [output["data"] for outputs in after for output in outputs if "data" in output]
    assert sum("text/html" in data for data in shown) == 2


def test_results_are_tables_in_a_notebook() -> None:
    html = hqp_onnx.inspect(small_model())._repr_html_()
    assert html.startswith("<table") and "graph output &#x27;logits&#x27;" in html


def shown(result: object) -> list[list[str]]:
    """The words of each row of a table."""
    html = result._repr_html_()  # type: ignore[attr-defined]
    assert html.startswith("<table")
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    return [[unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]


def test_scores_are_a_table() -> None:
    scores = Scores(np.array([1.0, 0.0, 1.0, 1.0]), 4, parts={"<first>": 0.25})
    assert shown(scores)[1:] == [["metric", "0.75"], ["<first>", "0.25"], ["samples", "4"]]
    assert ["samples", "4 of 9"] in shown(Scores(np.ones(4), 9))


def test_latencies_are_a_table_and_a_dictionary() -> None:
    found = hqp_onnx.benchmark([small_model(), small_model()])
    assert isinstance(found, dict) and list(found) == ["<model 1>", "<model 2>"]
    head, first, second = shown(found)
    assert head == ["model", "median ms", "p10", "p90", "speedup"]
    assert first[0] == "<model 1>" and first[-1] == "1.00x" and float(second[1]) >= 0


def test_a_build_is_a_table(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "m.onnx")
    report = hqp_onnx.build(BuildOptions(tmp_path / "m.onnx", tmp_path / "m.engine", elsewhere="10.3.0"))
    rows = shown(report)
    assert ["made", "prepared for another machine"] in rows and ["precision", report.precision] in rows
    assert all(["note", note] in rows for note in report.notes)


def test_progress_is_lines_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("hqp_onnx.progress.time.perf_counter", lambda: now)
    said: list[str] = []
    report = hqp_onnx.Lines(said.append, seconds=5)
    for done in range(11):
        now = float(done)
        report("moments", done, 10)
    report("evaluation", 3, 3)
    assert said == ["moments: 6 of 10\n", "moments: 10 in 10.0 s\n", "evaluation: 3 in 0.0 s\n"]


def test_lines_go_to_where_stdout_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    hqp_onnx.Lines()("times", 1, 1)
    assert capsys.readouterr().out.startswith("times: 1 in ")
