"""Models that are timed on a board: a folder of this machine plays it, over connections that break."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import pytest
from command import hqp
from folder_board import FolderBoard
from small_model import small_data, small_model

from hqp_onnx.boards import board as boards
from hqp_onnx.boards import link as links
from hqp_onnx.boards.board import Board, BoardRunner, OnBoard, target_on
from hqp_onnx.boards.link import Link
from hqp_onnx.boards.transport import transport_of
from hqp_onnx.errors import BoardError, ModelError, UsageError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.runtimes import bench
from hqp_onnx.runtimes.kernels import onnxruntime_kernels
from hqp_onnx.runtimes.runtime import OnnxRuntime
from hqp_onnx.runtimes.session import CPU, Session
from hqp_onnx.runtimes.stopwatch import remembered, stopwatch

FEEDS = {"input": small_data(2)["input"]}
Opened = Callable[[FolderBoard], OnBoard]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is empty, and no pauses between tries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(links, "_PAUSE_SECONDS", 0.01)
    boards.board_of.cache_clear()


@pytest.fixture
def opened() -> Iterator[Opened]:
    """The runtime of a board, which is closed for the next one, and at the end."""
    made: list[Board] = []

    def close() -> None:
        while made:
            made.pop().link.close()

    def open_board(transport: FolderBoard) -> OnBoard:
        close()
        made.append(Board(transport, CPU))
        return OnBoard(OnnxRuntime(), made[-1])

    yield open_board
    close()


def test_the_script_is_one_file_for_python_3_6() -> None:
    tree = ast.parse(Path(bench.__file__).read_text(), feature_version=(3, 6))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module).partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime"}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    given = [a.annotation for f in functions for a in (*f.args.args, *f.args.kwonlyargs)] + [
        f.returns for f in functions
    ]
    assert all(not isinstance(annotation, ast.Subscript) for annotation in given)  # list[int] is evaluated, and new


def test_models_are_timed_there_and_run_here(tmp_path: Path, opened: Opened) -> None:
    transport = FolderBoard(tmp_path)
    runtime, model = opened(transport), small_model()
    sessions = {str(n): runtime.open(model, None, n, True) for n in (1, 2)}
    rounds: list[int] = []
    found = measure(sessions, FEEDS, 0.0, lambda done, _: rounds.append(done))
    assert rounds == [1, 2, 3, 4, 5] and set(found) == {"1", "2"}
    assert all(latency.runs >= 5 * 3 and latency.median_ms > 0 for latency in found.values())
    assert len(transport.sent) == 3  # the script, the inputs, one model for two numbers of threads
    assert isinstance(sessions["1"], BoardRunner) and "_here" not in vars(sessions["1"])
    expected = Session(model).run(FEEDS)["logits"]
    np.testing.assert_array_equal(sessions["1"].run(FEEDS)["logits"], expected)
    assert runtime.board.name in runtime.describe() and runtime.thread_counts()[-1] == 0


def test_kernels_are_those_of_the_runtime(tmp_path: Path, opened: Opened) -> None:
    found = opened(FolderBoard(tmp_path)).kernels(small_model(), FEEDS, 1, 4)
    expected = onnxruntime_kernels(small_model(), FEEDS, threads=1, runs=4)
    assert [(k.names, k.shapes) for k in found] == [(k.names, k.shapes) for k in expected]
    assert all(kernel.seconds > 0 for kernel in found)


def test_texts_are_inputs_too(tmp_path: Path, opened: Opened) -> None:
    runtime = opened(FolderBoard(tmp_path))
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (string[n] file) => (string[n] y) { y = Identity(file) }'
    )
    feeds = {"file": np.array(["a", "ä"], object)}
    assert len(stopwatch(runtime.open(model, None, 1, True), feeds)(0, 0, 3, 3)) == 3


def test_no_answer_is_lost_with_a_connection(tmp_path: Path, opened: Opened) -> None:
    """Whatever the answer at which it breaks: every turn is there once, and no file is sent again."""
    transport = FolderBoard(tmp_path, cuts=[3, 4, 1, 6])
    runtime = opened(transport)
    sessions = {name: runtime.open(small_model(), None, 1, name == "a") for name in "ab"}
    watches = [stopwatch(session, FEEDS) for session in sessions.values()]
    turns = [[watch(0, 0, 7, 7) for watch in watches] for _ in range(12)]
    assert [len(turn) for pair in turns for turn in pair] == [7] * 24
    assert transport.starts == 5 and not transport.cuts
    assert sorted(transport.sent) == sorted([*{*transport.sent}, *["bench.py"] * 4])


def test_what_was_measured_is_remembered(tmp_path: Path, opened: Opened) -> None:
    transport = FolderBoard(tmp_path / "board")
    runtime, made = opened(transport), []

    def value(threads: int = 1, what: str = "w", feeds: dict[str, np.ndarray] = FEEDS, model: str = "relu") -> object:
        found = {"relu": small_model(), "other": _other()}[model]
        runner = runtime.open(found, None, threads, True)
        return remembered([runner], feeds, what, lambda: made.append(1) or len(made))

    first = [value(), value(2), value(what="v"), value(feeds={"input": FEEDS["input"] + 1}), value(model="other")]
    assert first == [1, 2, 3, 4, 5]
    assert [value(), value(2), value(what="v")] == [1, 2, 3] and len(made) == 5
    other = replace(runtime.board.facts, state=("a slower clock",))
    runtime.board.__dict__["facts"] = other
    changed = [runtime.open(small_model(), None, 1, True)]
    del runtime.board.identity
    assert remembered(changed, FEEDS, "w", lambda: 6) == 6
    here = [Session(small_model())]
    assert [remembered(here, FEEDS, "w", lambda n=n: n) for n in (7, 8)] == [7, 8]
    (file, *_) = (tmp_path / "cache").rglob("*.json")
    for damaged in (tmp_path / "cache").rglob("*.json"):
        damaged.write_text("{")
    assert value() == 6 and file.is_file()


def _other() -> onnx.ModelProto:
    model = small_model()
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    return model


def test_files_go_with_the_last_that_needs_them(tmp_path: Path, opened: Opened) -> None:
    transport = FolderBoard(tmp_path)
    runtime = opened(transport)

    def files() -> int:
        runtime.board.link.ask("facts", provider=CPU)
        return len([path for path in transport.folder.iterdir() if path.suffix != ".py"])

    one, same = (runtime.open(small_model(), None, 1, True) for _ in range(2))
    for runner in (one, same):
        stopwatch(runner, FEEDS)
    assert files() == 2
    del one, runner
    assert files() == 2
    stopwatch(same, FEEDS)
    del same
    assert files() == 1  # the inputs
    runtime.board.link.close()
    assert not transport.folder.exists()


def test_a_damaged_file_is_sent_again(tmp_path: Path, opened: Opened) -> None:
    transport = FolderBoard(tmp_path, damages=2)
    assert len(stopwatch(opened(transport).open(small_model(), None, 1, True), FEEDS)(0, 0, 3, 3)) == 3
    assert len(transport.sent) == 5
    transport = FolderBoard(tmp_path, damages=99)
    with pytest.raises(BoardError, match="arrived damaged 3 times"):
        stopwatch(opened(transport).open(small_model(), None, 1, True), FEEDS)


def test_a_connection_that_stays_away_ends_in_one_line(tmp_path: Path, opened: Opened) -> None:
    with pytest.raises(BoardError, match="board cannot be reached: no route to host"):
        opened(FolderBoard(tmp_path, reachable=False))
    transport = FolderBoard(tmp_path)
    runtime = opened(transport)
    transport.cuts = [0] * 20
    runtime.board.link._lost(1, "cut")
    with pytest.raises(BoardError, match=f"lost {links.TRIES} times in a row"):
        runtime.board.link.ask("facts", provider=CPU)


class EndsEarly(FolderBoard):
    """What runs there has ended before it is asked anything."""

    def start(self, script: str, errors: BinaryIO) -> subprocess.Popen[bytes]:
        talk = super().start(script, errors)
        talk.wait()
        return talk


def test_what_a_board_lacks_is_named(tmp_path: Path, opened: Opened) -> None:
    with pytest.raises(BoardError, match=r"has no onnxruntime: install it there"):
        opened(FolderBoard(tmp_path, python=[sys.executable, "-I", "-S"]))
    no_python = ["sh", "-c", "echo 'sh: nopy: not found' >&2; exit 127"]
    for board in (FolderBoard, EndsEarly):
        with pytest.raises(
            BoardError, match=r"has no such Python \(sh: nopy: not found\): install python3, or name it"
        ):
            opened(board(tmp_path, python=no_python))
    with pytest.raises(ModelError, match="its onnxruntime has no CUDAExecutionProvider, only"):
        Board(FolderBoard(tmp_path), "CUDAExecutionProvider").link.close()
    unknown = small_model()
    unknown.graph.node[0].op_type = "Unknown"
    with pytest.raises(ModelError, match=r"board: .*Unknown"):
        stopwatch(opened(FolderBoard(tmp_path)).open(unknown, None, 1, True), FEEDS)


def test_one_job_measures_at_a_time(tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = opened(FolderBoard(tmp_path))
    impatient = tmp_path / "bench.py"
    impatient.write_text(Path(bench.__file__).read_text().replace("_BUSY_SECONDS = 90.0", "_BUSY_SECONDS = 0.1"))
    monkeypatch.setattr(bench, "__file__", str(impatient))
    with pytest.raises(ModelError, match="another hqp measures there now"):
        Board(FolderBoard(tmp_path), CPU)
    assert runtime.thread_counts()


def test_the_target_is_the_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 7 bits where its processor needs them; threads up to its cores; no times of emulations."""
    monkeypatch.setattr(boards, "transport_of", lambda _: FolderBoard(tmp_path))
    asked = Link.ask

    def facts(link: Link, do: str, **what: object) -> object:
        found = asked(link, do, **what)
        return {**found, **pretended} if do == "facts" else found

    monkeypatch.setattr(Link, "ask", facts)
    for machine, flags, expected in (
        ("aarch64", [], False),
        ("x86_64", ["avx2"], True),
        ("x86_64", ["avx_vnni"], False),
    ):
        pretended = {"machine": machine, "flags": flags, "cores": 6, "processor": "a chip"}
        target = target_on("onnxruntime", "a board")
        assert isinstance(target.runtime, OnBoard)
        assert target.reduced_range is expected and target.runtime.thread_counts() == (1, 2, 4, 0)
        assert target.runtime.machine((1, 0), "r").processor == "a chip, 6 cores"
        target.runtime.board.link.close()
        boards.board_of.cache_clear()
    for name in ("openvino", "tensorrt"):
        with pytest.raises(UsageError, match=f"with target {name}: a board times models by onnxruntime alone"):
            target_on(name, "a board")


