"""What is said fits the terminal, with words and names whole; pipes get lines as they are."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from small_model import small_model

from hqp_onnx import inspect
from hqp_onnx.cli.output import say, wrapped
from hqp_onnx.cli.tables.latency import latency_table
from hqp_onnx.cli.tables.units import inspect_table
from hqp_onnx.comparison.found import short_names
from hqp_onnx.evaluation.latency import Latency
from hqp_onnx.steps.inspect import Inspection

TEXT = "a first word, and then very many more of them, one of which is averyverylongwordindeedthatcannotfit, so\n  b  c"


@pytest.mark.parametrize("width", [20, 31, 80])
def test_words_stay_whole(width: int) -> None:
    lines = wrapped(TEXT, width).split("\n")
    assert " ".join(" ".join(lines).split()) == " ".join(TEXT.split())
    assert all(len(line) <= width or " " not in line for line in lines)
    assert lines[-1] == "  b  c"


def test_a_list_of_names_keeps_its_columns() -> None:
    assert wrapped("  name   " + "word " * 8 + "end", 40).split("\n") == [
        "  name   word word word word word word",
        "         word word end",
    ]


def test_a_pipe_gets_lines_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    for stream, lines in ((io.StringIO(), 1), (Terminal(), 3)):
        monkeypatch.setattr(sys, "stdout", stream)
        say("word " * 20 + "end")
        assert len(stream.getvalue().strip().split("\n")) == lines


def shown(table: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_models_of_long_paths_are_told_apart() -> None:
    folder = "/home/somebody/projects/with/a/long/path/to/the/models/of/this/year"
    names = [f"{folder}/{run}/int8.onnx" for run in ("before", "after")]
    latency = Latency(1.234, 1.1, 1.3, 1.0, 20)
    text = shown(latency_table(dict.fromkeys(names, latency), dict.fromkeys(names, 10**6), "onnxruntime"), 80)
    assert "before/int8.onnx" in text and "after/int8.onnx" in text and "…" not in text
    assert short_names(["a/b/c.onnx", "a/b/d.onnx", "e/b/f.onnx"])["e/b/f.onnx"] == "f.onnx"
    assert list(short_names(["x/a/m", "x/b/m", "x/m"]).values()) == ["a/m", "b/m", "m"]


def test_units_are_shown_with_whole_names() -> None:
    found = inspect(small_model())
    assert isinstance(found, Inspection)
    wide, narrow = (shown(inspect_table(found, named), 80) for named in (None, 1))
    for group in found.groups:
        names = [f"{member.tensor}[{member.axis}]" for member in group.members]
        assert all(name in wide for name in names)
        assert len(names) == 1 or f"{names[0]} and {len(names) - 1} more" in narrow
    reason = next(iter(next(group.frozen for group in found.groups if group.frozen).values()))
    assert reason in wide and reason in narrow
