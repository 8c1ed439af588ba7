"""report.json read back: equal to what was written, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hqp_onnx.errors import DataError
from hqp_onnx.files import json_text
from hqp_onnx.job.cost_model import CostModel
from hqp_onnx.job.results import Report
from hqp_onnx.report.reading import read_report

Values = dict[str, Any]


@pytest.fixture
def values(folder: Path) -> Values:
    found: Values = json.loads((folder / "report.json").read_text())
    return found


def again(folder: Path, values: object) -> Report:
    (folder / "report.json").write_text(json_text(values))
    return read_report(folder)


def test_what_was_written_is_read(folder: Path, returned: Report) -> None:
    assert read_report(folder) == returned
    assert returned.settings["only"] == ["*"]
    assert returned.why_stopped.startswith("the budget ended the search: with ")
    refused = min(t.sparsity for t in returned.trials if t.precision == "fp32" and not t.accepted)
    assert f"{100 * refused:.1f} % of the units" in returned.why_stopped
    assert returned.why_stopped in returned.notes


def test_every_part_survives(tmp_path: Path, returned: Report) -> None:
    cost = CostModel(0.5, 0.25, 3, 10, 20, 1.5, 2)
    inputs = (replace(returned.inputs[0], shape=(None, 1, None), name="\udcff \x00 <é>"),)
    files = {**returned.files, "recovered": "recovered/int8.onnx"}
    whole = replace(returned, q8_only=None, recovered=returned.hqp, ships="recovered", files=files)
    whole = replace(whole, cost_model=cost, inputs=inputs, floats=("a", "b"))
    assert again(tmp_path, whole.json()) == whole


def test_the_keys_are_those_that_programs_read(values: Values, returned: Report) -> None:
    rows = {"baseline", "q8_only", "pruned", "hqp"}
    assert set(values) == rows | {
        *("schema_version", "model", "data", "samples", "budget_met", "shipped", "settings", "budget_spent", "floats"),
        *("cost_model", "seconds", "units", "machine", "notes", "trials", "layers", "saliency_histogram", "frozen"),
        *(
            "inputs",
            "ships",
            "why",
            "files",
            "verified",
            "warnings",
            "metric",
            "max_drop",
            "network",
            "changes",
            "why_stopped",
            "counted",
        ),
    }
    assert values["schema_version"] == 3
    assert values["metric"] == {"name": "agreement", "unit": "points", "higher": True}
    assert values["ships"] == "hqp" and values["files"]["hqp"] == "int8.onnx" == Path(values["shipped"]).name
    assert (
        values["verified"]["hqp"]["outputs"]["logits"]["sqnr_db"] == returned.verified["hqp"].outputs["logits"].sqnr_db
    )
    assert list(returned.rows) == ["baseline", "q8_only", "pruned", "hqp"]
    for name, row in returned.rows.items():
        assert values[name] == asdict(row)
    cost = values["cost_model"]
    assert cost["c_hqp"] == pytest.approx(cost["t_prune"] * cost["d_val"] * cost["c_inf"])  # l2 takes no gradients
    assert cost["c_qat"] is None and cost["ratio"] is None
    assert cost["qat_estimate"] == {"epochs": 10, "train_samples": 50_000}


def test_what_has_a_usual_value_may_be_left_out(tmp_path: Path, values: Values) -> None:
    del values["settings"]["confidence"]
    del values["cost_model"]["c_recover"], values["cost_model"]["t_recover"]
    found = again(tmp_path, values)
    assert (found.request.confidence, found.cost_model.c_recover) == (0.5, 0)


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path, values: Values, returned: Report) -> None:
    values["hqp"]["news"] = values["news"] = {"a": [1]}
    assert again(tmp_path, values) == returned


def _set(path: str, value: object) -> Callable[[Values], None]:
    """A change of one value."""
    *parents, last = (int(word) if word.isdigit() else word for word in path.split("."))

    def change(values: Values) -> None:
        inner: Any = values
        for key in parents:
            inner = inner[key]
        if value is None:
            del inner[last]
        else:
            inner[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("schema_version", 1), "has schema 1, this version reads 3. Use the version that wrote it"),
        (_set("schema_version", "one"), "Expected `int`, got `str` - at `$.schema_version`"),
        (_set("hqp", None), "missing required field `hqp`"),
        (_set("hqp.metric", "high"), "Expected `float`, got `str` - at `$.hqp.metric`"),
        (_set("hqp.metric", 10**400), "report.json: not"),
        (_set("engine", {}), "missing required field `metric` - at `$.engine`"),
        (_set("layers.0.channels", 0), "0 channels - at `$.layers[0]`"),
        (_set("saliency_histogram.edges", [1.0]), "one edge more than bins"),
        (_set("trials.0.accepted", 1), "Expected `bool`, got `int` - at `$.trials[0].accepted`"),
        (_set("max_drop", None), "missing required field `max_drop`"),
        (_set("max_drop", "1.5 points"), "Expected `float`, got `str` - at `$.max_drop`"),
        (_set("budget_spent", {}), "budget_spent has no 'left'"),
        (_set("budget_spent.left", "all"), "Expected `float`, got `str` - at `$.budget_spent[...]`"),
        (_set("ships", "recovered"), "what ships, 'recovered', has no row or no file"),
        (_set("files.hqp", None), "what ships, 'hqp', has no row or no file"),
        (_set("machine", ["x86"]), "Expected `object`, got `array` - at `$.machine`"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    tmp_path: Path, values: Values, change: Callable[[Values], None], words: str
) -> None:
    change(values)
    with pytest.raises(DataError) as error:
        again(tmp_path, values)
    assert str(error.value).startswith(f"{tmp_path / 'report.json'}: ")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\x01\xff\xfe",
        b"\xff" * 8,
        b'{"samples": NaN}',
        b'{"samples": 1e999}',
        b'{"a":' + b"[" * 200_000,
        b"9" * 10_000,
        b"<html>",
    ],
)
def test_what_is_not_json_is_said_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match=r"report\.json: not JSON .* Run `hqp optimize` again"):
        read_report(tmp_path)


def test_a_report_cut_off_anywhere_is_said_in_one_line(tmp_path: Path, folder: Path) -> None:
    whole = (folder / "report.json").read_bytes().rstrip()
    for end in range(0, len(whole), 397):
        (tmp_path / "report.json").write_bytes(whole[:end])
        with pytest.raises(DataError, match="not JSON"):
            read_report(tmp_path)
