"""hqp.toml, completion, doctor, progress: what surrounds the commands."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint, version
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import pytest
from command import hqp
from rich.console import Console
from small_model import small_data, small_model

from hqp_onnx.cli import cli, config, output
from hqp_onnx.errors import UsageError
from hqp_onnx.ranking.saliencies import SALIENCIES
from hqp_onnx.steps.doctor import examine, instructions

NO_RESULT = {"completion", "help"}
LONG = {"optimize", "score", "prune", "quantize", "build", "evaluate", "benchmark", "compare", "recover", "check"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and data."""
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())
    np.savez(tmp_path / "data.npz", **small_data())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaves() -> dict[str, click.Command]:
    return {name: command for name, command in cli.commands.items() if not isinstance(command, click.Group)}


def test_every_result_can_be_json_and_all_long_work_quiet() -> None:
    options = {name: {word for p in command.params for word in p.opts} for name, command in leaves().items()}
    assert {name for name, words in options.items() if "--json" not in words} == NO_RESULT
    assert {name for name, words in options.items() if "--quiet" in words} == LONG


def test_every_option_can_stand_in_the_file(folder: Path) -> None:
    samples: dict[str, Any] = {"boolean": True, "integer": 1, "float": 0.5, "integer range": 1, "float range": 0.5}
    samples |= {"share": 0.5, "time": "10m", "epochs": "auto"}
    text, count = "", 0
    for name, command in leaves().items():
        text += f"[{name}]\n"
        for parameter in command.params:
            key = next((word[2:] for word in parameter.opts if word.startswith("--")), parameter.name)
            file = f"x{(*getattr(parameter.type, 'suffixes', ()), '')[0]}"
            known = getattr(parameter.type, "choices", (file,))[0]
            value = samples.get(parameter.type.name, known)
            text += f"{key} = {json.dumps([value] if parameter.multiple or parameter.nargs != 1 else value)}\n"
            count += 1
    (folder / "all.toml").write_text(text)
    found = config.read(folder / "all.toml", cli)
    assert count > 100
    assert sum(len(values) for values in found.values()) == count
    assert found["optimize"]["engine"] == "native"  # --gradients, by the name that the function takes


def test_the_file_sets_arguments_and_options_and_the_command_line_wins(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "hqp.toml").write_text('[prune]\nmodel = "model.onnx"\nsparsity = 0.5\nkeep = ["w1"]\n')
    assert hqp(monkeypatch, "prune", "-o", "a.onnx", "--json", "-") == 0
    first = json.loads(capfd.readouterr().out)
    assert (first["output"], first["prunable"], first["removed"]) == ("a.onnx", 24, 12)  # w1's 16 units stay
    assert hqp(monkeypatch, "prune", "--sparsity", "0.25", "-o", "b.onnx", "--json", "-") == 0
    assert json.loads(capfd.readouterr().out)["removed"] == 6
    (folder / "other.toml").write_text('[prune]\nmodel = "model.onnx"\nsparsity = 0.5\noutput = "c.onnx"\n')
    assert hqp(monkeypatch, "--config", "other.toml", "prune", "--json", "-") == 0
    assert json.loads(capfd.readouterr().out)["prunable"] == 40


FORBIDDEN = {
    "names code": ("evaluate", "metric", "x.py:f"),
    "loads data by code": ("evaluate", "data", "loader.py"),
    "loads data by a function": ("optimize", "calib", "./loader.py:load"),
    "compares on code": ("compare", "models", ["m.onnx", "m.onnx@x.py:target"]),
    "ranks by code": ("prune", "saliency", "x.py:rank"),
    "calibrates by code": ("quantize", "calibration", "x.py:f:3"),
    "runs on code": ("benchmark", "target", "x.py:t"),
    "loads an engine": ("benchmark", "models", ["a.engine"]),
    "writes a model": ("prune", "output", "a.onnx"),
    "writes a ledger": ("prune", "ledger", "a.json"),
    "writes JSON": ("doctor", "json", "a.json"),
    "writes a checkpoint": ("recover", "checkpoint", "a.npz"),
    "writes a cache": ("build", "timing-cache", "a"),
    "writes ranges": ("quantize", "calibration-out", "a"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_file_that_is_found_names_no_code_and_no_output(what: str, folder: Path) -> None:
    command, key, value = FORBIDDEN[what]
    (folder / "hqp.toml").write_text(f"[{command}]\n{key} = {json.dumps(value)}\n")
    with pytest.raises(UsageError, match=rf"hqp.toml: \[{command}\] {key} = .* names (code|what is written)"):
        config.read(None, cli)
    assert config.read(Path("hqp.toml"), cli)[command]


def test_what_is_found_is_a_regular_file(folder: Path) -> None:
    found = folder / "hqp.toml"
    found.mkdir()
    with pytest.raises(UsageError, match=r"hqp.toml: is a folder"):
        config.read(None, cli)
    found.rmdir()
    found.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"hqp.toml: is a device"):
        config.read(None, cli)
    found.unlink()
    found.symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"hqp.toml: no such file"):
        config.read(None, cli)


def test_a_file_that_is_found_names_no_extension_of_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("installed", "math:sqrt", SALIENCIES.group)
    monkeypatch.setitem(SALIENCIES.__dict__, "_installed", {"installed": [point]})
    (folder / "hqp.toml").write_text('[prune]\nsaliency = "installed"\n')
    with pytest.raises(UsageError, match="names code"):
        config.read(None, cli)


