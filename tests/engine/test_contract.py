"""What engine/ asks of TensorRT exists in the real bindings of versions 8, 10 and 11, and is asked as intended.

``tools/fetch_trt_bindings.py`` fetches the bindings; HQP_TRT_BINDINGS names its folder (default: .venv).
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BINDINGS = Path(os.environ.get("HQP_TRT_BINDINGS", ROOT / ".venv"))


@pytest.fixture(scope="module", params=[8, 10, 11])
def facts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``contract.py`` saw with one version."""
    folder = BINDINGS / f"trt-{request.param}"
    if not folder.is_dir():
        pytest.skip(f"no bindings in {folder}: run tools/fetch_trt_bindings.py")
    paths = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT, HERE)))}
    work = tmp_path_factory.mktemp("contract")
    command = [sys.executable, "-W", "error", str(HERE / "contract.py"), str(work)]
    done = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads((work / "facts.json").read_text())
    return found | {"major": request.param}


def calls(facts: dict[str, Any], build: str, name: str) -> list[Any]:
    """Arguments of the recorded calls of ``name``."""
    return [call[1:] for call in facts["builds"][build]["log"] if call[0] == name]


def flags(facts: dict[str, Any], build: str) -> set[str]:
    return {flag for (flag,) in calls(facts, build, "set_flag")}


def test_the_table_of_versions_is_what_the_bindings_have(facts: dict[str, Any]) -> None:
    assert facts["version"].startswith(f"{facts['major']}.")
    assert facts["table"] == facts["of"]
    assert facts["of"]["implicit"] == (facts["major"] < 11)
    assert facts["detected"]["device"] == {"name": "Stub", "compute": [8, 7]}
    assert facts["detected"]["dla_cores"] == 2


def test_without_a_gpu_the_error_says_so(facts: dict[str, Any]) -> None:
    assert facts["no GPU"]["error"] == "MissingRuntimeError"
    assert "no usable GPU" in facts["no GPU"]["message"]


def test_polygraphy_and_tensorrt_print_nothing(facts: dict[str, Any]) -> None:
    assert facts["printed"] == ""


def test_every_build_ends_in_an_engine_and_a_report_or_in_one_line(facts: dict[str, Any]) -> None:
    for name, build in facts["builds"].items():
        if "error" in build["report"]:
            assert build["report"]["error"] == "UsageError" and build["files"] == [], name
        else:
            assert build["files"] == [f"{name}.engine", f"{name}.engine.json"]
            assert build["report"]["layers"] == [{"Name": "double", "TacticName": "sm80", "asked": "JSON"}]
    refused = {name for name, build in facts["builds"].items() if "error" in build["report"]}
    assert refused == {8: {"strong"}, 10: set(), 11: {"own", "tensorrt", "minmax", "cached"}}[facts["major"]]


def test_paths(facts: dict[str, Any]) -> None:
    report = facts["builds"]["default"]["report"]
    expected = {8: ("implicit", "own", False), 10: ("explicit", "own", False), 11: ("explicit", "own", True)}
    assert (report["path"], report["scales"], report["strongly_typed"]) == expected[facts["major"]]
    wanted = {8: ["EXPLICIT_BATCH"], 10: [], 11: ["STRONGLY_TYPED"]}[facts["major"]]
    assert calls(facts, "default", "create_network") == [[wanted]]


def test_precision_flags(facts: dict[str, Any]) -> None:
    weak = facts["major"] < 11
    assert flags(facts, "fp32") == set()
    assert flags(facts, "fp16") == ({"FP16"} if weak else set())
    assert flags(facts, "explicit") == ({"FP16", "INT8"} if weak else set())
    assert calls(facts, "explicit", "int8_calibrator") == []


def test_weights_are_stored_as_the_parser_takes_them(facts: dict[str, Any]) -> None:
    ((operators, types),) = calls(facts, "explicit", "parse")
    stored = {
        kind for name, kind in types if name.startswith("w/") and name.split("/")[-1] not in ("scale", "zero_point")
    }
    assert stored - {"FLOAT16"} == ({"FLOAT"} if facts["major"] == 8 else {"INT8"})
    assert operators.count("QuantizeLinear") == (2 if facts["major"] == 8 else 1)


def test_strongly_typed_models_are_float16(facts: dict[str, Any]) -> None:
    if facts["major"] == 8:
        assert "weakly typed" in facts["builds"]["strong"]["report"]["message"]
        return
    assert calls(facts, "strong", "create_network") == [[["STRONGLY_TYPED"]]]
    ((_, types),) = calls(facts, "strong", "parse")
    assert {kind for _, kind in types} == {"INT8", "FLOAT16"}
    assert flags(facts, "strong") == set()


