"""Engines that a board builds, and its power: scripts play trtexec and tegrastats, in their own words."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx.parser
import pytest
from command import hqp
from folder_board import FolderBoard
from small_model import small_data, small_model

from hqp_onnx.boards import engines
from hqp_onnx.boards import link as links
from hqp_onnx.boards.board import Board, OnBoard, board_of
from hqp_onnx.engine import BuildOptions, BuildReport
from hqp_onnx.engine.cache import version_number, version_text
from hqp_onnx.engine.trtexec import summary
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.runtimes.runtime import OnnxRuntime
from hqp_onnx.runtimes.session import CPU
from hqp_onnx.steps.benchmark import benchmark_models
from hqp_onnx.steps.build import build_file

TRTEXEC = """#!/bin/sh
echo '&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec'
[ "$1" = --help ] && exit 0
echo run >> "$RUNS"
for word; do
    case $word in
        --onnx=*) model=${word#*=} ;;
        --saveEngine=*) engine=${word#*=} ;;
        --timingCacheFile=*) echo more >> "${word#*=}" ;;
    esac
done
[ -f "$model" ] || { echo "[E] no $model"; exit 1; }
[ -z "$FAULT" ] || { echo "[01/01/2026-00:00:00] [E] Error[10]: $FAULT"; echo '&&&& FAILED TensorRT.trtexec'; exit 1; }
sha256sum < "$model" | cut -c 1-64 > "$engine"
echo '[01/01/2026-00:00:00] [I] Starting inference'
sleep 0.3
echo '[01/01/2026-00:00:03] [I] === Performance summary ==='
echo '[01/01/2026-00:00:03] [I] Throughput: 250.5 qps'
echo '[01/01/2026-00:00:03] [I] Latency: min = 3 ms, max = 5 ms, mean = 4 ms, median = 4 ms, percentile(99%) = 5 ms'
echo '[01/01/2026-00:00:03] [I] GPU Compute Time: min = 1.9 ms, max = 3 ms, mean = 2 ms, median = 2.25 ms, '\
'percentile(90%) = 2.5 ms, percentile(99%) = 2.75 ms'
echo '&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec'
"""
TEGRASTATS = """#!/bin/sh
while echo 'RAM 2462/7772MB (lfb 4x1MB) VDD_IN 5010mW/5010mW VDD_CPU_GPU_CV 900mW/900mW'; do sleep 0.02; done
"""


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderBoard:
    """A board with both tools, which ``--device`` means whatever it says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(links, "_PAUSE_SECONDS", 0.01)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("trtexec", TRTEXEC), ("tegrastats", TEGRASTATS)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    board = FolderBoard(
        tmp_path / "board", environment={"PATH": f"{tools}:/usr/bin:/bin", "RUNS": str(tmp_path / "runs")}
    )
    monkeypatch.setattr(engines, "transport_of", lambda device: board)
    onnx.save(small_model(), tmp_path / "m.onnx")
    return board


def build(tmp_path: Path, **options: object) -> BuildReport:
    return build_file(BuildOptions(tmp_path / "m.onnx", tmp_path / "m.engine", device="ssh://b", **options))  # type: ignore[arg-type]


def test_the_engine_comes_back_with_its_times_and_its_energy(tmp_path: Path, jetson: FolderBoard) -> None:
    timings = tmp_path / "tactics.cache"
    timings.write_text("some\n")
    report = build(tmp_path, precision="fp16", shapes=("input:1x1x8x8,4x1x8x8,8x1x8x8",), timing_cache=timings)
    engine = (tmp_path / "m.engine").read_bytes()
    sent = jetson.sent[1:]  # the script that times comes first
    assert engine.decode().strip() in sent and report.bytes == len(engine) == 65
    assert (report.built, report.tensorrt, report.flags) == (True, "8.5.2", ("FP16",))
    ran = report.board
    assert ran is not None and (ran.name, ran.batch, ran.median_ms, ran.p99_ms) == ("board", 4, 2.25, 2.75)
    assert ran.throughput == 4 * 250.5 and ran.meter == "tegrastats" and ran.joules is not None
    assert ran.joules == pytest.approx(5.01 / ran.throughput)
    assert json.loads((tmp_path / "m.engine.json").read_text()) == json.loads(json.dumps(report.json()))
    assert timings.read_text() == "some\nmore\n"
    assert not jetson.folder.exists()  # nothing is left there


