"""What was shipped, held to thresholds again: verdicts, exit codes, JUnit."""

from __future__ import annotations

import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model
from steady import steady

import hqp_onnx
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


SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url", "version", "group"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": ({"name"}, {"time", "classname", "group"}, {"skipped", "failure", "system-out", "system-err"}),
    "failure": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}
"""What Jenkins's junit-10.xsd says of the elements that we write: attributes that must and may be, and children."""


def held_to_schema(element: ET.Element) -> None:
    must, may, children = SCHEMA[element.tag]
    assert must <= element.attrib.keys() <= must | may, (element.tag, element.attrib)
    assert re.fullmatch(r"\d{1,3}(\.\d{0,3})?", element.get("time", "0")), element.attrib
    assert {child.tag for child in element} <= children, element.tag
    for child in element:
        held_to_schema(child)


def test_the_findings_are_junit(tmp_path: Path) -> None:
    """As another package reads it, with characters that XML knows better."""
    parser = pytest.importorskip("junitparser")
    found = [check.Finding("size", False, '1 < 2 & "3" > 0', 0.5), check.Finding("drop", True, "0.1 points", 1.25)]
    (tmp_path / "j.xml").write_text(check.junit(Path("out/<int8>.onnx"), found))
    held_to_schema(ET.parse(tmp_path / "j.xml").getroot())
    (suite,) = parser.JUnitXml.fromfile(str(tmp_path / "j.xml"))
    assert (suite.name, suite.tests, suite.failures, suite.errors) == ("out/<int8>.onnx", 2, 1, 0)
    missed, held = suite
    assert isinstance(missed.result[0], parser.Failure) and missed.result[0].message == found[0].words
    assert held.is_passed and held.time == 1.25 and "0.1 points" in held.system_out


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
    held_to_schema(root)
    assert root.tag == "testsuites" and root.attrib["failures"] == ("0" if holds else "2")
    cases = root.findall("./testsuite/testcase")
    assert [case.attrib["name"] for case in cases] == ["size", "drop"]
    assert all((case.find("failure") is None) == holds for case in cases)


def test_a_drop_is_said_once(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--max-drop", "90%", "--data", folder / "data.npz")
    assert hqp(monkeypatch, "check", folder / "out", *words) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"drop: holds, {100 * lost(folder):.2f} points worse (100.00 % to ")
    assert said.out.count("drop") == 1 and said.err.count("metric fidelity") == 1


def test_what_the_target_takes_is_weighed(folder: Path, tmp_path: Path) -> None:
    out = shutil.copytree(folder / "out", tmp_path / "out")
    report = json.loads((out / "report.json").read_text())
    report["shipped"] = report["shipped"].replace(".onnx", ".tflite")  # as of --target litert
    (out / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match=r"pruned\.tflite"):
        check.check_folder(out, Thresholds(max_size=77))
    (out / "pruned.tflite").write_bytes(bytes(77))
    for limit, met in ((77, True), (76, False)):
        ((finding,),) = check.check_folder(out, Thresholds(max_size=limit))[1:]
        assert (finding.met, finding.words) == (met, f"pruned.tflite takes 77 bytes, at most {limit}")


def test_the_speed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hqp(monkeypatch, "check", folder / "out", "--min-speedup", 1e-6, "--quiet") == 0
    assert "speedup: holds" in capsys.readouterr().out
    assert hqp(monkeypatch, "check", folder / "out", "--min-speedup", 1e6, "--quiet") == 4
    said = capsys.readouterr()
    assert "speedup: missed" in said.out and "speedup missed" in said.err


def test_it_is_a_function_too(folder: Path, tmp_path: Path) -> None:
    size = (folder / "out" / "pruned.onnx").stat().st_size
    data = {"input": small_data(60)["input"]}
    found = hqp_onnx.check(folder / "out", max_size=size - 1, max_drop="90%", data=data)
    assert [(each.name, each.met) for each in found] == [("size", False), ("drop", True)]
    with pytest.raises(UsageError, match="nothing to check: give max_drop, min_speedup or max_size"):
        hqp_onnx.check(folder / "out")
    written = hqp_onnx.export(folder / "out", tmp_path / "m.ort", "ort")
    assert isinstance(written, hqp_onnx.Exported) and written.bytes == (tmp_path / "m.ort").stat().st_size


def test_what_is_lacking(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--max-drop", "0.1"], [], ["--max-size", "a lot"], ["--min-speedup", "0"]):
        assert hqp(monkeypatch, "check", folder / "out", *words, "--quiet") == 2
    assert hqp(monkeypatch, "check", folder, "--max-size", "1MB") == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--junit", "--json"])
@pytest.mark.parametrize(
    "name", ["out/pruned.onnx", "out/ledger.json", "out/ledger.jsonl", "out/.hqp.jsonl", "small.onnx"]
)
def test_nothing_that_an_optimization_left_is_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    before = (folder / name).read_bytes()
    assert hqp(monkeypatch, "check", folder / "out", "--max-size", "9MB", option, folder / name, "--quiet") == 2
    assert (folder / name).read_bytes() == before
    export = ("export", folder / "out", "--format", "ort", "-o", folder / "new.ort")
    if option == "--json" and name.startswith("out/"):
        assert hqp(monkeypatch, *export, option, folder / name) == 2 and (folder / name).read_bytes() == before


def test_findings_may_lie_beside_what_was_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = folder / "out" / "found.xml"
    for _ in range(2):
        assert hqp(monkeypatch, "check", folder / "out", "--max-size", "9MB", "--junit", found, "--quiet") == 0
    found.unlink()


def test_names_that_xml_does_not_take_are_escaped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a\x01b", os.fsdecode(b"a\xffb")):
        out = shutil.copytree(folder / "out", folder / name)
        assert hqp(monkeypatch, "check", out, "--max-size", "9MB", "--junit", folder / "odd.xml", "--quiet") == 0
        held_to_schema(ET.parse(folder / "odd.xml").getroot())


def test_sizes_in_words() -> None:
    for text, size in {
        "2MB": 2_000_000,
        "1.5 kB": 1500,
        "1 MiB": 1 << 20,
        "2KiB": 2048,
        "77": 77,
        "3GB": 3 * 10**9,
    }.items():
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


def test_what_is_no_model_is_not_small(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    (tmp_path / "out" / "pruned.onnx").write_bytes(b"x")
    assert hqp(monkeypatch, "check", str(tmp_path / "out"), "--max-size", "1MB") == 2
