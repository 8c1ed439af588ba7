"""The page in headless Chromium, where there is one; and pages that are wrong, to see that the checks see it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))
from check_page import faults
from chromium import program

pytestmark = pytest.mark.skipif(program() is None, reason="no Chromium is installed")


def test_a_report_fits_can_be_read_and_needs_no_mouse(folder: Path) -> None:
    assert list(faults(folder / "report.html")) == []


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<style>p { width: 800px; color: #999 } pre { outline: none } @media print { p { width: 300px } }"
        "@media (prefers-color-scheme: dark) { body { background: #111 } p { width: 800px; color: #777 } }</style>"
        "<p>wide and faint</p><pre tabindex=0>code</pre><pre>no stop</pre><details><summary>more</summary></details>"
    )
    assert [words.partition(": P ")[0] for words in faults(page)] == [
        "keyboard: pre 0 has no outline when it has the focus",
        "keyboard: Tab does not reach 1 of 3 summaries and commands: [1]",
        "overflow at 390 pixels",
        "contrast in light: 2.85",
        "contrast in dark: 4.22",
        "contrast in dark: 1.11: PRE code",
        "contrast in dark: 1.11: PRE no stop",
        "contrast in dark: 1.11: SUMMARY more",
    ]
