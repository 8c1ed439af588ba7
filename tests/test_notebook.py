"""What a notebook sees: the docs' notebook runs cell by cell, results are tables, progress is text."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from small_model import small_model

import hqp_onnx

ROOT = Path(__file__).parents[1]


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "tools" / "notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_cell_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
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
