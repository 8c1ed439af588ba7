"""What commands write as JSON has the fields, and only those, that docs/json.md describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from command import hqp

from hqp_onnx.channels.removals import _Removals, plan_of, read_removals
from hqp_onnx.cli.answers import Benchmarked, Checked, Compared, Evaluated, Split
from hqp_onnx.data.sources import open_source
from hqp_onnx.data.split import split
from hqp_onnx.engine.build_report import BuildReport
from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.model import open_model
from hqp_onnx.steps.export import Exported
from hqp_onnx.steps.inspect import Inspection


def same(values: Any, kind: Any) -> bool:
    return bool(json.loads(msgspec.json.encode(msgspec.convert(values, kind, strict=False))) == values)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("check {out} --max-size 1MB", Checked),
        ("evaluate {model} --data {data}", Evaluated),
        ("benchmark {model}", Benchmarked),
        ("compare {model} {out}/pruned.onnx {out}/int8.onnx --data {data} --samples 4", Compared),
        ("inspect {model}", Inspection),
        ("export {model} --format ort -o {made}/a.ort", Exported),
        ("build {model} --for 10.3 -o {made}/a.engine", BuildReport),
    ],
)
def test_answers_are_as_they_are_described(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: Any
) -> None:
    monkeypatch.setattr(
        "hqp_onnx.comparison.comparison.measure", lambda sessions, feeds, _: measure(sessions, feeds, 0.1)
    )
    places = {"model": folder.parent / "model.onnx", "data": folder.parent / "data.npz", "out": folder}
    words = command.format(**places, made=tmp_path).split()
    assert hqp(monkeypatch, *words, "--json", tmp_path / "said.json") == 0
    assert same(json.loads((tmp_path / "said.json").read_text()), kind)


def test_a_split_is_as_it_is_described(folder: Path) -> None:
    assert same(split(open_source(str(folder.parent / "data.npz")), 0).json(), Split)


def test_ledgers_state_their_version_and_old_ones_are_read(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "ledger.json").read_text())
    assert values["schema_version"] == 1 and same(values, _Removals)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({key: value for key, value in values.items() if key != "schema_version"}))
    new.write_text(json.dumps({**values, "schema_version": 2}))
    channels = open_model(onnx.load(folder.parent / "model.onnx")).channels()
    assert len(plan_of(old, channels)) == len(plan_of(folder / "ledger.json", channels)) > 0
    with pytest.raises(DataError, match="has schema 2, this version reads 1"):
        read_removals(new)