@pytest.mark.parametrize(
    "address",
    [
        *("ssh://-oProxyCommand=x", "ssh://a@-b", "ssh://h;ls", "ssh://$(ls)", "ssh://u:p@h", "ssh://u%20v@h"),
        *("ssh://h/x", "ssh://h?x=1", "ssh://", "ssh://h:port", "http://h", "h"),
    ],
)
def test_addresses_that_make_no_sense_are_refused(address: str) -> None:
    with pytest.raises(UsageError):
        transport_of(address)


def test_ssh_is_told_no_more_than_the_address_says() -> None:
    board = transport_of("ssh://pi@10.0.0.2:2222?python=~/my env/bin/python;ls")
    assert board.name == "pi@10.0.0.2:2222"
    assert vars(board)["host"] == "pi@10.0.0.2" and vars(board)["port"] == 2222
    assert board._python == "~/'my env/bin/python;ls'"  # type: ignore[attr-defined]
    assert transport_of("ssh://jetson").name == "jetson"


@pytest.mark.parametrize("made", ["None", "object()"])
def test_what_a_file_gives_must_be_a_transport(tmp_path: Path, made: str) -> None:
    (tmp_path / "dev.py").write_text(f"def board(device):\n    return {made}\n")
    with pytest.raises(UsageError, match="expected a transport, with name, prepare, send and start"):
        transport_of(f"{tmp_path / 'dev.py'}:board")


