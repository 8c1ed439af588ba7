"""Two of the optimizations that tools/check_reports.py judges again, and what it says of a report that lies."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_reports.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_reports", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("net", "metric"), [("mlp", "top1"), ("twooutputs", "masks")])
def test_plain_code_says_what_the_report_says(tool: ModuleType, tmp_path: Path, net: str, metric: str) -> None:
    case = next(case for case in tool.CASES if (case.net, case.metric) == (net, metric))
    words, wrong = tool.checked(case, tmp_path, 0)
    assert wrong == []
    assert words[0] == net and words[3].endswith(".onnx")


def test_a_report_that_lies_is_found(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tool.optimize

    def lying(options: Any) -> None:
        run(options)
        file = options.folder / "report.json"
        report = json.loads(file.read_text())
        row = report[report["ships"]]
        row["metric"], row["bytes"], row["val_metric"] = (
            row["metric"] + 0.01,
            row["bytes"] - 1,
            row["val_metric"] + 0.01,
        )
        file.write_text(json.dumps(report))

    monkeypatch.setattr(tool, "optimize", lying)
    _, wrong = tool.checked(tool.CASES[0], tmp_path, 0)
    assert {"the metric", "the metric on the validation data", "the size"} <= set(wrong)


def test_there_are_twenty(tool: ModuleType) -> None:
    assert len(tool.CASES) == 20 and {case.net for case in tool.CASES} == set(tool.NETS)
    assert len({json.dumps([case.net, case.metric, dict(case.options)]) for case in tool.CASES}) == 20
