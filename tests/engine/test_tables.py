from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hqp_onnx.cli.tables.engines import build_lines, engine_rows, engine_table
from hqp_onnx.engine import BuildReport, BuiltOn, EngineLatency

FAST = EngineLatency(8, 100, 2.0, 3.0, {"conv": 1.5}, 10.0, 0.0025)
SLOW = EngineLatency(1, 50, 1.0, 1.0)


def test_rows_hold_ratios_to_the_first() -> None:
    first, second = engine_rows({"a.engine": FAST, "b.engine": SLOW})
    assert (first["throughput"], first["speedup"], first["layers"]) == (4000, 1, {"conv": 1.5})
    assert (second["throughput"], second["speedup"], second["joules"]) == (1000, 0.25, None)
    assert first["paper_joules"] == pytest.approx(10 * 2e-3 / 8)


def test_the_table_leaves_blank_what_was_not_measured() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(engine_table({"a.engine": FAST, "b.engine": SLOW}))
    lines = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["a.engine", "8", "2.000", "3.000", "4000", "1.00x", "10", "2.5", "2.5"] in lines
    assert ["b.engine", "1", "1.000", "1.000", "1000", "0.25x"] in lines


def test_what_was_built_in_words() -> None:
    report = BuildReport(
        model="m.onnx",
        model_sha256="0",
        engine="m.engine",
        tensorrt="8.6.2",
        built=True,
        device=BuiltOn("Orin", "8.7"),
        precision="int8",
        path="implicit",
        scales="own",
        strongly_typed=False,
        flags=("INT8",),
        float_weights=False,
        float16_model=False,
        calibration="entropy",
        calibration_cache=None,
        shapes={},
        workspace_mib=None,
        dla=None,
        version_compatible=False,
        hardware_compatible=False,
        seconds=1.0,
        notes=("a note",),
        bytes=2_500_000,
        layers=(1, 2, 3),
    )
    first, note = build_lines(report, Path("m.engine"))
    assert first == (
        "m.engine: 2.50 MB, 3 layers, INT8, implicit, scales: own, weakly typed; TensorRT 8.6.2 on Orin (8.7)"
    )
    assert note == "a note"
    elsewhere = replace(report, built=False, device=None, bytes=None, layers=None)
    assert build_lines(elsewhere, Path("m.engine"))[0].startswith("m.engine.sh: INT8, implicit")
