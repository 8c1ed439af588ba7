"""Pages of results: what a tool printed, below the command that made it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnxruntime
import pytest

from hqp_onnx.runtimes.machine import processor

sys.path.append(str(Path(__file__).parents[2] / "tools"))
from result_page import origin, recorded


def test_what_is_printed_is_in_the_page_and_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "results" / "speed.md"
    with recorded(page, "Speed", ["tools/bench.py", "--page", str(page), "--step", "1/32", "-o", "elsewhere"]):
        sys.stdout.write("| model | ms |\n|---|---|\n")
        assert not page.exists()
        sys.stdout.write("| a | 1.5 |\n")
    assert capsys.readouterr().out == "| model | ms |\n|---|---|\n| a | 1.5 |\n"
    title, made, table = page.read_text().split("\n\n")
    assert (title, table) == ("# Speed", "| model | ms |\n|---|---|\n| a | 1.5 |\n")
    said = re.fullmatch(r"Written by `python tools/(.+)` on \d{4}-\d\d-\d\d: (.+), onnxruntime (.+)\.", made)
    assert said and said.groups() == ("bench.py --step 1/32", processor(), onnxruntime.__version__)


@pytest.mark.parametrize("given", ["-o x", "--output x", "--output=x", "--page x", "--page=x", "-ox", "-o=x"])
def test_where_things_went_is_left_out(given: str) -> None:
    assert "`python tools/bench.py --quick a`" in origin(["tools/bench.py", "--quick", *given.split(), "a"])


def test_what_fails_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError), recorded(tmp_path / "speed.md", "Speed"):
        raise ValueError
    assert not (tmp_path / "speed.md").exists()


def test_without_a_page_it_is_only_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with recorded(None, "Speed"):
        sys.stdout.write("done\n")
    assert capsys.readouterr().out == "done\n"
