"""tools/check_traps.py, on the quickest of its rows: what docs/metrics.md says is printed, is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("check_traps", ROOT / "tools" / "check_traps.py")
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
PAGE = dict(re.findall(r"^\| (.+?) \| `((?:warning|error): .+)` \|$", (ROOT / "docs" / "metrics.md").read_text(), re.M))


def same(line: str) -> str:
    """Without numbers, which differ from machine to machine."""
    return re.sub(r"\d+(\.\d+)?", "#", line)


@pytest.mark.slow
def test_the_page_says_what_is_printed(tmp_path: Path) -> None:
    tool.make_data(tmp_path)
    rows = list(tool.traps(tmp_path))
    assert [what for what, *_ in rows] == list(PAGE)
    for what, command, about in rows:
        assert same(tool.line_of(command, about, tmp_path)) == same(PAGE[what]), what


def test_every_row_of_the_tool_is_on_the_page(tmp_path: Path) -> None:
    assert [what for what, *_ in tool.traps(tmp_path)] == list(PAGE)
    assert all(about in PAGE[what] for what, _, about in tool.traps(tmp_path))