def test_hqp_toml_names_no_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())
    (tmp_path / "hqp.toml").write_text('[benchmark]\ndevice = "ssh://h"\n')
    assert hqp(monkeypatch, "benchmark", "model.onnx") == 2
    assert "names a machine to connect to" in capfd.readouterr().err


MINE = """
from pathlib import Path
from typing import BinaryIO
from folder_board import FolderBoard

def board(device):
    return FolderBoard(Path("board"), cuts=[20, 9])
"""


def test_the_main_job_with_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())
    np.savez(tmp_path / "data.npz", **small_data())
    device = ("--device", "mine.py:board")
    monkeypatch.setattr("hqp_onnx.quantization.float_nodes.SECONDS", 1.0)
    monkeypatch.setattr("hqp_onnx.quantization.float_nodes.RUNS", 0)
    data = ("--calib", "data.npz", "--val", "data.npz", "--max-drop", "0.5", "--no-build", "--quiet")
    assert hqp(monkeypatch, "optimize", "model.onnx", *data, *device, "-o", "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["device"] == "mine.py:board" and " on board (" in report["machine"]["runtime"]
    assert any(note.startswith("times are of board; all else was computed here") for note in report["notes"])
    assert hqp(monkeypatch, "check", "out", "--min-speedup", "0.01") == 0
    words = ("benchmark", "model.onnx", "out/pruned.onnx", "--json", "found.json", *device)
    assert hqp(monkeypatch, *words) == 0
    assert json.loads((tmp_path / "found.json").read_text())["device"] == "mine.py:board"
    boards.board_of("mine.py:board", CPU).link.close()
    assert not list((tmp_path / "board").glob("*/"))
