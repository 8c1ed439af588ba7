"""What was shipped, held to thresholds again: verdicts, exit codes, JUnit."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model
from steady import steady

from hqp_onnx import Options, optimize
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps import check
from hqp_onnx.steps.check import Thresholds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("check")
    onnx.save(small_model(), made / "small.onnx")
    np.savez(made / "data.npz", input=small_data(60)["input"])
    chosen = {"objective": "sparsity", "saliency": "l2", "compensate": False, "multiple_of": 1, "metric": "fidelity"}
    data = str(made / "data.npz")
    with pytest.MonkeyPatch.context() as patch:
        steady(patch)
        optimize(Options(made / "small.onnx", data, data, made / "out", max_drop=0.3, precision="fp32", **chosen))
    return made


def lost(folder: Path) -> float:
    """By plain arithmetic."""
    feeds = {"input": small_data(60)["input"]}
    want, got = (Session(folder / name).run(feeds)["logits"] for name in ("small.onnx", "out/pruned.onnx"))
    near = 1 - np.square(got - want).sum(1) / np.square(want).sum(1)
    return 1 - float(np.clip(near, 0, 1).mean())


@pytest.mark.parametrize("holds", [True, False])
def test_the_drop_and_the_size(folder: Path, holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    drop, size = lost(folder), (folder / "out" / "pruned.onnx").stat().st_size
    limits = ["--max-drop", drop + (1e-4 if holds else -1e-4), "--max-size", size - (not holds)]
    files = ["--junit", folder / "junit.xml", "--json", folder / "found.json", "--quiet"]
    code = hqp(monkeypatch, "check", folder / "out", *limits, "--data", folder / "data.npz", *files)
    assert code == (0 if holds else 4)
    found = json.loads((folder / "found.json").read_text())["findings"]
    assert [(f["name"], f["met"]) for f in found] == [("size", holds), ("drop", holds)]
    root = ET.parse(folder / "junit.xml").getroot()
    assert root.tag == "testsuites" and root.attrib["failures"] == ("0" if holds else "2")
    cases = root.findall("./testsuite/testcase")
    assert [case.attrib["name"] for case in cases] == ["size", "drop"]
    assert all((case.find("failure") is None) == holds for case in cases)


def test_the_speed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hqp(monkeypatch, "check", folder / "out", "--min-speedup", 1e-6, "--quiet") == 0
    assert "speedup: holds" in capsys.readouterr().out
    assert hqp(monkeypatch, "check", folder / "out", "--min-speedup", 1e6, "--quiet") == 4
    said = capsys.readouterr()
    assert "speedup: missed" in said.out and "speedup missed" in said.err


def test_what_is_lacking(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--max-drop", "0.1"], [], ["--max-size", "a lot"], ["--min-speedup", "0"]):
        assert hqp(monkeypatch, "check", folder / "out", *words, "--quiet") == 2
    assert hqp(monkeypatch, "check", folder, "--max-size", "1MB") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_sizes_in_words() -> None:
    for text, size in {"2MB": 2_000_000, "1.5 kB": 1500, "1 MiB": 1 << 20, "77": 77, "3GB": 3 * 10**9}.items():
        assert Thresholds(max_size=text).bytes == size
    with pytest.raises(UsageError, match="expected bytes"):
        Thresholds(max_size="-1")
    assert check.Thresholds(min_speedup=1.0).bytes is None


def test_an_original_that_has_moved_is_named(folder: Path) -> None:
    moved = folder / "moved.onnx"
    (folder / "small.onnx").rename(moved)
    try:
        with pytest.raises(DataError, match=r"small\.onnx, .*, is not there: name it by orig"):
            check.check_folder(folder / "out", Thresholds(max_drop=1.0), str(folder / "data.npz"))
        found = check.check_folder(folder / "out", Thresholds(max_drop=1.0), str(folder / "data.npz"), moved)
        assert found[1][0].met
    finally:
        moved.rename(folder / "small.onnx")
