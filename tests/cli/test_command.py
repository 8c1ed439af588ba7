"""What is missing is said at once; options are listed once, in groups; shares may be percentages."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command import hqp

from hqp_onnx.cli import cli
from hqp_onnx.cli.command import _OTHERS
from hqp_onnx.cli.parameter_types import SHARE

COMMANDS = sorted(name for name, command in cli.commands.items() if not isinstance(command, click.Group))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimize", "missing: MODEL, --output, --data (or --calib and --val)"),
        ("optimize m.onnx", "missing: --output, --data (or --calib and --val)"),
        ("optimize m.onnx --data d", "missing: --output"),
        ("optimize --calib c --val v -o out", "missing: MODEL"),
        ("optimize --calib c -o out", "missing: MODEL, --val"),
        ("recover", "missing: STUDENT, --teacher, --data, --output"),
    ],
)
def test_all_that_is_missing_is_named_at_once(line: str, said: str) -> None:
    done = CliRunner().invoke(cli, line.split())
    assert done.exit_code == 2
    assert done.output.strip().endswith(f"Error: {said}")


def test_help_names_its_topics() -> None:
    done = CliRunner().invoke(cli, ["help"])
    begins = [line.split(":")[0].split() for line in done.output.splitlines()]
    assert done.exit_code == 0 and len(begins) > 1
    assert all(CliRunner().invoke(cli, words[1:]).exit_code == 0 for words in begins)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_once(name: str) -> None:
    text = CliRunner().invoke(cli, [name, "--help"], terminal_width=80).output
    listed = re.split(r"\n(?:Main options|Options):", text)[-1]
    for option in cli.commands[name].params:
        if isinstance(option, click.Option):
            flag = max(option.opts, key=len)
            assert len(re.findall(rf"^  (?:-\w, )?{re.escape(flag)}\b(?!-)", listed, re.M)) == 1, flag
    assert max(map(len, text.splitlines())) <= 80


def test_the_five_options_that_matter_come_first() -> None:
    text = CliRunner().invoke(cli, ["optimize", "--help"]).output
    first = text.partition("Main options:")[2].partition("\n\n")[0]
    assert re.findall(r"^  (?:-\w, )?(--[\w-]+)", first, re.M) == [
        "--data",
        "--max-drop",
        "--target",
        "--metric",
        "--output",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_a_group(name: str) -> None:
    assert f"\n{_OTHERS}:" not in CliRunner().invoke(cli, [name, "--help"]).output


@pytest.mark.parametrize("words", [[], ["setup"]])
def test_without_a_command_there_is_help(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert hqp(monkeypatch, *words) == 2
    shown = capfd.readouterr()
    assert shown.err == ""
    wanted = CliRunner().invoke(cli, [*words, "--help"], prog_name="hqp").output
    assert "".join(shown.out.split()) == "".join(wanted.split())  # lines may be broken elsewhere
    assert shown.out.startswith("Usage: hqp") and len(shown.out.splitlines()) > 8


def test_commands_are_listed_in_order_with_whole_summaries() -> None:
    text = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    listed = text.partition("Make a model faster:")[2]
    assert "..." not in listed and max(map(len, text.splitlines())) <= 80
    names = re.findall(r"^  ([a-z][\w-]*)  ", listed, re.M)
    assert names == list(cli.commands) and names[:2] == ["inspect", "optimize"]
    assert " ".join(listed.split()).count("exit code 0, or 4 where one is missed.") == 1


def test_completion_says_where_scripts_go_a_line_each() -> None:
    text = CliRunner().invoke(cli, ["completion", "--help"]).output
    assert "\\b" not in text
    assert re.findall(r"^  (bash|zsh|fish): +hqp completion", text, re.M) == ["bash", "zsh", "fish"]


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.5 %", 0.005), ("0.25", 0.25), (0.1, 0.1), ("95%", 0.95)])
def test_a_share_may_be_a_percentage(text: object, value: float) -> None:
    assert SHARE.convert(text, None, None) == pytest.approx(value)


def test_what_is_no_share_is_said() -> None:
    done = CliRunner().invoke(cli, ["optimize", "m", "-o", "o", "--data", "d", "--confidence", "very"])
    assert "'very' is no share: expected a number, as 0.05, or a percentage, as 5%" in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(shell: str, tmp_path: Path) -> None:
    script = CliRunner().invoke(cli, ["completion", shell]).output
    assert "_HQP_COMPLETE" in script and "hqp" in script
    (tmp_path / "script").write_text(script)
    if shell == "bash":
        done = subprocess.run(["bash", "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
