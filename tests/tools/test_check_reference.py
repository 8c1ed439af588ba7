"""tools/check_reference.py: the fast part holds, and a loss of 0.3 points is seen in every row."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from conftest import MODELS

ROWS = json.loads((MODELS / "reference.json").read_text())


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MODELS.parent / "tools")
        import check_reference

        yield check_reference


def test_the_fast_part_holds(tool: ModuleType) -> None:
    fast = [row for row in ROWS if row.get("fast")]
    assert fast
    for row in fast:
        assert tool.Figures(**row["expected"]).verdict(tool.measured(row)) == ""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_loss_of_three_tenths_of_a_point_is_seen(row: dict, tool: ModuleType) -> None:
    expected = tool.Figures(**row["expected"])
    assert expected.verdict(expected) == expected.verdict(replace(expected, drop=-1.0, error=0.0)) == ""
    assert "points" in expected.verdict(replace(expected, drop=expected.drop + 0.3))
    assert "points" in expected.verdict(replace(expected, drop=float("nan")))
    assert "error" in expected.verdict(replace(expected, error=2 * expected.error))


def test_what_is_worse_fails_and_what_is_not_here_is_skipped(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {**ROWS[0], "name": "absent", "model": "nowhere.onnx"}
    rows = [absent, {**ROWS[0], "name": "worse"}, {**ROWS[0], "name": "same"}]
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(rows))
    expected = tool.Figures(**ROWS[0]["expected"])
    monkeypatch.setattr(tool, "FILE", file)
    monkeypatch.setattr(
        tool, "measured", lambda row: replace(expected, drop=expected.drop + 0.3 * (row["name"] == "worse"))
    )

    def told(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["check_reference.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            tool.main()
        return ended.value.code, capsys.readouterr().out

    code, out = told()
    assert code == "1 of 3 lose more than before" and "absent: skipped, nowhere.onnx is not here" in out
    assert "worse: drop" in out and "same: ok" in out
    assert told("--only", "another")[0] == 2
    monkeypatch.setattr(sys, "argv", ["check_reference.py", "--only", "worse", "--update"])
    tool.main()
    written = {row["name"]: row["expected"]["drop"] for row in json.loads(file.read_text())}
    assert written["worse"] == expected.drop + 0.3 and written["same"] == expected.drop
