"""What anything raises is one line and the right exit code; arguments of the facade are held to their types."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from command import hqp
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx import registry
from hqp_onnx.boundary import boundary, require_types
from hqp_onnx.cli import cli, output
from hqp_onnx.errors import DataError, FileError, HqpError, LimitError, PluginError, UsageError

ROOT = Path(__file__).parents[1]


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "out/int8.onnx")


def nested(depth: int = 0) -> None:
    nested(depth + 1)


CASES: dict[str, tuple[Callable[[], object], type[HqpError], str]] = {
    "system": (full, FileError, r"^out/int8.onnx: No space left on device$"),
    "stream": (lambda: os.write(999, b"x"), FileError, "^the system refuses: Bad file descriptor$"),
    "memory": (lambda: np.ones(1 << 50, np.uint8), LimitError, "^out of memory"),
    "recursion": (nested, LimitError, "nested too deeply"),
    "matrix": (lambda: np.linalg.cholesky(-np.eye(2)), DataError, "Matrix is not positive definite"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_system_and_libraries_raise(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    raises, error, words = CASES[name]
    with pytest.raises(error, match=words), boundary():
        raises()
    monkeypatch.setattr(cli.commands["doctor"], "callback", lambda json_file: raises())
    assert hqp(monkeypatch, "doctor") == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_a_fault_of_our_own_is_one_line_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(json_file: object) -> None:
        raise KeyError("no\nsuch")

    with pytest.raises(KeyError), boundary():
        broken(None)
    monkeypatch.setattr(cli.commands["doctor"], "callback", broken)
    assert hqp(monkeypatch, "doctor") == 1
    said = capfd.readouterr().err
    assert said.startswith("error: internal fault: KeyError: ") and "HQP_DEBUG=1" in said and said.count("\n") == 1
    monkeypatch.setenv("HQP_DEBUG", "1")
    assert hqp(monkeypatch, "doctor") == 1
    assert "Traceback" in capfd.readouterr().err


def test_what_a_users_file_raises_names_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import sys\ndef ends():\n    sys.exit(0)\n\n\ndef fails():\n    raise LookupError('gone')\n"
        "def leaves():\n    raise GeneratorExit('left')\n"
    )
    for name, words in (
        ("ends", "line 3: SystemExit: 0"),
        ("fails", "line 7: LookupError: gone"),
        ("leaves", "line 9: GeneratorExit: left"),
    ):
        function = registry.load_from_file(f"{file}:{name}")
        with pytest.raises(PluginError, match=f"mine.py, {words}"), boundary():
            function()


def test_two_packages_of_one_name_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made: registry.Registry[object] = registry.Registry("thing", "hqp_onnx.things")
    points = [registry.EntryPoint("same", "math:sqrt", made.group), registry.EntryPoint("same", "math:exp", made.group)]
    names = iter(["acme", "other"] * 2)
    monkeypatch.setattr(registry, "_package", lambda point: next(names))
    made.__dict__["_installed"] = {"same": points}
    with pytest.raises(UsageError, match="thing 'same' comes from acme and other: remove all but one"):
        made.get("same")


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [3, np.int64(3)], ["3", 3.5, True, None]),
        (float, [3, 0.5, np.float32(1)], ["0.5", True, None]),
        (bool, [True, np.bool_(False)], [1, "yes"]),
        (str | None, ["x", None], [3, b"x"]),
        (str | Path, ["x", Path("x")], [3, None]),
        (Literal["kl", "mse"] | None, ["kl", None], ["l1", 3]),
        (tuple[str, ...], [("a",), ["a"], "a", ()], [3, ("a", 3), None]),
        (Sequence[str | Path], [["a", Path("b")]], [[3]]),
        (Callable[[], None], [print, np.ones], [3, "print", None]),
    ],
)
def test_plain_arguments_are_what_their_annotations_say(hint: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        require_types({"x": value}, {"x": hint})
    for value in bad:
        with pytest.raises(UsageError, match=r"^x is .*: expected "):
            require_types({"x": value}, {"x": hint})


def test_the_facade_names_the_argument() -> None:
    model: Any = small_model()
    calls: list[tuple[str, Callable[[], object]]] = [
        ("sparsity: 'half' is no share", lambda: hqp_onnx.prune(model, sparsity="half")),
        ("seed is 1.5: expected a whole number", lambda: hqp_onnx.prune(model, 0.5, seed=1.5)),  # type: ignore[arg-type]
        ("threads is 'a'", lambda: hqp_onnx.benchmark([model], threads="a")),  # type: ignore[arg-type]
        ("step: 'None' is no share", lambda: hqp_onnx.Options(model, {}, {}, "o", step=None)),  # type: ignore[arg-type]
        ("preprocess is for data", lambda: hqp_onnx.score(model, saliency="l2", preprocess="p.json")),
        ("preprocess is for data", lambda: hqp_onnx.prune(model, 0.5, preprocess="p.json")),
        ("refit needs calibration data", lambda: hqp_onnx.prune(model, 0.5, refit="in-order")),
        ("'abc' is no number", lambda: hqp_onnx.quantize(model, small_data(), calibration="percentile:abc")),
    ]
    for words, call in calls:
        with pytest.raises(UsageError, match=words):
            call()


def test_names_cannot_steer_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = small_model()
    evil = "w\x1b]0;owned\x07\x1b[2J\x9b5m\u202e[bold]"
    for node in model.graph.node:
        node.input[:] = [evil if name == "w2" else name for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = evil if tensor.name == "w2" else tensor.name
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert hqp(monkeypatch, "inspect", str(tmp_path / "m.onnx")) == 0
    assert (
        hqp(monkeypatch, "prune", str(tmp_path / "m.onnx"), "--sparsity", "0.1", "--keep", evil, "-o", "x\x1b[2J/") == 2
    )
    shown = capfd.readouterr()
    assert r"\x1b]0;owned\x07" in shown.out and "[bold]" in shown.out
    assert not set("\x1b\x07\x9b\u202e") & set(shown.out + shown.err)
    assert output.printable("é 漢 ×\n") == "é 漢 ×\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_stdout_that_takes_nothing_is_one_line() -> None:
    hqp_command = f"{sys.executable} -m hqp_onnx doctor --json -"
    for command in (
        f"{hqp_command} > /dev/full",
        f"{hqp_command} >&-",
        f"{hqp_command} | true; exit ${{PIPESTATUS[0]}}",
    ):
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, text=True, capture_output=True, check=False)
        assert done.returncode == 2, command
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (command, done.stderr)
