"""A command that is asked to end does so in one line, which names the command that goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_model import small_data, small_model

from hqp_onnx.cli import interruption

DATA = ("--calib", "data.npz", "--val", "data.npz")
SLOWLY = ("--objective", "sparsity", "--search", "linear", "--step", "0.02", "--max-drop", "1", "--multiple-of", "1")
METRIC = """
import time

def resting(outputs, targets, inputs):
    time.sleep(0.01)
    return (outputs["logits"].argmax(1) == targets["labels"]).astype(float)
"""
"""Many verdicts follow the first, each of a tenth of a second: the command has not ended when the signal comes."""


def _heard() -> None:
    """In a child: what a shell starts in the background ignores SIGINT, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "hqp_onnx", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heard,
    )


_SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize("number", [signal.SIGINT, *_SLOW])
def test_the_command_that_is_named_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "a model.onnx")
    np.savez(tmp_path / "data.npz", **small_data(1000))
    (tmp_path / "metric.py").write_text(METRIC)
    wanted = ("--metric", "metric.py:resting", "--precision", "fp32", "-o", "out")
    command = started(tmp_path, "optimize", "a model.onnx", *DATA, *SLOWLY, *wanted)
    assert command.stderr is not None
    for line in command.stderr:
        if "units removed" in line:
            break
    command.send_signal(number)
    _, errors = command.communicate()
    assert command.returncode == 128 + number
    line = errors.strip().splitlines()[-1]
    assert line.startswith("error: interrupted; `hqp optimize 'a model.onnx'") and "Traceback" not in errors
    assert not list(tmp_path.rglob("*.tmp"))
    assert list((tmp_path / "out" / ".cache").iterdir())
    again = started(tmp_path, *shlex.split(line.split("`")[1])[1:])
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "fisher saliency: " not in errors and (tmp_path / "out" / "pruned.onnx").is_file()


def test_what_is_said_of_each_command() -> None:
    assert interruption.words(["prune", "m.onnx"], "prune") == "interrupted"
    assert interruption.words(["recover", "m.onnx"], "recover") == "interrupted"
    for words in (["recover", "--checkpoint", "a b"], ["recover", "--checkpoint=a b"]):
        assert f"`hqp {shlex.join(words)}` goes on" in interruption.words(words, "recover")
    assert "--resume --resume" not in interruption.words(["optimize", "--resume"], "optimize")


def test_signals_that_are_ignored_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_to.append(number))
    with interruption.ended_by_exception():
        pass
    assert not set_to


def test_a_signal_after_the_work_ends_the_process_at_once() -> None:
    """Nobody is left to catch what a handler raises while Python shuts down."""
    with interruption.ended_by_exception():
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_destructor_is_not_lost(number: signal.Signals) -> None:
    """Python prints what a destructor raises, and goes on."""
    code = (
        f"NUMBER = {int(number)}"
        + """
import signal, sys, time
from hqp_onnx.cli.interruption import ended_by_exception
from hqp_onnx.errors import Ended

class Removed:
    def __del__(self):
        signal.raise_signal(NUMBER)

try:
    with ended_by_exception():
        thing = Removed()
        del thing
        time.sleep(20)
except Ended as e:
    sys.exit(e.code)
except KeyboardInterrupt:
    sys.exit(130)
"""
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=_heard, check=False)
    assert found.returncode == 128 + number and not found.stderr