def test_a_number_as_an_input_is_no_batch(tmp_path: Path, jetson: FolderBoard) -> None:
    for inputs, batch in (("float[3,4] x, float factor", 3), ("float x, float factor", 1)):
        text = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[] y) {{ y = Mul(x, factor) }}'
        onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
        ran = build(tmp_path, precision="fp16").board
        assert ran is not None and (ran.batch, ran.throughput) == (batch, batch * 250.5)


@pytest.mark.parametrize("cuts", [[0], [1, 0], [3], [4]])
def test_a_connection_that_is_lost_builds_nothing_twice(cuts: list[int], tmp_path: Path, jetson: FolderBoard) -> None:
    jetson.cuts = [1 + cuts[0], *cuts[1:]]  # the first answer connects
    report = build(tmp_path, precision="fp16")
    assert not jetson.cuts and jetson.starts == len(cuts) + 1
    assert (tmp_path / "runs").read_text() == "run\n" and report.bytes == 65


def test_what_fails_there_is_one_line(tmp_path: Path, jetson: FolderBoard) -> None:
    assert jetson.environment is not None
    jetson.environment["FAULT"] = "no kernel for this"
    with pytest.raises(ModelError, match=r"board: trtexec ends with 1: .*Error\[10\]: no kernel for this"):
        build(tmp_path, precision="fp16")
    jetson.environment["PATH"] = "/usr/bin:/bin"
    with pytest.raises(ModelError, match="board: it has no trtexec"):
        build(tmp_path)
    with pytest.raises(UsageError, match=r"with the TensorRT it has\. Leave out elsewhere"):
        build(tmp_path, elsewhere="8.5.2")
    with pytest.raises(UsageError, match="Leave out target and for_gpu"):
        build(tmp_path, target="tensorrt-rtx")
    assert not (tmp_path / "m.engine").exists() and not jetson.folder.exists()


def test_a_gpu_without_int8_is_known(tmp_path: Path, jetson: FolderBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = links.Link.ask

    def answer(link: links.Link, do: str, **what: object) -> object:
        found = asked(link, do, **what)
        return {**found, "gpu": ["NVIDIA Tegra X1", 5, 3]} if do == "tensorrt" else found

    monkeypatch.setattr(links.Link, "ask", answer)
    data = {"input": small_data(8)["input"]}
    with pytest.raises(UsageError, match=r"NVIDIA Tegra X1 \(compute capability 5.3\) has no INT8"):
        build(tmp_path, data=data, precision="int8")
    found = build(tmp_path)
    assert found.device is not None and (found.device.name, found.precision) == ("NVIDIA Tegra X1", "fp16")


@pytest.mark.parametrize("version", [(8, 0, 1), (8, 5, 2), (8, 6, 3), (10, 3, 0), (10, 16, 1), (11, 4, 0)])
def test_versions_are_read_as_they_are_written(version: tuple[int, int, int]) -> None:
    assert version_text(version_number(version)) == ".".join(map(str, version))
    assert version_text("11.4.0.106") == "11.4.0"


def test_a_summary_of_older_versions() -> None:
    log = "[I] Throughput: 23.4642 qps\n[I] GPU Compute Time: min = 41 ms, max = 43 ms, mean = 42 ms, "
    found = summary(log + "median = 41.9604 ms, percentile(99%) = 43.0625 ms\n")
    assert found is not None and (found.median_ms, found.p99_ms, found.per_second) == (41.9604, 43.0625, 23.4642)
    assert summary("[I] nothing ran\n") is None


def test_joules_of_a_sample_are_those_of_the_board(tmp_path: Path, jetson: FolderBoard) -> None:
    board = Board(jetson, CPU)
    try:
        runner = OnBoard(OnnxRuntime(), board).open(small_model(), None, 1, True)
        joules = runner.energy({"input": small_data(2)["input"]})  # type: ignore[attr-defined]
    finally:
        board.link.close()
    assert 0 < joules < 5.01 * 0.01  # a run takes less than 10 ms


def test_benchmark_shows_them(
    tmp_path: Path, jetson: FolderBoard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board_of.cache_clear()
    monkeypatch.setattr("hqp_onnx.boards.board.transport_of", lambda device: jetson)
    assert hqp(monkeypatch, "benchmark", str(tmp_path / "m.onnx"), "--device", "ssh://b", "--batch", "2") == 0
    assert "mJ a sample" in capsys.readouterr().out
    board_of("ssh://b", CPU).link.close()
    board_of.cache_clear()
    here = benchmark_models([small_model()], 2)
    assert [latency.joules for latency in here.values()] == [None]