def test_commands_write_json_of_what_they_did(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> dict[str, Any]:
        assert hqp(monkeypatch, *arguments, "--json", "-", *(["--quiet"] if arguments[0] in LONG else [])) == 0
        shown = capfd.readouterr()
        assert shown.err == ""
        return dict(json.loads(shown.out))

    scores = said("score", "model.onnx", "--data", "data.npz", "-o", "s.npz")
    assert scores == {"output": "s.npz", "filters": {"w1": 16, "w2": 24, "w3": 16, "w4": 4}, "units": 44}
    int8 = said("quantize", "model.onnx", "--data", "data.npz", "-o", "int8.onnx")
    assert int8["bytes"] == (folder / "int8.onnx").stat().st_size
    assert int8["original_bytes"] == (folder / "model.onnx").stat().st_size
    loader = said("data-loader", "data.npz", "--model", "model.onnx", "--batch", "4", "-o", "loader.py")
    assert loader == {"output": "loader.py", "batches": 6, "batch_size": 4}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_hqp(
    shell: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert hqp(monkeypatch, "completion", shell) == 0
    script = capfd.readouterr().out
    assert f"_HQP_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_values_and_files(tmp_path: Path) -> None:
    command = tmp_path / "hqp"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hqp_onnx "$@"\n')
    command.chmod(0o755)
    lines = ("hqp optimize --saliency l", "hqp optimize --calib ''")
    ask = [
        f"COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _hqp_completion hqp\n"
        'echo "${COMPREPLY[*]}"\n'
        for line in lines
    ]
    script = 'compopt() { COMPREPLY=("files"); }\neval "$(hqp completion bash)"\n' + "".join(ask)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["l1 l2", "files"], done.stderr


def test_doctor_reports_what_is_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    providers = onnxruntime.get_available_providers()  # without plug-ins, which doctor registers
    assert hqp(monkeypatch, "doctor", "--json", "-") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["versions"]["onnxruntime"] == onnxruntime.__version__
    assert found["versions"]["numpy"] == version("numpy")
    assert found["versions"]["python"] == platform.python_version()
    assert found["providers"] == providers
    targets = {state["name"]: state for state in found["targets"]}
    assert targets["onnxruntime"]["ready"]
    assert targets["cuda"]["ready"] <= ("CUDAExecutionProvider" in found["providers"])
    assert all(state["ready"] or state["needs"] for state in targets.values())
    assert hqp(monkeypatch, "doctor") == 0
    shown = capfd.readouterr().out
    assert all(name in shown for name in targets)
    if not targets["cuda"]["ready"] and "CUDAExecutionProvider" not in found["providers"]:
        assert "hqp-onnx[onnxruntime-gpu]" in re.sub(r"[\s│]+", " ", shown)  # brackets are no markup


def test_doctor_names_a_broken_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = examine()
    states = {state.name: state for state in found.targets}
    assert not states["onnxruntime"].ready
    assert "pip install 'hqp-onnx[onnxruntime]'" in states["onnxruntime"].needs
    assert found.providers == ()


def test_instructions_are_read_from_cpuinfo(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu sse avx2 avx512_vnni\n")
    assert list(instructions(info)) == ["avx2", "avx512_vnni"]
    info.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert list(instructions(info)) == ["asimddp", "i8mm"]
    assert instructions(tmp_path / "none") == {}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(output.time, "perf_counter", lambda: self.now)


def test_piped_progress_is_lines_with_rate_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with output.Display(False, Console(file=stream, width=80)) as display:
        for done in range(1, 101):
            clock.now += 1.0
            display("calibration", done, 100)
        for _ in range(2):
            clock.now += 2.0
            display("evaluation", 50, 50)
        clock.now += 40.0  # work in front of a stage is no part of its rate
        for done in (10, 20, 30):
            clock.now += 20.0
            display("recovery", done, 30)
    lines = [line for line in stream.getvalue().splitlines() if line]
    assert lines == [
        "calibration: 31 of 100, 1/s, 69 s left",
        "calibration: 62 of 100, 1/s, 38 s left",
        "calibration: 93 of 100, 1/s, 7 s left",
        "calibration: 100 in 100.0 s, 1/s",
        "recovery: 20 of 30, 0.5/s, 20 s left",
        "recovery: 30 in 100.0 s, 0.5/s",
    ]


def test_a_terminal_shows_a_bar_with_rate_and_remaining_time() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True, color_system=None)
    times = iter(np.arange(0, 1000, 0.5).tolist())
    console.get_time = lambda: next(times)  # type: ignore[method-assign]
    with output.Display(False, console) as display:
        for done in range(1, 11):
            display("saliency", done, 40)
            display._bars.refresh()
    shown = stream.getvalue()
    assert "saliency" in shown
    assert "10/40" in shown
    rate, minutes, seconds = re.findall(r"([\d.]+)/s 0:(\d\d):(\d\d)", shown)[-1]
    assert float(rate) * (60 * int(minutes) + int(seconds)) == pytest.approx(40 - 10, abs=1)


def test_quiet_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with output.Display(True) as display:
        display("saliency", 1, 1)
    assert capfd.readouterr() == ("", "")