def test_int8_is_refused_where_the_gpu_has_none(facts: dict[str, Any]) -> None:
    asked, default = facts["nano"]["asked"], facts["nano"]["default"]
    assert asked["report"] == {
        "error": "UsageError",
        "message": "precision int8: Stub (compute capability 5.3) has no INT8. Use precision fp16",
    }
    assert asked["files"] == []
    assert default["report"]["precision"] == "fp16" and "INT8 refused" in default["report"]["notes"][0]


def test_profile(facts: dict[str, Any]) -> None:
    assert calls(facts, "fp32", "set_shape") == [["x", [1, 3, 4, 4], [4, 3, 4, 4], [8, 3, 4, 4]]]


def test_options_reach_the_configuration(facts: dict[str, Any]) -> None:
    assert calls(facts, "options", "set_memory_pool_limit") == [["WORKSPACE", 64 * 1024 * 1024]]
    assert calls(facts, "options", "hardware_compatibility_level") == [["AMPERE_PLUS"]]
    assert "VERSION_COMPATIBLE" in flags(facts, "options")
    assert calls(facts, "fp16", "set_memory_pool_limit") == []


def test_the_timing_cache_is_written_and_read_again(facts: dict[str, Any]) -> None:
    assert calls(facts, "options", "create_timing_cache")[0] == [0]
    assert calls(facts, "retimed", "create_timing_cache")[0] == [len(b"timings")]


def test_dla(facts: dict[str, Any]) -> None:
    assert calls(facts, "dla", "default_device_type") == [["DLA"]]
    assert calls(facts, "dla", "DLA_core")[-1] == [1]
    assert "GPU_FALLBACK" in flags(facts, "dla")
    report = facts["builds"]["dla"]["report"]
    assert (report["path"], report["scales"]) == (("implicit", "own") if facts["major"] < 11 else ("explicit", "own"))


def test_calibrators_are_of_tensorrts_classes_and_feed_the_data(facts: dict[str, Any]) -> None:
    if facts["major"] == 11:
        assert facts["calibrator"] is None
        return
    seen = facts["calibrator"]
    assert seen["entropy"] and seen["minmax"] and seen["algorithm"] == "ENTROPY_CALIBRATION_2"
    rows = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]  # ten samples, the last batch filled up from the start
    assert seen["fed"] == [[[float(row)] * 48 for row in batch] for batch in rows] * 2
    assert seen["before"] is None
    assert seen["file"] == seen["read"] == "TRT-8601-EntropyCalibration2\nx: 3c010204\n"


def test_tensorrt_calibrates_or_reads_a_cache(facts: dict[str, Any]) -> None:
    if facts["major"] == 11:
        assert "no implicit INT8" in facts["builds"]["tensorrt"]["report"]["message"]
        return
    for build, base in (("tensorrt", "IInt8EntropyCalibrator2"), ("minmax", "IInt8MinMaxCalibrator")):
        ((bases, _),) = calls(facts, build, "calibrator")
        assert base in bases
        assert calls(facts, build, "batches") == [[[[0, 3], [4, 7], [8, 1]]]]
    number = {8: "8601", 10: "101601"}[facts["major"]]
    assert calls(facts, "cached", "cache") == [[f"TRT-{number}-EntropyCalibration2\nx: 3c010204\n"]]
    ((text,),) = calls(facts, "own", "cache")
    first, *lines = text.splitlines()
    scales = {line.split(": ")[0]: struct.unpack(">f", bytes.fromhex(line.split(": ")[1]))[0] for line in lines}
    assert first == f"TRT-{number}-EntropyCalibration2"
    assert scales.keys() == {"x", "h", "y"}
    assert scales["x"] == pytest.approx(9 / 127, rel=0.01)  # samples are 0 .. 9; the threshold may fall a bin short


def test_an_engine_runs_and_is_timed(facts: dict[str, Any]) -> None:
    assert facts["outputs"] == [2, 4]  # the fake doubles 1 and 2
    assert facts["layers"] == {"double": 0.25}
    measured = facts["measured"]
    assert measured["batch"] == 4 and measured["runs"] >= 50 and measured["layers"] == {"double": 0.25}
    assert 0 < measured["median_ms"] <= measured["p99_ms"]


def test_what_cannot_run_is_one_line(facts: dict[str, Any]) -> None:
    assert facts["batch 9"]["error"] == "UsageError" and "1 to 8" in facts["batch 9"]["message"]
    assert facts["not an engine"]["error"] == "ModelError"
    assert facts["no pycuda"]["error"] == "MissingRuntimeError"
    assert all("\n" not in facts[key]["message"] for key in ("batch 9", "not an engine", "no pycuda", "no GPU"))
